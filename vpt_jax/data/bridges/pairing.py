"""Pairing of frames and actions by physical time, at the model's rate, whatever recorder and frame rate they have.

Step i is the time from t_i to t_i + 1/20 s, where t_0 is the time of the first frame. Its frame is the one nearest to
t_i (`video_clock.resample`). A key is down in it if it is held at any time of it, so a tap is never lost; an axis is
the sum of its movements. An event at exactly t_i belongs to step i: a key that is released there is up in it.

Recorders lose events, above all when their program loses the focus. What is handled, and named in remarks:

- A key that is pressed again while it is down is a repeat. A release without a press is ignored, but a key whose first
  event is a release was pressed before the recording, and is down from the start.
- A key that never comes up is released where the next excluded range (lost focus, pause) begins, or ends if it was
  pressed in it; without one, at the recording's end.
- Excluded ranges cut a recording into episodes: steps that overlap one belong to none.
- Times in whole seconds place no event within a second: such a recording is refused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.bridges.interface import MAX_EVENTS, MAX_NAMES, InputEvents, TimedPlay
from vpt_jax.data.bridges.key_names import MOUSE_X, MOUSE_Y
from vpt_jax.data.runs import find_runs
from vpt_jax.recording import MAX_COUNTS, MAX_STEPS, BrokenRecordingError
from vpt_jax.video import FRAME_RATE, Frame
from vpt_jax.video_clock import MAX_GAP, resample
from vpt_jax.video_files import VideoError

GUARD = 1e-4  # seconds: rounding of stored times, so that an event at a frame's time falls in its step
CLOCK = 90_000  # parts of a second to which times of frames are rounded: all usual frame rates are exact in it (MPEG's)
LONG_HOLD = 60.0  # seconds for which a key is rarely held: named in a remark
MIN_WHOLE_SECONDS = 20  # events, all at the same fraction of a second, that show a clock of whole seconds
_LONG_GAP = MAX_GAP / 2  # seconds from a frame to the next, which pauses may have
_MAX_REMARKS = 20  # of a kind
_LONG = f"held for more than {LONG_HOLD:.0f} s: if the recorder lost the focus there, exclude it"
_LOST = "released where the recording is interrupted, since no release was recorded"
_NEVER = "never released: counted as held until the recording is interrupted or ends"
_EARLY = "down from the start, since its first event is a release"

T = TypeVar("T")


class PairedSteps(NamedTuple):
    """Raw actions of all steps of a recording, and what was found while pairing them."""

    buttons: UInt8[np.ndarray, "n keys"]
    camera: Float32[np.ndarray, "n axes"]
    remarks: tuple[str, ...]


class Holds(NamedTuple):
    """Times from which and until which keys are held, in seconds."""

    key: Int64[np.ndarray, " n"]
    start: Float64[np.ndarray, " n"]
    end: Float64[np.ndarray, " n"]


def frames_at_rate(
    frames: Iterable[tuple[float, Frame]],
    path: Path,
    times: list[float],
    excluded: Sequence[tuple[float, float]] = (),
) -> Iterator[Frame]:
    """Resamples frames to 20 per second, by the rules for all videos (`video_clock.resample`).

    Args:
        frames: times in seconds, and frames.
        path: of the recording, for errors.
        times: gets the time of every frame that is read; the first is that of step 0.
        excluded: [start, end) in seconds, in which a recorder may have stored no frames for any time. `num_steps` then
            gives the number of steps, since a last frame's duration is that of a mean frame.

    Raises:
        BrokenRecordingError: a time is not a number, or nothing is shown for more than a minute.
    """

    def timed() -> Iterator[tuple[Fraction, Frame]]:
        for time, frame in frames:
            if not np.isfinite(time):
                raise BrokenRecordingError(path, "bad value", f"frame {len(times)} has the time {time}")
            for filled in _pauses_in_gap(times, float(time), excluded):
                yield Fraction(round((filled - times[0]) * CLOCK), CLOCK), frame
            times.append(float(time))
            yield Fraction(round((times[-1] - times[0]) * CLOCK), CLOCK), frame

    try:
        for number, frame in enumerate(resample(timed())):
            if number >= MAX_STEPS:
                raise BrokenRecordingError(path, "absurd size", f"more than {MAX_STEPS:,} steps")
            yield frame
    except VideoError as error:
        raise BrokenRecordingError(path, error.reason, error.detail) from error


def identity_mapping(space: ActionSpace) -> ActionMapping:
    """Mapping of equal names."""
    return ActionMapping.identity(space.keys, (axis.name for axis in space.axes))


def require_mapped(events: InputEvents, path: Path, space: ActionSpace, mapping: ActionMapping | None) -> None:
    """Raises `BrokenRecordingError` if the mapping names no key and no axis of a recording that has events."""
    mapping = mapping or identity_mapping(space)
    sources = _sources(mapping)
    if events.names and not set(sources) & set(events.names):
        detail = f"it has {_first(sorted(events.names))}, and the mapping is from {_first(sources)}: set config.mapping"
        raise BrokenRecordingError(path, "not in the mapping", detail)


def _sources(mapping: ActionMapping) -> list[str]:
    return [*(name for name, _ in mapping.keys), *(name for name, _, _ in mapping.axes)]


def _pauses_in_gap(times: Sequence[float], time: float, excluded: Sequence[tuple[float, float]]) -> list[float]:
    """Times that break a long gap before a frame into shorter ones, in excluded ranges."""
    if not times or not _LONG_GAP < time - times[-1] < MAX_STEPS / FRAME_RATE:
        return []
    marks = np.arange(times[-1] + _LONG_GAP, time, _LONG_GAP).tolist()
    return [mark for mark in marks if any(low <= mark < high for low, high in excluded)]


def num_steps(times: Sequence[float], resampled: int, excluded: Sequence[tuple[float, float]]) -> int:
    """Number of steps of a recording, of `resampled` frames: without frames that pauses have made too long.

    Args:
        times: of all frames, in seconds.
        resampled: number of frames from `frames_at_rate`.
        excluded: as there.
    """
    gaps = np.diff(times)
    if not excluded or not (gaps > _LONG_GAP).any():
        return resampled
    shown = gaps[(gaps > 0) & (gaps <= _LONG_GAP)]
    end = times[-1] - times[0] + (float(shown.mean()) if len(shown) else 1 / FRAME_RATE)
    return min(resampled, int(np.ceil((end - GUARD) * FRAME_RATE)))


def pair_actions(
    play: TimedPlay,
    path: Path,
    start: float,
    steps: int,
    space: ActionSpace,
    mapping: ActionMapping | None = None,
    mouse_factor: float = 1.0,
) -> PairedSteps:
    """Raw actions of every step of a recording, in a dataset's action space.

    Args:
        play: events, excluded ranges and remarks.
        path: of the recording, for errors.
        start: time of step 0, that of the first frame, in seconds.
        steps: number of steps: of frames at 20 per second.
        space: of the dataset.
        mapping: from the recorder's names to those of the space; None: equal names.
        mouse_factor: of this recording, by which "mouse.x" and "mouse.y" are multiplied before the mapping.

    Raises:
        BrokenRecordingError: events have impossible values, or times in whole seconds.
        ActionSpaceError: the mapping goes to a key or axis that the space lacks.
    """
    events = checked_events(play.events, path)
    mapping = mapping or identity_mapping(space)
    mapping.require_targets(space)
    end = start + steps / FRAME_RATE
    holds, remarks = find_holds(events, start, end, play.excluded)
    mapped, mapped_holds = _only_mapped(events, holds, mapping)
    held = _held(mapped_holds, mapped.num_keys, start, steps)
    moved = _moved(mapped, start, steps, mouse_factor)
    buttons, camera = _map(held, moved, mapped, space, mapping)
    clipped = np.abs(camera) > space.limits
    if count := int(clipped.any(-1).sum()):
        remarks.append(f"{count} steps move further than the action space's limit: they are clipped to it")
    remarks += _outside(events, start, end) + _unused(events, mapping)
    limited = np.clip(camera, -space.limits, space.limits) + 0.0  # no negative zeros: equal play, equal bytes
    return PairedSteps(buttons, limited.astype(np.float32), (*play.remarks, *remarks))


def kept_ranges(excluded: Sequence[tuple[float, float]], start: float, steps: int) -> list[range]:
    """Ranges of steps that overlap no excluded range.

    Args:
        excluded: [start, end) in seconds.
        start: time of step 0, in seconds.
        steps: number of steps.
    """
    kept = np.ones(steps, bool)
    for low, high in excluded:
        if high > low:
            first, last = _steps_of(np.array([low], np.float64), np.array([high], np.float64), start)
            kept[max(int(first[0]), 0) : max(int(last[0]) + 1, 0)] = False
    return [range(low, high) for low, high in find_runs(kept).tolist()]


def checked_events(events: InputEvents, path: Path) -> InputEvents:
    """Returns events in order of time.

    Args:
        events: of a recording.
        path: of the recording, for errors.

    Raises:
        BrokenRecordingError: they have impossible values, or times in whole seconds.
    """
    names, count = events.names, len(events.time)
    if count > MAX_EVENTS or len(names) > MAX_NAMES:
        raise BrokenRecordingError(
            path, "absurd size", f"{count:,} events of {len(names):,} keys and axes; up to {MAX_EVENTS:,} are read"
        )
    is_key = events.code < events.num_keys
    wrong = ~np.isfinite(events.time) | ~np.isfinite(events.value) | (events.code < 0) | (events.code >= len(names))
    wrong |= is_key & (events.value != 0) & (events.value != 1)
    wrong |= ~is_key & (np.abs(events.value) > MAX_COUNTS)
    if wrong.any():
        number = int(np.argmax(wrong))
        name = names[events.code[number]] if 0 <= events.code[number] < len(names) else "?"
        raise BrokenRecordingError(
            path, "bad value", f"event {number}: {name} is {events.value[number]} at {events.time[number]} s"
        )
    seconds = np.unique(np.round(events.time - events.time[0], 6)) if count else np.zeros(0)
    if count >= MIN_WHOLE_SECONDS and len(seconds) > 3 and (seconds == np.round(seconds)).all():
        raise BrokenRecordingError(
            path,
            "whole seconds",
            f"all {count:,} events are a whole number of seconds apart: the recorder stored whole seconds, and at "
            f"{FRAME_RATE} steps per second it is not known to which step an event belongs. Leave this recording out",
        )
    order = np.argsort(events.time, kind="stable")
    return events._replace(time=events.time[order], code=events.code[order], value=events.value[order])


def find_holds(
    events: InputEvents, start: float, end: float, excluded: Sequence[tuple[float, float]]
) -> tuple[Holds, list[str]]:
    """Times for which each key is held, and remarks on what is missing or odd.

    Args:
        events: in order of time.
        start: of the recording's first step, in seconds.
        end: of its last.
        excluded: [start, end) in seconds, in which a release may have gone to another program.
    """
    found: list[tuple[int, float, float]] = []
    odd: dict[str, list[str]] = {}
    breaks = np.array(sorted(edge for low, high in excluded if high > low for edge in (low, high)))
    time, code, value = (values[events.code < events.num_keys] for values in (events.time, events.code, events.value))
    for key in np.unique(code).tolist():
        name, rows = events.names[key], code == key
        for low, high, problem in _key_holds(time[rows], value[rows] > 0, start, end, breaks):
            if problem:
                odd.setdefault(problem, []).append(f"{name} at {low - start:.2f} s")
            if high - low > LONG_HOLD:
                odd.setdefault(_LONG, []).append(f"{name} from {low - start:.2f} to {high - start:.2f} s")
            found.append((key, low, high))
    remarks = [f"{problem}: {_first(places)}" for problem, places in odd.items()]
    keys, starts, ends = zip(*found, strict=True) if found else ((), (), ())
    return Holds(np.array(keys, np.int64), np.array(starts, np.float64), np.array(ends, np.float64)), remarks


def _key_holds(
    time: np.ndarray, pressed: np.ndarray, start: float, end: float, breaks: np.ndarray
) -> Iterator[tuple[float, float, str]]:
    """Yields start and end of each hold of a key, and a problem or ""."""
    since: float | None = None
    for number, (now, down) in enumerate(zip(time.tolist(), pressed.tolist(), strict=True)):
        lost = _first_break(breaks, since, now) if since is not None and down else None
        if since is not None and lost is not None:  # pressed again after a break: the release went elsewhere
            yield since, lost, _LOST
            since = None
        if down:
            since = now if since is None else since
        elif since is not None:
            yield since, now, ""
            since = None
        elif number == 0 and now > start:
            yield start, now, _EARLY
    if since is not None:
        lost = _first_break(breaks, since, np.inf)
        yield since, end if lost is None else lost, _NEVER if since < end else ""


def _first_break(breaks: np.ndarray, after: float, before: float) -> float | None:
    """First of the sorted breaks between two times, both excluded."""
    number = int(np.searchsorted(breaks, after, "right"))
    return float(breaks[number]) if number < len(breaks) and breaks[number] < before else None


def _steps_of(
    low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], start: float
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """First and last step that overlap [low, high), in which times within `GUARD` of a step's start count as it."""
    guard = GUARD * FRAME_RATE
    low, high = (np.clip((times - start) * FRAME_RATE, -MAX_STEPS, 2 * MAX_STEPS) for times in (low, high))
    first, last = np.floor(low + guard).astype(np.int64), np.ceil(high - guard).astype(np.int64) - 1
    return first, np.maximum(first, last)


