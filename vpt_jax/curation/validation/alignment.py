"""Temporal alignment of actions and video, by the log-probabilities that an inverse dynamics model (IDM) gives.

Actions that were stored some frames too late or too early are more probable at frames shifted by as many. Actions of
another video are no more probable at their own frames than anywhere else. All decisions use means over blocks of a
second and their spread, since neighbouring frames are strongly correlated: a z score is a mean over its standard error.
If the displacement changes with time, `timing.py` says how.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.blocks import along
from vpt_jax.curation.validation.episodes import Episode, read_frames
from vpt_jax.curation.validation.timing import Timing, measure_timing
from vpt_jax.labelling.model import Logits, span_logits
from vpt_jax.labelling.plan import EncodedVideo, Plan, Spans
from vpt_jax.models.idm import TEMPORAL_RADIUS
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.video import FRAME_RATE

MAX_SHIFT = 10  # frames, of the log-likelihoods that are reported
MAX_REACH = 40  # frames, of the displacements that are compared; in a recording of less than a minute, fewer
SHIFTS = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
BLOCK = FRAME_RATE  # frames
MIN_BLOCKS = 10  # shorter episodes are not checked
BASELINE_PLACES = 12  # distant places at which the actions are compared with frames that are not theirs
MIN_SHIFT_Z = 2.5  # z score from which another displacement is better than none
MIN_GAIN_Z = 4.0  # z score from which actions fit their own frames better than others
MIN_EXPECTED_GAIN = 0.1  # nats per frame; a model that expects less gain is too weak to detect what does not fit
_WINDOWS = 15  # per call of the model


class FrameLogProbs(NamedTuple):
    """Log-probabilities of every action class in every frame of a video. Fields are the model's heads."""

    buttons: Float32[Array, "n keys 2"]  # up, down
    camera: Float32[Array, "n axes bins"]


@dataclass(frozen=True)
class Alignment:
    """Fit of an episode's actions to its frames, in nats per frame. Field names are JSON keys in `validate.json`."""

    log_likelihood: list[float]  # of the actions displaced by each of `SHIFTS`
    late: int  # the most likely displacement: the number of frames by which the actions come too late
    margin: float  # z score of its log-likelihood above that of no displacement
    gain: float  # of log-likelihood at that displacement, over the same actions at other frames
    gain_z: float
    expected_gain: float  # if actions were drawn from the model's distribution
    reach: int = MAX_SHIFT  # the largest displacement that was considered
    timing: Timing = field(default_factory=Timing)  # how the displacement changes with time

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Makes it from the fields of `as_dict`."""
        return cls(**{**fields, "timing": Timing.from_dict(fields["timing"])})


class EpisodeScorer:
    """Runs an inverse dynamics model over whole episodes."""

    def __init__(self, idm: TrainedIDM, mode: str = "shared", mirror: bool = False) -> None:
        self._idm = idm
        self._run = jax.jit(partial(span_logits, idm.module, idm.window, mode, mirror=mirror, postprocess=_log_probs))

    def log_probs(self, episode: Episode) -> FrameLogProbs:
        """Log-probabilities for all frames of an episode; reads and holds a batch of windows at a time."""
        half, frames = self._idm.window // 2, episode.frames
        plan = Plan((EncodedVideo(Path(), frames, 1),), self._idm.window, _WINDOWS, rows=1)
        parts = []
        for step in range(plan.steps):
            start = step * _WINDOWS * half
            indices = np.arange(start, start + (_WINDOWS + 1) * half)
            pixels = _read_padded(episode, start - TEMPORAL_RADIUS, int(indices[-1]) + 1 + TEMPORAL_RADIUS)
            spans = Spans(pixels[None], (indices < frames)[None], np.zeros((1, 2), int))
            parts.append(plan.select_kept(step, jax.device_get(self._run(self._idm.params, spans))))
        return FrameLogProbs(*(np.concatenate(field)[:frames] for field in zip(*parts, strict=True)))


def _read_padded(episode: Episode, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames `start` to `stop` of an episode, padded with black beyond both ends."""
    low, high = max(start, 0), min(stop, episode.frames)
    frames = read_frames(episode, low, high)
    return np.pad(frames, [(low - start, stop - high), (0, 0), (0, 0), (0, 0)])


