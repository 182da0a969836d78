"""How well a policy predicts held-out play, beside what trivial predictors reach on the same frames."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int

from vpt_jax.actions import (
    BUTTONS,
    CAMERA,
    CLASS_HAS_CAMERA,
    NULL_CAMERA_CLASS,
    NUM_BUTTON_CLASSES,
    NUM_CAMERA_CLASSES,
    Array,
    JointAction,
    factored_from_joint,
    joint_from_raw,
)
from vpt_jax.data.batch import Batch
from vpt_jax.models.heads import joint_log_prob, most_probable
from vpt_jax.models.policy import Policy
from vpt_jax.models.transformer import Memory

if TYPE_CHECKING:  # a train step uses the marginal below on machines that read no dataset
    from vpt_jax.data.streams import Stream

COMMON_SHARE = 0.01  # a button counts in the mean F1 if it is held in more than this share of the frames


class Totals(NamedTuple):
    """Sums over frames, from which all metrics follow."""

    loss: Float[Array, ""]  # nats
    frames: Int[Array, ""]
    hits: Int[Array, "20"]  # predicted down, and down
    predicted: Int[Array, "20"]  # predicted down
    pressed: Int[Array, "20"]  # down
    camera_hits: Int[Array, ""]  # both bins right
    moving: Int[Array, ""]  # frames in which the camera moves
    moving_hits: Int[Array, ""]  # of these, both bins right


def count(loss: Float[Array, "..."], predicted: JointAction, actual: JointAction, valid: Bool[Array, "..."]) -> Totals:
    """Totals of some frames, given each frame's loss (nats) and predicted joint action."""
    (said, said_bins), (held, held_bins) = factored_from_joint(predicted), factored_from_joint(actual)
    said, held = ((buttons > 0) & valid[..., None] for buttons in (said, held))
    hit = (said_bins == held_bins).all(-1) & valid
    moving = (held_bins != CAMERA.null_bin).any(-1) & valid
    frames = tuple(range(valid.ndim))
    return Totals(
        (loss * valid).sum(), valid.sum(), (said & held).sum(frames), said.sum(frames), held.sum(frames),
        hit.sum(), moving.sum(), (hit & moving).sum(),
    )  # fmt: skip


def evaluation_step(policy: Policy, params: Any, carry: tuple[Memory, Totals], batch: Batch) -> tuple[Memory, Totals]:
    """Adds a batch to the totals."""
    memory, totals = carry
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    actual = joint_from_raw(batch.buttons, batch.camera)
    seen = count(-joint_log_prob(output.logits, actual), most_probable(output.logits), actual, batch.valid)
    return output.memory, jax.tree.map(jnp.add, totals, seen)


def evaluator(
    policy: Policy,
    batches: Callable[[], Iterable[Batch]],
    rows: int,
    by_rows: NamedSharding,
    baselines: Mapping[str, Mapping[str, float]],
) -> Callable[[Any], dict[str, float]]:
    """A function of the parameters that goes over all validation batches and returns `metrics`.

    They are called `valid/NAME`; those of the baselines stand beside them as `BASELINE/NAME`.

    Args:
        batches: starts a pass over the global batches.
        rows: of a batch.
        by_rows: how batches and memory lie on the mesh.
        baselines: their metrics, from `baseline_metrics`.
    """
    replicated = NamedSharding(by_rows.mesh, PartitionSpec())
    step = jax.jit(partial(evaluation_step, policy), out_shardings=(by_rows, replicated), donate_argnums=1)
    begin = jax.jit(lambda: (policy.initial_memory(rows), _no_totals()), out_shardings=(by_rows, replicated))

    def evaluate(params: Any) -> dict[str, float]:
        carry = begin()
        for batch in batches():
            carry = step(params, carry, batch)
        by_predictor = {"valid": metrics(jax.device_get(carry[1])), **baselines}
        return {f"{who}/{name}": value for who, figures in by_predictor.items() for name, value in figures.items()}

    return evaluate


def _no_totals() -> Totals:
    one, keys = jnp.zeros((), jnp.int32), jnp.zeros(len(BUTTONS), jnp.int32)
    return Totals(jnp.zeros(()), one, keys, keys, keys, one, one, one)


def metrics(totals: Totals) -> dict[str, float]:
    """The figures of some totals.

    `nll`: nats per frame. `f1/BUTTON`: of every button pressed or predicted at all; `f1/mean`: over those held in more
    than 1% of the frames. `camera_accuracy`: share of frames with both bins right; `camera_accuracy_moving`: the same
    over the frames in which the camera moves.
    """
    totals = Totals(*(np.asarray(field) for field in totals))
    frames = int(totals.frames)
    f1 = 2 * totals.hits / np.maximum(totals.pressed + totals.predicted, 1)
    common = totals.pressed > COMMON_SHARE * frames
    figures = {
        "nll": float(totals.loss / frames),
        "frames": frames,
        "f1/mean": float(f1[common].sum() / max(common.sum(), 1)),
    }
    figures |= {f"f1/{BUTTONS[i]}": float(f1[i]) for i in np.flatnonzero(totals.pressed + totals.predicted)}
    figures["camera_accuracy"] = float(totals.camera_hits / frames)
    figures["camera_accuracy_moving"] = float(totals.moving_hits / max(totals.moving, 1))
    return figures


