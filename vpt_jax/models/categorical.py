"""Categorical distributions by their logits: log-probability, KL divergence and entropy of the last axis."""

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
