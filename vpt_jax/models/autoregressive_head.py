"""Autoregressive action head: each key depends on the keys before it, for spaces of many keys (our addition).

The probability of a key is logistic in the frame's features and, by coefficients that also depend on the features, in
the keys before it. So presses that belong together (run and forward) are correlated without a class for each
combination: `keys^2 / 2` outputs in place of `2^keys`. Axes are independent given the frame, as in the factored head.
Such a model is a fully visible sigmoid belief network (Neal, 1992; Frey, 1998) whose weights are outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models import categorical, factored_head
from vpt_jax.models.factored_head import FactoredAction, FactoredDistribution, factored_logits
from vpt_jax.models.layers import fan_in_normalized

SAMPLES = 16  # of the estimates of `kl` and `entropy`

AutoregressiveLogits = dict[str, Float[Array, "..."]]  # `buttons`, `camera` as factored; `coupling` [..., keys, keys]


def logit_shapes(space: ActionSpace) -> dict[str, tuple[int, ...]]:
    """Shapes of the logits of one frame: those of the factored head, and the coupling."""
    return factored_head.logit_shapes(space) | {"coupling": (len(space.keys), len(space.keys))}


class AutoregressiveActionHead(nn.Module):
    """Autoregressive action head: the factored head's layers, and one for the coupling of the keys.

    `coupling` `[b, t, keys, keys]` is strictly lower triangular: what key j, if held, adds to the logit of key i > j.
    Logits are divided by `temperature`, in float32.
    """

    space: ActionSpace = MINERL
    temperature: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t _ _"]]:
        keys, x = len(self.space.keys), x.astype(jnp.float32)
        rows, columns = np.tril_indices(keys, -1)
        init = fan_in_normalized(categorical.LOGIT_SCALE)
        pairs = nn.Dense(len(rows), kernel_init=init, name="coupling")(x)
        coupling = jnp.zeros((*x.shape[:-1], keys, keys)).at[..., rows, columns].set(pairs)
        logits = factored_logits(self.space, x) | {"coupling": coupling}
        return {name: values / self.temperature for name, values in logits.items()}


@dataclass(frozen=True)
class AutoregressiveDistribution:
    """Distribution of keys that depend on the keys before them, and of independent axes.

    `log_prob` and `sample` are exact. `kl` and `entropy` sum over `2^keys` combinations, so they are estimated from
    `SAMPLES` samples of the keys: the conditional of every key is exact given the keys before it (Rao-Blackwellized).
    Estimates and their gradients are unbiased over random keys; the key is fixed, so that equal inputs give equal
    values.
    """

    space: ActionSpace = MINERL

    @property
    def _factored(self) -> FactoredDistribution:
        return FactoredDistribution(self.space)

    def encode(self, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]) -> FactoredAction:
        """Keys and bins of raw actions."""
        return self._factored.encode(buttons, camera)

    def decode(self, action: FactoredAction) -> tuple[UInt8[Array, "... keys"], Float[Array, "... axes"]]:
        """Raw actions of keys and bins."""
        return self._factored.decode(action)

    def log_prob(self, logits: AutoregressiveLogits, action: FactoredAction) -> Float[Array, "..."]:
        """Log-probability of factored actions."""
        return self._factored.log_prob(logits | {"buttons": _conditional(logits, action.buttons)}, action)

    def kl(self, p: AutoregressiveLogits, q: AutoregressiveLogits) -> Float[Array, "..."]:
        """Estimate of KL(p || q) in nats."""

        def divergence(held: UInt8[Array, "... keys"]) -> Float[Array, "..."]:
            return categorical.kl(_conditional(p, held), _conditional(q, held)).sum(-1)

        axes = categorical.kl(p["camera"], q["camera"]).sum(-1) if self.space.axes else 0
        return self._expectation(p, divergence) + axes

    def entropy(self, logits: AutoregressiveLogits) -> Float[Array, "..."]:
        """Estimate of the entropy in nats."""

        def entropy(held: UInt8[Array, "... keys"]) -> Float[Array, "..."]:
            return categorical.entropy(_conditional(logits, held)).sum(-1)

        axes = categorical.entropy(logits["camera"]).sum(-1) if self.space.axes else 0
        return self._expectation(logits, entropy) + axes

    def sample(self, rng: jax.Array, logits: AutoregressiveLogits) -> FactoredAction:
        """Sample the keys in their order, and the axes."""
        keys_rng, axes_rng = jax.random.split(rng)
        noise = jax.random.uniform(keys_rng, logits["buttons"].shape[:-1])
        threshold = jnp.log(noise) - jnp.log1p(-noise)
        held = _in_order(logits, threshold)
        if not self.space.axes:
            return FactoredAction(held, jnp.zeros((*held.shape[:-1], 0), jnp.int32))
        return FactoredAction(held, jax.random.categorical(axes_rng, logits["camera"]))

    def argmax(self, logits: AutoregressiveLogits) -> FactoredAction:
        """Most probable value of every key given those before it, and most probable bin of every axis (greedy)."""
        held = _in_order(logits, jnp.zeros(logits["buttons"].shape[:-1]))
        if not self.space.axes:
            return FactoredAction(held, jnp.zeros((*held.shape[:-1], 0), jnp.int32))
        return FactoredAction(held, logits["camera"].argmax(-1))

    def _expectation(self, logits: AutoregressiveLogits, value_of: Callable[[Array], Array]) -> Float[Array, "..."]:
        """Mean of a function of the keys over samples from `logits`, with the gradient of both."""
        keys_only = FactoredDistribution(ActionSpace(self.space.name, self.space.keys))

        def one(rng: jax.Array) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
            held = jax.lax.stop_gradient(self.sample(rng, logits).buttons)
            empty = jnp.zeros((*held.shape[:-1], 0), jnp.int32)
            chosen = FactoredAction(held, empty)
            log_prob = keys_only.log_prob({"buttons": _conditional(logits, held)}, chosen)
            return value_of(held), log_prob

        values, log_probs = jax.lax.map(one, jax.random.split(jax.random.key(0), SAMPLES))
        # Leave-one-out baseline: the score function's variance falls, and its mean stays.
        fixed = jax.lax.stop_gradient(values)
        advantage = (fixed - fixed.mean(0)) * SAMPLES / (SAMPLES - 1)
        return (values + advantage * (log_probs - jax.lax.stop_gradient(log_probs))).mean(0)


def _conditional(logits: AutoregressiveLogits, held: UInt8[Array, "... keys"]) -> Float[Array, "... keys 2"]:
    """Logits (up, down) of every key given the keys before it."""
    added = (logits["coupling"] * held[..., None, :]).sum(-1)
    return logits["buttons"].at[..., 1].add(added)


def _in_order(logits: AutoregressiveLogits, threshold: Float[Array, "... keys"]) -> UInt8[Array, "... keys"]:
    """Keys chosen one after the other: down where the log-odds, given the keys before, exceed the threshold."""
    odds = jnp.moveaxis(logits["buttons"][..., 1] - logits["buttons"][..., 0] - threshold, -1, 0)
    coupling = jnp.moveaxis(logits["coupling"], -1, 0)  # of key j on all others

    def choose(added: Float[Array, "... keys"], step: Any) -> tuple[Float[Array, "... keys"], Array]:
        i, own, on_others = step
        down = own + jnp.take(added, i, axis=-1) > 0
        return added + down[..., None] * on_others, down

    initial = jnp.zeros(logits["buttons"].shape[:-1])
    _, down = jax.lax.scan(choose, initial, (jnp.arange(len(odds)), odds, coupling))
    return jnp.moveaxis(down, 0, -1).astype(jnp.uint8)
