"""Trivial baselines that use no frames: the metrics any model has to beat, on the same held-out frames.

"repeat" is a mixture: it gives the last action (or choice) the share of training frames in which it is repeated, and
distributes the rest as the marginal distribution.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from vpt_jax.actions.joint import JointAction, joint_from_raw, joint_tables, num_classes, raw_from_joint
from vpt_jax.actions.minerl import BUTTONS, CAMERA, MINERL
from vpt_jax.evaluation.metrics import Prediction, Totals, compute_metrics, compute_totals, sum_totals

if TYPE_CHECKING:  # a train step uses a marginal on machines that read no dataset
    from vpt_jax.data.mixture import MixtureStream
    from vpt_jax.data.streams import Stream

RawActions = tuple[UInt8[np.ndarray, "n 20"], Float[np.ndarray, "n 2"]]
Weights = Float[np.ndarray, " frames"]


class Marginal(NamedTuple):
    """Marginal distribution of the joint classes: the best predictor of joint actions that uses no frames."""

    buttons: Float[np.ndarray, " button_classes"]
    camera: Float[np.ndarray, " camera_classes"]

    @classmethod
    def uniform(cls) -> "Marginal":
        """Equal probability of all classes, for results that do not depend on the data."""
        return cls(*(np.full(classes, 1 / classes) for classes in num_classes(MINERL)))

    @classmethod
    def from_stream(cls, stream: "Stream | MixtureStream") -> "Marginal":
        """Distribution of a stream's actions."""
        episodes, weights = _sampled_actions(stream)
        return cls.fit(joint_from_raw(MINERL, *map(np.concatenate, zip(*episodes, strict=True))), weights)

    @classmethod
    def fit(cls, actions: JointAction, weights: Weights | None = None) -> "Marginal":
        """Distribution of the actions; the camera's over the frames in which it moves. `weights` are of the frames."""
        moving = joint_tables(MINERL).has_camera[actions.buttons]
        return cls(
            _smoothed(actions.buttons, num_classes(MINERL)[0], weights),
            _smoothed(actions.camera[moving], num_classes(MINERL)[1], weights if weights is None else weights[moving]),
        )

    def log_prob(self, actions: JointAction) -> Float[np.ndarray, " n"]:
        """Log-probabilities in nats; the camera counts where the button class includes it, as in the policy's loss."""
        camera = np.where(joint_tables(MINERL).has_camera[actions.buttons], np.log(self.camera[actions.camera]), 0)
        return np.log(self.buttons[actions.buttons]) + camera

    def mode(self, frames: int) -> JointAction:
        """Most frequent action, repeated for `frames` frames."""
        return JointAction(np.full(frames, self.buttons.argmax()), np.full(frames, self.camera.argmax()))


class FactoredMarginal(NamedTuple):
    """Marginal distributions of each button and each camera axis, as independent choices."""

    buttons: Float[np.ndarray, "20 2"]  # up, down
    camera: Float[np.ndarray, "2 bins"]

    @classmethod
    def uniform(cls) -> "FactoredMarginal":
        """Equal probability of all classes, for results that do not depend on the data."""
        return cls(np.full((len(BUTTONS), 2), 1 / 2), np.full((2, CAMERA.num_bins), 1 / CAMERA.num_bins))

    @classmethod
    def from_stream(cls, stream: "Stream | MixtureStream") -> "FactoredMarginal":
        """Distribution of a stream's actions."""
        episodes, weights = _sampled_actions(stream)
        buttons, camera = map(np.concatenate, zip(*episodes, strict=True))
        bins = CAMERA.to_bins(camera)
        return cls(
            np.stack([_smoothed(choice, 2, weights) for choice in buttons.T]),
            np.stack([_smoothed(choice, CAMERA.num_bins, weights) for choice in bins.T]),
        )

    def probabilities(self, actions: RawActions) -> Float[np.ndarray, "n 22"]:
        """Probabilities of the 22 choices of every action."""
        choices = _choices(actions)
        buttons, camera = choices[:, :-2], choices[:, -2:]
        keys, axes = np.arange(buttons.shape[1]), np.arange(2)
        return np.concatenate([self.buttons[keys, buttons], self.camera[axes, camera]], axis=1)


def _smoothed(
    classes: Integer[np.ndarray, " n"], num_classes: int, weights: Weights | None = None
) -> Float[np.ndarray, " classes"]:
    """Class frequencies with Good-Turing smoothing: the share of classes seen once is spread over all classes.

    That share estimates the probability mass that is still unseen: it keeps the loss on new classes finite, without
    making the baseline weaker than necessary.
    """
    counts = np.bincount(classes, minlength=num_classes)
    unseen = ((counts == 1).sum() + 1) / (len(classes) + 1)
    if weights is None or not len(classes):
        return (1 - unseen) * counts / max(len(classes), 1) + unseen / num_classes
    sums = np.bincount(classes, weights, num_classes)
    return (1 - unseen) * sums / sums.sum() + unseen / num_classes


