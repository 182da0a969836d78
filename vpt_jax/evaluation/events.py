"""Presses and releases that predicted keys find, within a tolerance of some frames: precision, recall, F1.

Keys are held for long, so a predictor that only repeats the last action is right in most frames. What it cannot do is
say when a key is pressed or released. Recorded and predicted events of a key are matched one to one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.metrics import COMMON_SHARE

TOLERANCE = 1  # frames


class EventTotals(NamedTuple):
    """Counts of events, which add up over episodes. The first dimension is: presses, releases."""

    found: Int[np.ndarray, "2 keys"]  # predicted events that are matched with recorded ones
    predicted: Int[np.ndarray, "2 keys"]
    recorded: Int[np.ndarray, "2 keys"]
    held: Int[np.ndarray, " keys"]  # recorded frames in which the key is held
    frames: Int[np.ndarray, ""]


def key_changes(held: UInt8[np.ndarray, "n keys"], before: UInt8[np.ndarray, "n keys"]) -> Bool[np.ndarray, "2 n keys"]:
    """Masks of presses and of releases: keys that are held, and were not in the previous frame; and vice versa.

    Args:
        held: keys in every frame.
        before: keys in the frame before each. There is no event in frame 0, since what was before is not known.
    """
    now, last = held > 0, before > 0
    changes = np.stack([now & ~last, ~now & last])
    changes[:, :1] = False
    return changes


def previous(held: UInt8[np.ndarray, "n keys"]) -> UInt8[np.ndarray, "n keys"]:
    """Keys in the frame before each; before the first, none."""
    return np.concatenate([np.zeros_like(held[:1]), held[:-1]])


def count_matches(
    recorded: Bool[np.ndarray, "n series"], predicted: Bool[np.ndarray, "n series"], tolerance: int
) -> Int[np.ndarray, " series"]:
    """Largest number of one-to-one pairs of a recorded and a predicted event, `tolerance` frames apart or fewer.

    In order of time, the first event that is left of each side is paired if both are near enough, and otherwise the
    earlier of the two is given up: no event after it can be nearer. That gives the largest number of pairs. All series
    are joined to one, too far apart for pairs between them; the loop is over events, not frames.
    """
    length, span = len(recorded), len(recorded) + tolerance + 1
    places = [np.flatnonzero(events.T) for events in (recorded, predicted)]
    true, found = ((place // length * span + place % length).tolist() for place in places) if length else ([], [])
    matched, i, j = [], 0, 0
    while i < len(true) and j < len(found):
        if abs(true[i] - found[j]) <= tolerance:
            matched.append(true[i] // span)
            i, j = i + 1, j + 1
        elif true[i] < found[j]:
            i += 1
        else:
            j += 1
    return np.bincount(np.array(matched, np.int64), minlength=recorded.shape[1])


def event_totals(
    predicted: UInt8[np.ndarray, "n keys"],
    recorded: UInt8[np.ndarray, "n keys"],
    tolerance: int = TOLERANCE,
    given_previous: bool = False,
) -> EventTotals:
    """Counts the events of one episode.

    Args:
        predicted: keys, 1 where held.
        recorded: the same of the recording.
        tolerance: frames by which a found event may be early or late.
        given_previous: the predictor sees the recorded keys of the previous frame, and its events are changes from
            them. So the predictor that repeats them has no event, and finds none. Its keys alone are the recording one
            frame late, in which every event is within one frame of the recorded one.
    """
    true = key_changes(recorded, previous(recorded))
    guessed = key_changes(predicted, previous(recorded if given_previous else predicted))
    found = [count_matches(t, g, tolerance) for t, g in zip(true, guessed, strict=True)]
    return EventTotals(
        np.stack(found), guessed.sum(1), true.sum(1), (recorded > 0).sum(0), np.asarray(len(recorded), np.int64)
    )


def compute_event_metrics(space: ActionSpace, totals: EventTotals) -> dict[str, float]:
    """Computes metrics of events; those without any event are NaN.

    - `event_precision`, `event_recall`, `event_f1` of all events of all keys; `press_f1`, `release_f1` of these alone.
    - `event_f1/mean`: mean over the keys that are held in more than 1% of the frames, as `f1/mean` of the frames.
    - `event_precision/KEY`, `event_recall/KEY`, `event_f1/KEY`: presses and releases of every key that has any.
    """
    found, predicted, recorded = (np.asarray(field, np.float64) for field in totals[:3])
    figures: dict[str, float] = dict(_scores("event_", found.sum(), predicted.sum(), recorded.sum()))
    for i, name in enumerate(("press", "release")):
        figures[f"{name}_f1"] = _scores("", found[i].sum(), predicted[i].sum(), recorded[i].sum())["f1"]
    by_key = {key: _scores("event_", found[:, i].sum(), predicted[:, i].sum(), recorded[:, i].sum())
              for i, key in enumerate(space.keys)}  # fmt: skip
    common = np.flatnonzero(np.asarray(totals.held) > COMMON_SHARE * float(totals.frames))
    scores = np.array([by_key[space.keys[i]]["event_f1"] for i in common])
    figures["event_f1/mean"] = float(np.nanmean(scores)) if (~np.isnan(scores)).any() else float("nan")
    used = np.flatnonzero((predicted + recorded).sum(0))
    return figures | {f"{name}/{space.keys[i]}": v for i in used for name, v in by_key[space.keys[i]].items()}


def _scores(prefix: str, found: float, predicted: float, recorded: float) -> Mapping[str, float]:
    """Precision, recall and F1; recall of no event is NaN, and precision is 0 if events exist and none is predicted."""
    nan = float("nan")
    return {
        f"{prefix}precision": float(found / predicted) if predicted else 0.0 if recorded else nan,
        f"{prefix}recall": float(found / recorded) if recorded else nan,
        f"{prefix}f1": float(2 * found / (predicted + recorded)) if predicted + recorded else nan,
    }
