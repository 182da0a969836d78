"""Action heads of policies by the name in `config.model.head`, and what all their distributions have in common.

- `joint`: the paper's policy head, a class of buttons and a class of camera movement (`joint_head.py`). The number of
  classes is the product over groups of exclusive keys, so it suits spaces of few keys or large groups.
- `factored`: every key and axis is an independent choice (`factored_head.py`); the inverse dynamics model's head, and
  the paper's comparison for policies (appendix C.2).
- `autoregressive`: every key depends on the keys before it (`autoregressive_head.py`), for spaces of many keys.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from jaxtyping import Float, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models import autoregressive_head, factored_head, joint_head
from vpt_jax.models.autoregressive_head import AutoregressiveActionHead, AutoregressiveDistribution
from vpt_jax.models.factored_head import FactoredActionHead, FactoredDistribution
from vpt_jax.models.joint_head import JointActionHead, JointDistribution

Logits = Mapping[str, Array]  # what a head returns, by name; leading axes are those of the frames
Action = Any  # a head's form of actions: `JointAction` or `FactoredAction`


class ActionDistribution(Protocol):
    """Distribution over the actions of a space, given by the logits of a head. All methods are pure functions."""

    @property
    def space(self) -> ActionSpace:
        """Space of the actions."""
        ...

    def encode(self, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]) -> Action:
        """The head's form of raw actions."""
        ...

    def decode(self, action: Action) -> tuple[UInt8[Array, "... keys"], Float[Array, "... axes"]]:
        """Raw actions: buttons, and movement of the axes."""
        ...

    def log_prob(self, logits: Logits, action: Action) -> Float[Array, "..."]:
        """Log-probability of actions, in nats."""
        ...

    def kl(self, p: Logits, q: Logits) -> Float[Array, "..."]:
        """KL divergence KL(p || q) in nats."""
        ...

    def entropy(self, logits: Logits) -> Float[Array, "..."]:
        """Entropy in nats."""
        ...

    def sample(self, rng: jax.Array, logits: Logits) -> Action:
        """Samples actions."""
        ...

    def argmax(self, logits: Logits) -> Action:
        """Greedy actions: the most probable choice of each part."""
        ...


class _Head(NamedTuple):
    module: type[nn.Module]
    distribution: type[Any]
    logit_shapes: Callable[[ActionSpace], dict[str, tuple[int, ...]]]  # of one frame


_HEADS = {
    "joint": _Head(JointActionHead, JointDistribution, joint_head.logit_shapes),
    "factored": _Head(FactoredActionHead, FactoredDistribution, factored_head.logit_shapes),
    "autoregressive": _Head(AutoregressiveActionHead, AutoregressiveDistribution, autoregressive_head.logit_shapes),
}
HEADS = tuple(_HEADS)


def logit_shapes(head: str, space: ActionSpace) -> dict[str, tuple[int, ...]]:
    """Shapes of a head's logits for one frame, by name."""
    return _HEADS[head].logit_shapes(space)


def make_head(head: str, space: ActionSpace, temperature: float) -> nn.Module:
    """Builds the module of a head, the submodule `actions`: features `[b, t, f]` in, logits out."""
    return _HEADS[head].module(space, temperature, name="actions")


@lru_cache(maxsize=16)
def make_distribution(head: str, space: ActionSpace) -> ActionDistribution:
    """Builds the distribution that a head's logits describe.

    Raises:
        ActionSpaceError: the space has too many joint classes for a joint head.
    """
    return _HEADS[head].distribution(space)