def _log_probs(_: Array, logits: Logits) -> FrameLogProbs:
    buttons = jax.nn.log_softmax(logits["buttons"])
    camera = jax.nn.log_softmax(logits["camera"]) if "camera" in logits else buttons[..., :0, :]
    return FrameLogProbs(buttons, camera)


def measure_alignment(
    log_probs: FrameLogProbs,
    buttons: UInt8[np.ndarray, "n keys"],
    camera: Float[np.ndarray, "n axes"],
    space: ActionSpace = MINERL,
) -> Alignment | None:
    """Measures how well actions fit their frames; None if there are fewer than `MIN_BLOCKS` blocks of frames.

    Frames nearer to an end than `MAX_SHIFT` are left out of the constant displacements, so that all are compared on the
    same frames. The gain is that of the displacement as it changes with time.

    Args:
        log_probs: the model's output for the episode's frames.
        buttons: keys, 1 where down.
        camera: movement of the axes.
        space: of the actions.
    """
    frames = len(buttons)
    rows = np.arange(MAX_SHIFT, frames - MAX_SHIFT)
    if len(rows) < MIN_BLOCKS * BLOCK:
        return None
    bins = space.to_bins(np.asarray(camera))
    log_likelihood_at = partial(_log_likelihood, log_probs, np.asarray(buttons) > 0, bins)
    everywhere = np.arange(frames)
    places = [(everywhere + shift) % frames for shift in _baseline_shifts(frames)]
    baseline = np.mean([log_likelihood_at(everywhere, steps) for steps in places], axis=0)
    surface = _surface(log_likelihood_at, baseline)
    reach = surface.shape[1] // 2
    late = int(surface[rows].mean(0, dtype=np.float64).argmax()) - reach
    timing = measure_timing(surface, late)
    by_shift = surface[rows].T
    gain = along(surface, timing.path(frames))[rows] - baseline[rows]
    expected = -_entropy(log_probs)[rows] - baseline[rows]
    return Alignment(
        log_likelihood=by_shift[reach + SHIFTS].mean(1).tolist(),
        late=late,
        margin=z_score(by_shift[reach + late] - by_shift[reach]),
        gain=float(gain.mean()),
        gain_z=z_score(gain),
        expected_gain=float(expected.mean()),
        reach=reach,
        timing=timing,
    )


def _surface(
    log_likelihood_at: Callable[..., Float[np.ndarray, " m"]], baseline: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n shifts"]:  # fmt: skip
    """Log-likelihood of the actions of step `frame + shift` at every frame; the baseline if there is no such step."""
    frames = len(baseline)
    reach = int(np.clip(frames // 30, MAX_SHIFT, MAX_REACH))
    surface = np.repeat(baseline[:, None].astype(np.float32), 2 * reach + 1, 1)
    for column, shift in enumerate(range(-reach, reach + 1)):
        inside = np.arange(max(0, -shift), min(frames, frames - shift))
        surface[inside, column] = log_likelihood_at(inside, inside + shift)
    return surface


def _baseline_shifts(frames: int) -> Int[np.ndarray, " places"]:
    """Displacements spread evenly over the episode; applied modulo its length."""
    return np.arange(1, BASELINE_PLACES + 1) * frames // (BASELINE_PLACES + 1)


def _log_likelihood(
    log_probs: FrameLogProbs,
    held: Bool[np.ndarray, "n keys"],
    bins: Int[np.ndarray, "n axes"],
    frames: Int[np.ndarray, " m"],
    steps: Int[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Log-probability of the actions of `steps` at `frames`, summed over keys and camera axes."""
    heads = ((log_probs.buttons, held), (log_probs.camera, bins))
    return sum(selected(log_probs_h[frames], classes[steps]).sum(-1) for log_probs_h, classes in heads)


def selected(
    log_probs: Float[np.ndarray, "n choices classes"], chosen: Shaped[np.ndarray, "n choices"]
) -> Float[np.ndarray, "n choices"]:
    """Log-probability of every chosen class."""
    return np.take_along_axis(log_probs, np.asarray(chosen, np.int64)[..., None], -1)[..., 0]


def _entropy(log_probs: FrameLogProbs) -> Float[np.ndarray, " n"]:
    return -sum((np.exp(log_probs_h) * log_probs_h).sum((-2, -1)) for log_probs_h in log_probs)


def z_score(values: Float[np.ndarray, " n"]) -> float:
    """Mean of per-frame values over its standard error, both from means of blocks of `BLOCK` frames."""
    means = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() / error) if error else 0.0
