"""Trivial baselines that use no frames: the metrics any model has to beat, on the same held-out frames.

"repeat" is a mixture: it gives the last action (or choice) the share of training frames in which it is repeated, and
distributes the rest as the marginal distribution.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from vpt_jax.actions.joint import JointAction, joint_from_raw, joint_tables, num_classes, raw_from_joint
from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.metrics import Prediction, Totals, compute_metrics, compute_totals, sum_totals

if TYPE_CHECKING:  # a train step uses a marginal on machines that read no dataset
    from vpt_jax.data.mixture import MixtureStream
    from vpt_jax.data.streams import Stream

RawActions = tuple[UInt8[np.ndarray, "n keys"], Float[np.ndarray, "n axes"]]
Weights = Float[np.ndarray, " frames"]


class Marginal(NamedTuple):
    """Marginal distribution of the joint classes: the best predictor of joint actions that uses no frames."""

    buttons: Float[np.ndarray, " button_classes"]
    camera: Float[np.ndarray, " camera_classes"]

    @classmethod
    def uniform(cls, space: ActionSpace) -> "Marginal":
        """Equal probability of all classes, for results that do not depend on the data."""
        return cls(*(np.full(classes, 1 / classes) for classes in num_classes(space)))

    @classmethod
    def from_stream(cls, stream: "Stream | MixtureStream") -> "Marginal":
        """Distribution of a stream's actions."""
        episodes, weights = _sampled_actions(stream)
        actions = joint_from_raw(stream.space, *map(np.concatenate, zip(*episodes, strict=True)))
        return cls.fit(stream.space, actions, weights)

    @classmethod
    def fit(cls, space: ActionSpace, actions: JointAction, weights: Weights | None = None) -> "Marginal":
        """Distribution of the actions; the camera's over the frames in which it moves. `weights` are of the frames."""
        moving, counts = joint_tables(space).has_camera[actions.buttons], num_classes(space)
        return cls(
            _smoothed(actions.buttons, counts[0], weights),
            _smoothed(actions.camera[moving], counts[1], weights if weights is None else weights[moving]),
        )

    def log_prob(self, space: ActionSpace, actions: JointAction) -> Float[np.ndarray, " n"]:
        """Log-probabilities in nats; the camera counts where the button class includes it, as in the policy's loss."""
        has_camera = joint_tables(space).has_camera[actions.buttons]
        camera = np.where(has_camera, np.log(self.camera[actions.camera]), 0)
        return np.log(self.buttons[actions.buttons]) + camera

    def mode(self, frames: int) -> JointAction:
        """Most frequent action, repeated for `frames` frames."""
        return JointAction(np.full(frames, self.buttons.argmax()), np.full(frames, self.camera.argmax()))


class FactoredMarginal(NamedTuple):
    """Marginal distributions of each button and each camera axis, as independent choices."""

    buttons: Float[np.ndarray, "keys 2"]  # up, down
    camera: Float[np.ndarray, "axes bins"]

    @classmethod
    def uniform(cls, space: ActionSpace) -> "FactoredMarginal":
        """Equal probability of all classes, for results that do not depend on the data."""
        bins = len(space.axes), space.num_bins
        return cls(np.full((len(space.keys), 2), 1 / 2), np.full(bins, 1 / space.num_bins))

    @classmethod
    def from_stream(cls, stream: "Stream | MixtureStream") -> "FactoredMarginal":
        """Distribution of a stream's actions."""
        episodes, weights = _sampled_actions(stream)
        buttons, camera = map(np.concatenate, zip(*episodes, strict=True))
        space, bins = stream.space, stream.space.to_bins(camera)
        return cls(
            np.stack([_smoothed(choice, 2, weights) for choice in buttons.T]),
            np.array([_smoothed(choice, space.num_bins, weights) for choice in bins.T]).reshape(-1, space.num_bins),
        )

    def probabilities(self, space: ActionSpace, actions: RawActions) -> Float[np.ndarray, "n choices"]:
        """Probabilities of the choices of every action, of keys and axes."""
        buttons, camera = _split(space, _choices(space, actions))
        keys, axes = np.arange(buttons.shape[1]), np.arange(camera.shape[1])
        return np.concatenate([self.buttons[keys, buttons], self.camera[axes, camera]], axis=1)


class NoMarginal(NamedTuple):
    """Marginal distribution for a model that predicts no actions: empty."""

    @classmethod
    def uniform(cls, space: ActionSpace) -> "NoMarginal":
        """Empty, for any space."""
        return cls()

    @classmethod
    def from_stream(cls, stream: "Stream | MixtureStream") -> "NoMarginal":
        """Empty, of any stream."""
        return cls()


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
    space, marginal = train.space, Marginal.from_stream(train)
    episodes, weights = _sampled_actions(train)
    repeated = [_is_repeated(space, joint_from_raw(space, *actions)) for actions in episodes]
    repeat_share = np.average(np.concatenate(repeated), weights=weights)

    def constant(raw: RawActions) -> Prediction:
        actions = joint_from_raw(space, *raw)
        mode = raw_from_joint(space, marginal.mode(len(raw[0])))
        return Prediction(-marginal.log_prob(space, actions), *mode)

    def repeat(raw: RawActions) -> Prediction:
        actions = joint_from_raw(space, *raw)
        same = _is_repeated(space, actions)
        probability = (1 - repeat_share) * np.exp(marginal.log_prob(space, actions)) + repeat_share * same
        return Prediction(-np.log(probability), *raw_from_joint(space, _previous(space, actions)))

    return {name: _metrics_of(valid, predict) for name, predict in {"marginal": constant, "repeat": repeat}.items()}