def _only_mapped(events: InputEvents, holds: Holds, mapping: ActionMapping) -> tuple[InputEvents, Holds]:
    """Events and holds of names in the mapping: arrays of all steps and names would take gigabytes of memory."""
    sources = set(_sources(mapping))
    kept = np.array([name in sources for name in events.names], bool)
    position = np.cumsum(kept, dtype=np.int64) - 1
    rows, held = kept[events.code], kept[holds.key]
    names = tuple(name for name in events.names if name in sources)
    num_keys = int(kept[: events.num_keys].sum())
    code = position[events.code[rows]].astype(np.int32)
    mapped = InputEvents(names, num_keys, events.time[rows], code, events.value[rows])
    return mapped, Holds(position[holds.key[held]], holds.start[held], holds.end[held])


def _held(holds: Holds, num_keys: int, start: float, steps: int) -> Bool[np.ndarray, "n source_keys"]:
    """Keys that are held at any time of each step."""
    first, last = _steps_of(holds.start, holds.end, start)
    inside = (last >= 0) & (first < steps)
    change = np.zeros((steps + 1, num_keys), np.int64)
    np.add.at(change, (np.clip(first[inside], 0, steps), holds.key[inside]), 1)
    np.add.at(change, (np.clip(last[inside] + 1, 0, steps), holds.key[inside]), -1)
    return np.cumsum(change, axis=0)[:steps] > 0


