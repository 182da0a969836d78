"""Factored action head: each key up or down, and a bin for each axis, all independent (paper, appendix D).

The head of the inverse dynamics model, and the paper's comparison for policies (appendix C.2). Reference:
`lib/action_head.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models import categorical
from vpt_jax.models.layers import fan_in_normalized

FactoredLogits = dict[str, Float[Array, "... choices classes"]]


class FactoredAction(NamedTuple):
    """Keys and bins of every step."""

    buttons: UInt8[Array, "... keys"]
    bins: Int[Array, "... axes"]


def logit_shapes(space: ActionSpace) -> dict[str, tuple[int, ...]]:
    """Shapes of the logits of one frame: choices and classes of each, by head; without axes there is no `camera`."""
    shapes: dict[str, tuple[int, ...]] = {"buttons": (len(space.keys), 2)}
    return shapes | ({"camera": (len(space.axes), space.num_bins)} if space.axes else {})


def factored_logits(space: ActionSpace, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t choices classes"]]:
    """Linear layers of both heads, in float32; called within a compact module."""
    init, x = fan_in_normalized(categorical.LOGIT_SCALE), x.astype(jnp.float32)
    choices = logit_shapes(space)
    logits = {n: nn.Dense(k * c, kernel_init=init, name=n)(x) for n, (k, c) in choices.items()}
    return {n: logits[n].reshape(*x.shape[:-1], *shape) for n, shape in choices.items()}


class FactoredActionHead(nn.Module):
    """Factored action head; logits are divided by `temperature`, in float32."""

    space: ActionSpace = MINERL
    temperature: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t choices classes"]]:
        return {name: logits / self.temperature for name, logits in factored_logits(self.space, x).items()}


@dataclass(frozen=True)
class FactoredDistribution:
    """Distribution of independent choices; all quantities are sums over the choices."""

    space: ActionSpace = MINERL

    def encode(self, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]) -> FactoredAction:
        """Keys and bins of raw actions."""
        return FactoredAction(buttons, self.space.to_bins(camera))

    def decode(self, action: FactoredAction) -> tuple[UInt8[Array, "... keys"], Float[Array, "... axes"]]:
        """Raw actions of keys and bins."""
        return action.buttons, self.space.to_movement(action.bins)

    def log_prob(self, logits: FactoredLogits, action: FactoredAction) -> Float[Array, "..."]:
        """Log-probability of factored actions."""
        return sum_choices(categorical.log_prob(logits[head], chosen) for head, chosen in classes(self.space, action))

    def kl(self, p: FactoredLogits, q: FactoredLogits) -> Float[Array, "..."]:
        """KL divergence KL(p || q) in nats."""
        return sum_choices(categorical.kl(p[head], q[head]) for head in logit_shapes(self.space))

    def entropy(self, logits: FactoredLogits) -> Float[Array, "..."]:
        """Entropy in nats."""
        return sum_choices(categorical.entropy(logits[head]) for head in logit_shapes(self.space))

    def sample(self, rng: jax.Array, logits: FactoredLogits) -> FactoredAction:
        """Sample every choice."""
        rngs = jax.random.split(rng, 2)
        drawn = {h: jax.random.categorical(r, logits[h]) for r, h in zip(rngs, logit_shapes(self.space), strict=False)}
        return make_action(self.space, drawn)

    def argmax(self, logits: FactoredLogits) -> FactoredAction:
        """Most probable class of every choice."""
        return make_action(self.space, {head: logits[head].argmax(-1) for head in logit_shapes(self.space)})


def classes(space: ActionSpace, action: FactoredAction) -> list[tuple[str, Int[Array, "... choices"]]]:
    """Head and chosen classes, for every head of the space."""
    chosen = {"buttons": action.buttons.astype(int), "camera": action.bins}
    return [(head, chosen[head]) for head in logit_shapes(space)]


def make_action(space: ActionSpace, chosen: dict[str, Int[Array, "... choices"]]) -> FactoredAction:
    """Action of the chosen classes by head."""
    buttons = chosen["buttons"]
    bins = chosen["camera"] if space.axes else jnp.zeros((*buttons.shape[:-1], 0), buttons.dtype)
    return FactoredAction(buttons.astype(jnp.uint8), bins)


def sum_choices(parts: Iterable[Float[Array, "... choices"]]) -> Float[Array, "..."]:
    """Sum over the heads of sums over their choices."""
    return sum(part.sum(-1) for part in parts)