def factored_policy_baselines(train: "Stream | MixtureStream", valid: "Stream") -> dict[str, dict[str, float]]:
    """As `policy_baselines`, of factored actions: every key and axis on its own."""
    return _factored_baselines(train, valid, "marginal", _most_frequent)


def idm_baselines(train: "Stream | MixtureStream", valid: "Stream") -> dict[str, dict[str, float]]:
    """Metrics of two predictors of factored actions: `released` predicts no key and no movement; `repeat` as above."""
    return _factored_baselines(train, valid, "released", lambda space, marginal, raw: _released(raw))


def _factored_baselines(
    train: "Stream | MixtureStream",
    valid: "Stream",
    name: str,
    constant_of: Callable[[ActionSpace, FactoredMarginal, RawActions], Prediction],
) -> dict[str, dict[str, float]]:
    space, marginal = train.space, FactoredMarginal.from_stream(train)
    episodes, weights = _sampled_actions(train)
    same = np.concatenate([_same_choices(space, actions) for actions in episodes])
    count = same.sum(0) if weights is None else len(same) * np.average(same, axis=0, weights=weights)
    repeat_share = (count + 1) / (len(same) + 2)  # smoothed: a choice that never changed in training may change

    def constant(raw: RawActions) -> Prediction:
        loss = -np.log(marginal.probabilities(space, raw)).sum(1)
        return constant_of(space, marginal, raw)._replace(loss=loss)

    def repeat(raw: RawActions) -> Prediction:
        probabilities = (1 - repeat_share) * marginal.probabilities(space, raw)
        probabilities += repeat_share * _same_choices(space, raw)
        return _repeated(space, raw)._replace(loss=-np.log(probabilities).sum(1))

    return {key: _metrics_of(valid, predict) for key, predict in {name: constant, "repeat": repeat}.items()}


def label_baselines(recorded: "Stream") -> dict[str, list[Totals]]:
    """Totals by episode of the baselines that need no training, `released` and `repeat`; the loss is NaN."""
    return {
        "released": _totals(recorded, _released),
        "repeat": _totals(recorded, lambda raw: _repeated(recorded.space, raw)),
    }


def _released(raw: RawActions) -> Prediction:
    buttons, camera = raw
    return Prediction(np.full(len(buttons), np.nan), np.zeros_like(buttons), np.zeros_like(camera))


def _most_frequent(space: ActionSpace, marginal: FactoredMarginal, raw: RawActions) -> Prediction:
    frames = len(raw[0])
    buttons = np.tile(marginal.buttons.argmax(-1).astype(np.uint8), (frames, 1))
    bins = np.tile(marginal.camera.argmax(-1), (frames, 1))
    return Prediction(np.full(frames, np.nan), buttons, space.to_movement(bins))


def _repeated(space: ActionSpace, raw: RawActions) -> Prediction:
    buttons, bins = _split(space, _shifted(space, _choices(space, raw)))
    return Prediction(np.full(len(buttons), np.nan), buttons.astype(np.uint8), space.to_movement(bins))


def _choices(space: ActionSpace, raw: RawActions) -> Int[np.ndarray, "n choices"]:
    """State of every key and bin of every axis."""
    return np.concatenate([raw[0].astype(int), space.to_bins(raw[1])], axis=1)


def _split(
    space: ActionSpace, choices: Int[np.ndarray, "n choices"]
) -> tuple[Int[np.ndarray, "n keys"], Int[np.ndarray, "n axes"]]:
    return choices[:, : len(space.keys)], choices[:, len(space.keys) :]


def _same_choices(space: ActionSpace, raw: RawActions) -> Bool[np.ndarray, "n choices"]:
    """Mask of the choices that equal those of the previous step."""
    choices = _choices(space, raw)
    return choices == _shifted(space, choices)


def _shifted(space: ActionSpace, choices: Int[np.ndarray, "n choices"]) -> Int[np.ndarray, "n choices"]:
    """Choices of the previous step; before the first, null actions."""
    null = np.array([[0] * len(space.keys) + [space.null_bin] * len(space.axes)])
    return np.concatenate([null, choices])[: len(choices)]


def _metrics_of(valid: "Stream", predict: Callable[[RawActions], Prediction]) -> dict[str, float]:
    return compute_metrics(valid.space, sum_totals(_totals(valid, predict)))


def _totals(stream: "Stream", predict: Callable[[RawActions], Prediction]) -> list[Totals]:
    """Totals of a predictor, by episode."""
    episodes = (_scored_actions(stream, episode) for episode in range(len(stream.index.names)))
    return [compute_totals(stream.space, predict(raw), *raw, np.ones(len(raw[0]), bool)) for raw in episodes]


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


def _previous(space: ActionSpace, actions: JointAction) -> JointAction:
    """Previous action of each; before the first, the null action."""
    return JointAction(
        np.concatenate([[0], actions.buttons])[: len(actions.buttons)],
        np.concatenate([[joint_tables(space).null_camera], actions.camera])[: len(actions.camera)],
    )


def _is_repeated(space: ActionSpace, actions: JointAction) -> Bool[np.ndarray, " n"]:
    """Mask of the actions that equal the previous one; the camera counts only where the button class includes it."""
    last = _previous(space, actions)
    same_camera = (actions.camera == last.camera) | ~joint_tables(space).has_camera[actions.buttons]
    return (actions.buttons == last.buttons) & same_camera