class Marginal(NamedTuple):
    """How often each joint class occurs: the best predictor that does not look at the frames."""

    buttons: Float[np.ndarray, " button_classes"]
    camera: Float[np.ndarray, " camera_classes"]

    @classmethod
    def of(cls, stream: "Stream") -> "Marginal":
        """The distribution in a stream."""
        return cls.fit(JointAction(*map(np.concatenate, zip(*_sampled_actions(stream), strict=True))))

    @classmethod
    def fit(cls, actions: JointAction) -> "Marginal":
        """The distribution of the actions; the camera's over the frames in which it moves."""
        moving = CLASS_HAS_CAMERA[actions.buttons]
        return cls(
            _smoothed(actions.buttons, NUM_BUTTON_CLASSES), _smoothed(actions.camera[moving], NUM_CAMERA_CLASSES)
        )

    def log_prob(self, actions: JointAction) -> Float[np.ndarray, " n"]:
        """Nats; the camera counts where the buttons have it on, as in the policy's loss."""
        camera = np.where(CLASS_HAS_CAMERA[actions.buttons], np.log(self.camera[actions.camera]), 0)
        return np.log(self.buttons[actions.buttons]) + camera

    def mode(self, frames: int) -> JointAction:
        """The most frequent choice, in every frame."""
        return JointAction(np.full(frames, self.buttons.argmax()), np.full(frames, self.camera.argmax()))


def _smoothed(classes: Int[np.ndarray, " n"], num_classes: int) -> Float[np.ndarray, " classes"]:
    """Frequencies; a share is spread over all classes, the share of the classes seen once.

    That is the Good-Turing estimate of how much of the distribution is still unseen: it keeps the loss on new classes
    finite without making the baseline weaker than it need be.
    """
    counts = np.bincount(classes, minlength=num_classes)
    unseen = ((counts == 1).sum() + 1) / (len(classes) + 1)
    return (1 - unseen) * counts / max(len(classes), 1) + unseen / num_classes


def baseline_metrics(train: "Stream", valid: "Stream") -> dict[str, dict[str, float]]:
    """`metrics` of two trivial predictors on the validation frames.

    `marginal` always says the same; `repeat` says the last action again. As a distribution, `repeat` gives the last
    action the share of training frames that do repeat it, and spreads the rest as `marginal`.
    """
    marginal = Marginal.of(train)
    repeating = np.concatenate([_repeats(actions) for actions in _sampled_actions(train)]).mean()
    totals: dict[str, list[Totals]] = {"marginal": [], "repeat": []}
    for actions in (_joint_actions(valid, episode) for episode in range(len(valid.index.names))):
        every = np.ones(len(actions.buttons), bool)
        log_prob = marginal.log_prob(actions)
        totals["marginal"].append(count(-log_prob, marginal.mode(len(every)), actions, every))
        repeat_log_prob = np.log((1 - repeating) * np.exp(log_prob) + repeating * _repeats(actions))
        totals["repeat"].append(count(-repeat_log_prob, _previous(actions), actions, every))
    return {name: metrics(Totals(*map(sum, zip(*parts, strict=True)))) for name, parts in totals.items()}


def _sampled_actions(stream: "Stream") -> Iterator[JointAction]:
    """The actions of each episode; of a large stream, of 1,000 to 2,000 episodes, evenly spread."""
    episodes = len(stream.index.names)
    return (_joint_actions(stream, episode) for episode in range(0, episodes, max(episodes // 1000, 1)))


def _joint_actions(stream: "Stream", episode: int) -> JointAction:
    """The actions of an episode's frames that count in the loss."""
    buttons, camera = stream.actions(episode)
    scored = stream.scored(episode)
    return joint_from_raw(buttons[scored], camera[scored])


def _previous(actions: JointAction) -> JointAction:
    """The action before each; before the first, none."""
    return JointAction(
        np.concatenate([[0], actions.buttons[:-1]]), np.concatenate([[NULL_CAMERA_CLASS], actions.camera[:-1]])
    )


def _repeats(actions: JointAction) -> Bool[np.ndarray, " n"]:
    """Whether an action equals the one before it; the camera class tells only where the buttons have the camera on."""
    last = _previous(actions)
    same_camera = (actions.camera == last.camera) | ~CLASS_HAS_CAMERA[actions.buttons]
    return (actions.buttons == last.buttons) & same_camera
