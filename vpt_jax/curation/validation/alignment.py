"""Do the actions fit their video? An inverse dynamics model says of every frame how probable each action is there.

Actions that were stored some frames too late or too early are more probable beside frames further on or further back.
Actions of another video are no more probable where they stand than anywhere else. All is decided by means over blocks
of a second and their spread, since frames next to each other say nearly the same: `z` is a mean over its standard
error.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from vpt_jax.actions import CAMERA, Array
from vpt_jax.curation.validation.episodes import Episode, read_frames
from vpt_jax.labelling.model import Logits, span_logits
from vpt_jax.labelling.plan import Plan, Spans, Video
from vpt_jax.models.idm import REACH
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.video import FRAME_RATE

FURTHEST = 10  # frames
SHIFTS = np.arange(-FURTHEST, FURTHEST + 1)
BLOCK = FRAME_RATE  # frames
MIN_BLOCKS = 10  # of fewer nothing is said
ELSEWHERE = 12  # places far away at which the actions are compared with frames that are not theirs
CLEAR = 2.5  # z from which another displacement is better than none
SOME = 4.0  # z from which actions fit their own frames better than others
LEAST = 0.1  # nats a frame; a model that expects less gain knows too little to say what does not fit
_WINDOWS = 15  # looked at together


class Said(NamedTuple):
    """Log-probabilities of every frame of a video."""

    buttons: Float32[Array, "n 20 2"]  # up, down
    camera: Float32[Array, "n 2 11"]


@dataclass(frozen=True)
class Fit:
    """How well the actions of an episode fit its frames, in nats per frame."""

    log_likelihood: list[float]  # of the actions displaced by each of `SHIFTS`
    late: int  # the most likely displacement: by so many frames the actions come too late
    margin: float  # z of its log-likelihood above that of no displacement
    gain: float  # of log-likelihood, so displaced, over the same actions at other frames
    gain_z: float
    expected_gain: float  # if actions were drawn as the model says

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Reader:
    """An inverse dynamics model that reads whole episodes."""

    def __init__(self, idm: TrainedIDM, mode: str = "shared", mirror: bool = False) -> None:
        self._idm = idm
        self._run = jax.jit(partial(span_logits, idm.module, idm.window, mode, mirror=mirror, then=_log_probs))

    def read(self, episode: Episode) -> Said:
        """What it says of all frames of an episode; reads and holds some windows at a time."""
        half, frames = self._idm.window // 2, episode.frames
        plan = Plan((Video(Path(), frames, 1),), self._idm.window, _WINDOWS, rows=1)
        parts = []
        for step in range(plan.steps):
            start = step * _WINDOWS * half
            here = np.arange(start, start + (_WINDOWS + 1) * half)
            pixels = _cut(episode, start - REACH, int(here[-1]) + 1 + REACH)
            spans = Spans(pixels[None], (here < frames)[None], np.zeros((1, 2), int))
            parts.append(plan.keep(step, jax.device_get(self._run(self._idm.params, spans))))
        return Said(*(np.concatenate(field)[:frames] for field in zip(*parts, strict=True)))


def _cut(episode: Episode, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames of an episode, black where there are none."""
    low, high = max(start, 0), min(stop, episode.frames)
    frames = read_frames(episode, low, high)
    return np.pad(frames, [(low - start, stop - high), (0, 0), (0, 0), (0, 0)])


def _log_probs(_: Array, logits: Logits) -> Said:
    return Said(**{head: jax.nn.log_softmax(of_head) for head, of_head in logits.items()})


def fit_actions(said: Said, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> Fit | None:
    """How well actions (camera in degrees) fit what was said of their frames; None if there are too few frames.

    Frames nearer to an end than the furthest displacement do not count: so all displacements are judged by the same.
    """
    rows = np.arange(FURTHEST, len(buttons) - FURTHEST)
    if len(rows) < MIN_BLOCKS * BLOCK:
        return None
    bins = CAMERA.to_bins(np.asarray(camera))
    at = partial(_log_likelihood, said, np.asarray(buttons) > 0, bins, rows)
    of_shifts = np.stack([at(rows + shift) for shift in SHIFTS])
    best = int(of_shifts.mean(1).argmax())
    elsewhere = np.mean([at((rows + far) % len(buttons)) for far in _far(len(buttons))], axis=0)
    margin, gain = of_shifts[best] - of_shifts[FURTHEST], of_shifts[best] - elsewhere
    expected = -_entropy(said)[rows] - elsewhere
    return Fit(
        log_likelihood=of_shifts.mean(1).tolist(),
        late=int(SHIFTS[best]),
        margin=z_of(margin),
        gain=float(gain.mean()),
        gain_z=z_of(gain),
        expected_gain=float(expected.mean()),
    )


def _far(frames: int) -> Int[np.ndarray, " places"]:
    """Displacements, evenly over the episode, end to start."""
    return np.arange(1, ELSEWHERE + 1) * frames // (ELSEWHERE + 1)


def _log_likelihood(
    said: Said,
    held: Bool[np.ndarray, "n 20"],
    bins: Int[np.ndarray, "n 2"],
    frames: Int[np.ndarray, " m"],
    steps: Int[np.ndarray, " m"],
) -> Float[np.ndarray, " m"]:
    """Log-probability of the actions of some steps at some frames."""
    of_heads = ((said.buttons, held), (said.camera, bins))
    return sum(
        np.take_along_axis(log_probs[frames], chosen[steps].astype(np.int64)[..., None], -1)[..., 0].sum(-1)
        for log_probs, chosen in of_heads
    )


def _entropy(said: Said) -> Float[np.ndarray, " n"]:
    return -sum((np.exp(log_probs) * log_probs).sum((-2, -1)) for log_probs in said)


def z_of(values: Float[np.ndarray, " n"]) -> float:
    """The mean of frames' values over its standard error, both from blocks of `BLOCK` frames."""
    means = values[: len(values) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(1)
    error = means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() / error) if error else 0.0
