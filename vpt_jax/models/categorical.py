"""Categorical distributions by their logits: log-probability, KL divergence, entropy and samples of the last axis."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from vpt_jax.actions.quantizer import Array

LOGIT_SCALE = 0.01  # of the heads' initial kernels: the initial policy is nearly uniform


def log_prob(logits: Float[Array, "... classes"], choice: Int[Array, "..."]) -> Float[Array, "..."]:
    """Log-probability of a class, in nats."""
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probs, choice[..., None], axis=-1)[..., 0]


def kl(p: Float[Array, "... classes"], q: Float[Array, "... classes"]) -> Float[Array, "..."]:
    """KL divergence KL(p || q) in nats."""
    log_p, log_q = jax.nn.log_softmax(p, axis=-1), jax.nn.log_softmax(q, axis=-1)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def entropy(logits: Float[Array, "... classes"]) -> Float[Array, "..."]:
    """Entropy in nats."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def sample(rng: jax.Array, logits: Float[Array, "... classes"]) -> Int[Array, "..."]:
    """Sample a class by inverting the cumulative distribution in two levels: a group of classes, then one of the group.

    Takes two random numbers for each choice, where `jax.random.categorical` takes one for each class: with thousands of
    classes, its random numbers cost a CPU more than a small policy.
    """
    classes = logits.shape[-1]
    size = math.isqrt(classes - 1) + 1
    weights = jnp.exp(logits - logits.max(-1, keepdims=True))
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, -classes % size)]
    groups = jnp.pad(weights, padding).reshape(*logits.shape[:-1], -1, size)
    uniform = jax.random.uniform(rng, (2, *logits.shape[:-1]))
    group = _invert(uniform[0], groups.sum(-1))
    chosen = jnp.take_along_axis(groups, group[..., None, None], axis=-2)[..., 0, :]
    return group * size + _invert(uniform[1], chosen)


def _invert(uniform: Float[Array, "..."], weights: Float[Array, "... n"]) -> Int[Array, "..."]:
    """First index at which the cumulative weight exceeds a share of the total: none of weight zero, up to rounding."""
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[..., -1]
    threshold = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))  # a product may round up
    return (cumulative <= threshold[..., None]).sum(-1)