def policy_baselines(train: "Stream | MixtureStream", valid: "Stream") -> dict[str, dict[str, float]]:
    """Metrics of two predictors of joint actions: `marginal` is constant; `repeat` repeats the last action."""
    marginal = Marginal.from_stream(train)
    episodes, weights = _sampled_actions(train)
    repeated = [_is_repeated(joint_from_raw(MINERL, *actions)) for actions in episodes]
    repeat_share = np.average(np.concatenate(repeated), weights=weights)

    def constant(raw: RawActions) -> Prediction:
        actions = joint_from_raw(MINERL, *raw)
        return Prediction(-marginal.log_prob(actions), *raw_from_joint(MINERL, marginal.mode(len(raw[0]))))

    def repeat(raw: RawActions) -> Prediction:
        actions = joint_from_raw(MINERL, *raw)
        probability = (1 - repeat_share) * np.exp(marginal.log_prob(actions)) + repeat_share * _is_repeated(actions)
        return Prediction(-np.log(probability), *raw_from_joint(MINERL, _previous(actions)))

    return {name: _metrics_of(valid, predict) for name, predict in {"marginal": constant, "repeat": repeat}.items()}


def idm_baselines(train: "Stream | MixtureStream", valid: "Stream") -> dict[str, dict[str, float]]:
    """Metrics of two predictors of factored actions: `released` predicts no key and no movement; `repeat` as above."""
    marginal = FactoredMarginal.from_stream(train)
    episodes, weights = _sampled_actions(train)
    same = np.concatenate([_same_choices(actions) for actions in episodes])
    count = same.sum(0) if weights is None else len(same) * np.average(same, axis=0, weights=weights)
    repeat_share = (count + 1) / (len(same) + 2)  # smoothed: a choice that never changed in training may change

    def released(raw: RawActions) -> Prediction:
        return _released(raw)._replace(loss=-np.log(marginal.probabilities(raw)).sum(1))

    def repeat(raw: RawActions) -> Prediction:
        probabilities = (1 - repeat_share) * marginal.probabilities(raw) + repeat_share * _same_choices(raw)
        return _repeated(raw)._replace(loss=-np.log(probabilities).sum(1))

    return {name: _metrics_of(valid, predict) for name, predict in {"released": released, "repeat": repeat}.items()}


def label_baselines(recorded: "Stream") -> dict[str, list[Totals]]:
    """Totals by episode of the baselines that need no training, `released` and `repeat`; the loss is NaN."""
    return {"released": _totals(recorded, _released), "repeat": _totals(recorded, _repeated)}


def _released(raw: RawActions) -> Prediction:
    buttons, camera = raw
    return Prediction(np.full(len(buttons), np.nan), np.zeros_like(buttons), np.zeros_like(camera))


def _repeated(raw: RawActions) -> Prediction:
    choices = _shifted(_choices(raw))
    return Prediction(
        np.full(len(choices), np.nan), choices[:, :-2].astype(np.uint8), CAMERA.to_values(choices[:, -2:])
    )


def _choices(raw: RawActions) -> Int[np.ndarray, "n 22"]:
    return np.concatenate([raw[0].astype(int), CAMERA.to_bins(raw[1])], axis=1)


def _same_choices(raw: RawActions) -> Bool[np.ndarray, "n 22"]:
    """Mask of the choices that equal those of the previous step."""
    choices = _choices(raw)
    return choices == _shifted(choices)


def _shifted(choices: Int[np.ndarray, "n 22"]) -> Int[np.ndarray, "n 22"]:
    """Choices of the previous step; before the first, null actions."""
    null = np.array([[0] * (choices.shape[1] - 2) + [CAMERA.null_bin] * 2])
    return np.concatenate([null, choices])[: len(choices)]


def _metrics_of(valid: "Stream", predict: Callable[[RawActions], Prediction]) -> dict[str, float]:
    return compute_metrics(sum_totals(_totals(valid, predict)))


def _totals(stream: "Stream", predict: Callable[[RawActions], Prediction]) -> list[Totals]:
    """Totals of a predictor, by episode."""
    episodes = (_scored_actions(stream, episode) for episode in range(len(stream.index.names)))
    return [compute_totals(predict(raw), *raw, np.ones(len(raw[0]), bool)) for raw in episodes]


def _sampled_actions(stream: "Stream | MixtureStream") -> tuple[list[RawActions], Weights | None]:
    """Actions of each episode in use; in a large dataset, of 1,000 to 2,000 evenly spaced episodes.

    Of a mixture, also the weight of each frame, by which a dataset counts as much as in the loss, whatever its size.
    """
    sampled = [_sampled_episodes(part.stream) for part in stream.parts]
    episodes = [raw for part in sampled for raw in part]
    if len(sampled) == 1:
        return episodes, None
    frames = [sum(len(buttons) for buttons, _ in part) for part in sampled]
    return episodes, np.repeat([share / max(n, 1) for share, n in zip(stream.loss_shares, frames, strict=True)], frames)


def _sampled_episodes(stream: "Stream") -> list[RawActions]:
    episodes = np.flatnonzero(stream.lengths)
    return [_scored_actions(stream, episode) for episode in episodes[:: max(len(episodes) // 1000, 1)]]


def _scored_actions(stream: "Stream", episode: int) -> RawActions:
    """Actions of an episode's frames that count in the loss."""
    buttons, camera = stream.actions(episode)
    scored = stream.scored(episode)
    return buttons[scored], camera[scored]


def _previous(actions: JointAction) -> JointAction:
    """Previous action of each; before the first, the null action."""
    return JointAction(
        np.concatenate([[0], actions.buttons])[: len(actions.buttons)],
        np.concatenate([[joint_tables(MINERL).null_camera], actions.camera])[: len(actions.camera)],
    )


def _is_repeated(actions: JointAction) -> Bool[np.ndarray, " n"]:
    """Mask of the actions that equal the previous one; the camera counts only where the button class includes it."""
    last = _previous(actions)
    same_camera = (actions.camera == last.camera) | ~joint_tables(MINERL).has_camera[actions.buttons]
    return (actions.buttons == last.buttons) & same_camera