def _moved(events: InputEvents, start: float, steps: int, mouse_factor: float) -> Float64[np.ndarray, "n source_axes"]:
    """Sum of each axis's movements in each step."""
    moved = np.zeros((steps, len(events.names) - events.num_keys))
    step = np.floor((events.time - start) * FRAME_RATE + GUARD * FRAME_RATE)
    rows = (events.code >= events.num_keys) & (step >= 0) & (step < steps)
    np.add.at(moved, (step[rows].astype(np.int64), events.code[rows] - events.num_keys), events.value[rows])
    for number, name in enumerate(events.names[events.num_keys :]):
        if name in (MOUSE_X, MOUSE_Y):
            moved[:, number] *= mouse_factor
    return moved


def _map(
    held: Bool[np.ndarray, "n source_keys"],
    moved: Float64[np.ndarray, "n source_axes"],
    events: InputEvents,
    space: ActionSpace,
    mapping: ActionMapping,
) -> tuple[UInt8[np.ndarray, "n keys"], Float64[np.ndarray, "n axes"]]:
    """Maps names; summed in the mapping's order, so that the order of a recorder's names changes no bit."""
    keys = {name: number for number, name in enumerate(events.names[: events.num_keys])}
    axes = {name: number for number, name in enumerate(events.names[events.num_keys :])}
    buttons = np.zeros((len(held), len(space.keys)), np.uint8)
    camera = np.zeros((len(held), len(space.axes)))
    for source, goal in mapping.keys:
        if source in keys:
            buttons[:, space.key_index[goal]] |= held[:, keys[source]]
    for source, goal, factor in mapping.axes:
        if source in axes:
            camera[:, space.axis_index[goal]] += factor * moved[:, axes[source]]
    return buttons, camera


def _outside(events: InputEvents, start: float, end: float) -> list[str]:
    before = int((events.time < start - GUARD).sum())
    after = int((events.time >= end).sum())
    places = {"before the first frame": before, "after the last frame": after}
    return [f"{count:,} events are {place}" for place, count in places.items() if count]


def _unused(events: InputEvents, mapping: ActionMapping) -> list[str]:
    """Names with events that the mapping drops, with their numbers of presses or movements."""
    known = set(_sources(mapping))
    counts = np.bincount(events.code[events.value != 0], minlength=len(events.names)).tolist()
    unused: Mapping[str, int] = {
        name: count for name, count in zip(events.names, counts, strict=True) if count and name not in known
    }
    names = sorted(unused, key=lambda name: (-unused[name], name))
    return [f"not in the mapping: {_first([f'{name} ({unused[name]:,})' for name in names])}"] if names else []


def _first(items: Sequence[str]) -> str:
    more = len(items) - _MAX_REMARKS
    return ", ".join(items[:_MAX_REMARKS]) + (f" and {more:,} more" if more > 0 else "")
