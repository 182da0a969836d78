"""Output heads: joint and factored action heads, and the running normalizer of the value head's targets.

Sources: paper appendices C.2, E.3 and G.1; reference `lib/action_head.py`, `lib/scaled_mse_head.py`,
`lib/normalize_ewma.py`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions.joint import JointAction, joint_tables, num_classes
from vpt_jax.actions.minerl import BUTTONS, CAMERA, MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.models.layers import fan_in_normalized

HEAD_CLASSES = {"buttons": num_classes(MINERL)[0], "camera": num_classes(MINERL)[1]}
FACTORED_CHOICES = {"buttons": (len(BUTTONS), 2), "camera": (2, CAMERA.num_bins)}  # number of choices, classes of each
LOGIT_SCALE = 0.01  # initial policy nearly uniform
VARIANCE_FLOOR = 1e-2
DEBIAS_FLOOR = 1e-5


class JointActionHead(nn.Module):
    """Joint action head: a linear layer for `buttons` and one for `camera`; logits / `temperature`, in float32."""

    temperature: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t classes"]]:
        init = fan_in_normalized(LOGIT_SCALE)
        return {
            name: nn.Dense(classes, kernel_init=init, name=name)(x.astype(jnp.float32)) / self.temperature
            for name, classes in HEAD_CLASSES.items()
        }


def joint_log_prob(
    logits: dict[str, Float[Array, "... classes"]], action: JointAction, mask_camera: bool = True
) -> Float[Array, "..."]:
    """Log-probability of joint actions.

    The camera's log-probability is added only where the button class has the camera on (paper, appendix E.3). The
    released code always adds it: `mask_camera=False`.
    """
    buttons = _select_log_prob(logits["buttons"], action.buttons)
    camera = _select_log_prob(logits["camera"], action.camera)
    if mask_camera:
        camera = jnp.where(jnp.asarray(joint_tables(MINERL).has_camera)[action.buttons], camera, 0)
    return buttons + camera


def joint_kl(
    p: dict[str, Float[Array, "... classes"]], q: dict[str, Float[Array, "... classes"]]
) -> Float[Array, "..."]:
    """KL divergence KL(p || q) in nats of two distributions of joint actions, given by their logits.

    Where the button class has the camera off, the camera's choice has no effect. So the camera's divergence is weighted
    by the probability that `p` has the camera on.
    """
    return _kl(p["buttons"], q["buttons"]) + _camera_probability(p) * _kl(p["camera"], q["camera"])


def joint_entropy(logits: dict[str, Float[Array, "... classes"]]) -> Float[Array, "..."]:
    """Entropy in nats of a distribution of joint actions; the camera is weighted as in `joint_kl`."""
    buttons, camera = (_entropy(logits[head]) for head in JointAction._fields)
    return buttons + _camera_probability(logits) * camera


def _camera_probability(logits: dict[str, Float[Array, "... classes"]]) -> Float[Array, "..."]:
    """Probability of the button classes that have the camera on."""
    return (jax.nn.softmax(logits["buttons"], axis=-1) * jnp.asarray(joint_tables(MINERL).has_camera)).sum(-1)


def sample_joint(rng: jax.Array, logits: dict[str, Float[Array, "... classes"]]) -> JointAction:
    """Sample joint actions; the camera is the null class where the button class has the camera off."""
    rngs = jax.random.split(rng, len(JointAction._fields))
    samples = (jax.random.categorical(key, logits[h]) for key, h in zip(rngs, JointAction._fields, strict=True))
    return _mask_camera(*samples)


def argmax_joint(logits: dict[str, Float[Array, "... classes"]]) -> JointAction:
    """Greedy joint actions: the argmax of each head; the camera is null where the button class has the camera off."""
    return _mask_camera(*(logits[head].argmax(-1) for head in JointAction._fields))


def _mask_camera(buttons: Int[Array, "..."], camera: Int[Array, "..."]) -> JointAction:
    return JointAction(
        buttons,
        jnp.where(jnp.asarray(joint_tables(MINERL).has_camera)[buttons], camera, joint_tables(MINERL).null_camera),
    )


def _kl(p: Float[Array, "... classes"], q: Float[Array, "... classes"]) -> Float[Array, "..."]:
    log_p, log_q = jax.nn.log_softmax(p, axis=-1), jax.nn.log_softmax(q, axis=-1)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def _entropy(logits: Float[Array, "... classes"]) -> Float[Array, "..."]:
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def _select_log_prob(logits: Float[Array, "... classes"], choice: Array) -> Float[Array, "..."]:
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probs, choice[..., None], axis=-1)[..., 0]


class FactoredActionHead(nn.Module):
    """Factored action head: each button up or down, and a bin for each camera axis, all independent.

    Logits are divided by `temperature`, in float32.
    """

    temperature: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t f"]) -> dict[str, Float[Array, "b t choices classes"]]:
        init, x = fan_in_normalized(LOGIT_SCALE), x.astype(jnp.float32)
        logits = {n: nn.Dense(k * c, kernel_init=init, name=n)(x) for n, (k, c) in FACTORED_CHOICES.items()}
        return {n: logits[n].reshape(*x.shape[:-1], *shape) / self.temperature for n, shape in FACTORED_CHOICES.items()}


def factored_log_prob(
    logits: dict[str, Float[Array, "... choices classes"]],
    buttons: UInt8[Array, "... 20"],
    camera_bins: Int[Array, "... 2"],
) -> Float[Array, "..."]:
    """Log-probability of factored actions: the sum over all 22 choices."""
    button_log_probs = _select_log_prob(logits["buttons"], buttons.astype(int))
    return button_log_probs.sum(-1) + _select_log_prob(logits["camera"], camera_bins).sum(-1)


class ValueNormalizer(NamedTuple):
    """Running mean and mean square of the value targets: an exponential moving average (EWMA) with bias correction.

    These are statistics, not trained parameters.
    """

    mean: Float[Array, " outputs"]
    mean_square: Float[Array, " outputs"]
    debias: Float[Array, ""]

    @classmethod
    def create(cls, outputs: int = 1) -> "ValueNormalizer":
        """Create a normalizer without any data: mean 0, variance at its floor."""
        return cls(jnp.zeros(outputs), jnp.zeros(outputs), jnp.zeros(()))

    def update(
        self, targets: Float[Array, "... outputs"], valid: Bool[Array, "..."], decay: float = 0.99999
    ) -> "ValueNormalizer":
        """Update the statistics with the valid targets of a batch; the whole batch is one step of the average."""
        count, flat = valid.sum(), targets.reshape(-1, targets.shape[-1]) * valid.reshape(-1, 1)
        mean, mean_square = (values.sum(0) / jnp.maximum(count, 1) for values in (flat, flat**2))
        batch = ValueNormalizer(mean, mean_square, jnp.ones(()))
        weight = jnp.where(count > 0, 1 - decay, 0)  # a batch without valid targets changes nothing
        return jax.tree.map(lambda old, new: (1 - weight) * old + weight * new, self, batch)

    def moments(self) -> tuple[Float[Array, " outputs"], Float[Array, " outputs"]]:
        """Mean and variance, with the correction of the bias towards the initial zeros."""
        debias = jnp.maximum(self.debias, DEBIAS_FLOOR)
        mean = self.mean / debias
        return mean, jnp.maximum(self.mean_square / debias - mean**2, VARIANCE_FLOOR)

    def normalize(self, values: Float[Array, "... outputs"]) -> Float[Array, "... outputs"]:
        """Normalize values to mean 0 and variance 1 of the targets."""
        mean, variance = self.moments()
        return (values - mean) / jnp.sqrt(variance)

    def denormalize(self, values: Float[Array, "... outputs"]) -> Float[Array, "... outputs"]:
        """Undo `normalize`: convert normalized values back to the unit of the targets."""
        mean, variance = self.moments()
        return values * jnp.sqrt(variance) + mean
