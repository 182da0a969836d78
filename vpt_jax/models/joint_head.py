"""Joint (hierarchical) action head: one class of buttons, one of camera movement (paper, appendices C.2 and E.3).

Reference: `lib/action_head.py`. `vpt_jax/actions/joint.py` has the classes.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8

from vpt_jax.actions.joint import JointAction, joint_from_raw, joint_tables, num_classes, raw_from_joint
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models import categorical
from vpt_jax.models.layers import fan_in_normalized

JointLogits = dict[str, Float[Array, "... classes"]]


def logit_shapes(space: ActionSpace) -> dict[str, tuple[int, ...]]:
    """Shapes of the logits of one frame: the number of classes by head."""
    return {head: (classes,) for head, classes in zip(JointAction._fields, num_classes(space), strict=True)}


class JointActionHead(nn.Module):
    """Joint action head: a linear layer for `buttons` and one for `camera`; logits / `temperature`, in float32."""

    space: ActionSpace = MINERL
    temperature: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t classes"]]:
        init = fan_in_normalized(categorical.LOGIT_SCALE)
        return {
            name: nn.Dense(classes, kernel_init=init, name=name)(x.astype(jnp.float32)) / self.temperature
            for name, (classes,) in logit_shapes(self.space).items()
        }


@dataclass(frozen=True)
class JointDistribution:
    """Distribution of joint actions; the camera's choice has no effect where the button class has the camera off."""

    space: ActionSpace = MINERL

    def __post_init__(self) -> None:
        joint_tables(self.space)  # raises if the space has too many classes

    def encode(self, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]) -> JointAction:
        """Joint classes of raw actions."""
        return joint_from_raw(self.space, buttons, camera)

    def decode(self, action: JointAction) -> tuple[UInt8[Array, "... keys"], Float[Array, "... axes"]]:
        """Raw actions of joint classes."""
        return raw_from_joint(self.space, action)

    def log_prob(self, logits: JointLogits, action: JointAction, mask_camera: bool = True) -> Float[Array, "..."]:
        """Log-probability of joint actions.

        The camera's log-probability is added only where the button class has the camera on (paper, appendix E.3). The
        released code always adds it: `mask_camera=False`.
        """
        buttons = categorical.log_prob(logits["buttons"], action.buttons)
        camera = categorical.log_prob(logits["camera"], action.camera)
        if mask_camera:
            camera = jnp.where(self._has_camera[action.buttons], camera, 0)
        return buttons + camera

    def kl(self, p: JointLogits, q: JointLogits) -> Float[Array, "..."]:
        """KL divergence KL(p || q) in nats; the camera's is weighted by the probability that `p` has the camera on."""
        camera = categorical.kl(p["camera"], q["camera"])
        return categorical.kl(p["buttons"], q["buttons"]) + self._camera_probability(p) * camera

    def entropy(self, logits: JointLogits) -> Float[Array, "..."]:
        """Entropy in nats; the camera is weighted as in `kl`."""
        buttons, camera = (categorical.entropy(logits[head]) for head in JointAction._fields)
        return buttons + self._camera_probability(logits) * camera

    def sample(self, rng: jax.Array, logits: JointLogits) -> JointAction:
        """Sample joint actions; the camera is the null class where the button class has the camera off."""
        rngs = jax.random.split(rng, len(JointAction._fields))
        samples = (categorical.sample(key, logits[h]) for key, h in zip(rngs, JointAction._fields, strict=True))
        return self._mask_camera(*samples)

    def argmax(self, logits: JointLogits) -> JointAction:
        """Greedy joint actions: the argmax of each head; the camera is null where the class has the camera off."""
        return self._mask_camera(*(logits[head].argmax(-1) for head in JointAction._fields))

    @property
    def _has_camera(self) -> Array:
        return jnp.asarray(joint_tables(self.space).has_camera)

    def _camera_probability(self, logits: JointLogits) -> Float[Array, "..."]:
        """Probability of the button classes that have the camera on."""
        return (jax.nn.softmax(logits["buttons"], axis=-1) * self._has_camera).sum(-1)

    def _mask_camera(self, buttons: Int[Array, "..."], camera: Int[Array, "..."]) -> JointAction:
        null = joint_tables(self.space).null_camera
        return JointAction(buttons, jnp.where(self._has_camera[buttons], camera, null))
