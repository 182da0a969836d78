"""Encoding of one bridged recording in a worker process: its plays at the model's rate, cut where they are interrupted.

A recording may hold several plays, and a play several episodes, so they are known only once it is encoded. A list of
them, `.episodes`, is written last: it marks the recording as done, and has the facts and remarks of each play.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vpt_jax.data import dataset
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.data.bridges.interface import TimedPlay
from vpt_jax.data.bridges.pairing import (
    checked_events,
    frames_at_rate,
    kept_ranges,
    num_steps,
    pair_actions,
    require_mapped,
)
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.data.encode import (
    Actions,
    EncodingSettings,
    Recording,
    add_suffix,
    chunk_records,
    publish_result,
    write_broken_note,
)
from vpt_jax.data.recorded_stats import RecordedStats
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.disk_errors import is_file_specific
from vpt_jax.system.errors import UserError
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import temporary_path
from vpt_jax.video import FRAME_RATE, Frame, resize
from vpt_jax.video_files import name_problem, utf8_path

_LIST = ".episodes"
_MAX_TEXT = 2000  # characters of a fact


class BridgedRecording(NamedTuple):
    """A recording of a bridge's format, and the path of its result: `.episodes` and their files, or `.broken`."""

    split: str
    name: str
    source: Path  # as the bridge finds it
    result: Path  # without suffix; its name contains a hash of the settings and of the recording's files
    size: int  # bytes of its files

    def __str__(self) -> str:
        return str(self.source)

    @property
    def is_done(self) -> bool:
        """True if this run or an earlier one has encoded it or recorded why it is broken."""
        whole = self._whole()
        if self._list() is None:
            return whole.file(".broken").exists()
        return all(episode.is_done for episode in self.episodes())

    def remove_if_damaged(self) -> bool:
        """Removes a result with unreadable files, and returns whether it did."""
        file = add_suffix(self.result, _LIST)
        if file.exists() and self._list() is None:
            file.unlink()
            return True
        return sum(episode.remove_if_damaged() for episode in self.episodes()) > 0

    def episodes(self) -> list[Recording]:
        """Its episodes, or itself if it is broken as a whole."""
        if (listed := self._list()) is None:
            return [self._whole()]
        return [
            self._whole()._replace(name=one["name"], result=self.result.with_name(one["result"]))
            for one in listed["episodes"]
        ]

    def plays(self) -> list[dict[str, Any]]:
        """Facts, remarks, excluded seconds, steps and episodes of each play."""
        return (self._list() or {"plays": []})["plays"]

    def _whole(self) -> Recording:
        return Recording(*self)

    def _list(self) -> dict[str, Any] | None:
        listed = read_json(add_suffix(self.result, _LIST))
        return listed if isinstance(listed, dict) and listed.keys() == {"episodes", "plays"} else None


def encode_bridged(recordings: Sequence[BridgedRecording], settings: EncodingSettings) -> int:
    """Encodes a recording, or records why it is broken; returns the number of frames.

    Idempotent and safe to run concurrently, as `encode.encode_episodes`.

    Args:
        recordings: a single one.
        settings: of the frames and of the actions; its source is a bridge.
    """
    (recording,) = recordings
    source = recording.source
    listed: dict[str, list[dict[str, Any]]] = {"episodes": [], "plays": []}
    frames = 0
    try:
        if problem := name_problem(source):
            raise BrokenRecordingError(source, "unreadable name", problem)
        with _reading(source):
            plays = read_recording(settings.source, source, settings.frames_per_second)
        for number, name in enumerate(plays):
            result = recording.result.with_name(f"{recording.result.name}-{number}")
            whole = Recording(*recording)._replace(name=utf8_path(name), result=result)
            try:
                with _reading(source):
                    play = plays[name]
                episodes, found = _encode_play(whole, play, settings)
                frames += sum(length for _, length in episodes)
                listed["plays"].append(found)
                listed["episodes"] += [{"name": one.name, "result": one.result.name} for one, _ in episodes]
            except BrokenRecordingError as error:
                if len(plays) == 1:
                    raise
                write_broken_note(whole, error, _place(recording, error))
                listed["episodes"].append({"name": whole.name, "result": whole.result.name})
        if not listed["episodes"]:
            raise BrokenRecordingError(source, "no records", "it holds no play")
    except BrokenRecordingError as error:
        write_broken_note(Recording(*recording), error, _place(recording, error))
        return 0
    write_text(add_suffix(recording.result, _LIST), json.dumps(listed))
    return frames


@contextmanager
def _reading(recording: Path) -> Iterator[None]:
    """Turns errors of a recording's files, or of its numbers, into `BrokenRecordingError`.

    The same errors of the output, such as a full disk, happen outside such a block, and end the run.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and not is_file_specific(error):
            raise
        named = getattr(error, "filename", None)
        path = Path(named) if isinstance(named, str) else recording
        raise BrokenRecordingError(path, "unreadable actions", printable(error, length=500)) from error


def _read_frames(frames: Callable[[], Iterator[tuple[float, Frame]]], recording: Path) -> Iterator[tuple[float, Frame]]:
    with _reading(recording):
        yield from frames()


def _place(recording: BridgedRecording, error: BrokenRecordingError) -> str:
    """The broken file, relative to the recording's folder."""
    inside = error.path.is_relative_to(recording.source.parent)
    return utf8_path(error.path.relative_to(recording.source.parent) if inside else error.path.name)


def _encode_play(
    whole: Recording, play: TimedPlay, settings: EncodingSettings
) -> tuple[list[tuple[Recording, int]], dict[str, Any]]:
    """Encodes the episodes of a play; returns them with their lengths, and what the report has of the play."""
    jpegs = temporary_path(whole.result)  # on disk: the number of frames is in each record, and known at the end only
    times: list[float] = []
    play = replace(play, events=checked_events(play.events, whole.source))
    require_mapped(play.events, whole.source, settings.space, settings.mapping)  # before the video is decoded
    try:
        with jpegs.open("wb") as file:
            ends = _write_jpegs(file, whole, play, settings, times)
        if not times:
            raise BrokenRecordingError(whole.source, "unreadable video", f"{whole.name} has no frames")
        start, steps = times[0], num_steps(times, len(ends) - 1, play.excluded)
        factor = dict(settings.mouse_factors).get(whole.name, play.facts.get("mouse_factor", 1.0))
        paired = pair_actions(play, whole.source, start, steps, settings.space, settings.mapping, factor)
        ranges = kept_ranges(play.excluded, start, steps)
        if not ranges:
            raise BrokenRecordingError(whole.source, "too short", f"all of {whole.name} is excluded")
        actions = Actions(paired.buttons, paired.camera)
        episodes = [(_episode(whole, rows, steps), len(rows)) for rows in ranges]
        with jpegs.open("rb") as file:
            for (episode, _), rows in zip(episodes, ranges, strict=True):
                _write_episode(episode, rows, file, ends, actions, settings)
    finally:
        jpegs.unlink(missing_ok=True)
    found = {
        "name": whole.name,
        "steps": steps,
        "facts": _plain(play.facts),
        "remarks": list(paired.remarks),
        "excluded": _excluded(play, start, steps),
        "episodes": [episode.name for episode, _ in episodes],
    }
    return episodes, found


def _write_jpegs(
    file: BinaryIO, whole: Recording, play: TimedPlay, settings: EncodingSettings, times: list[float]
) -> list[int]:
    """Writes a JPEG for every step; returns the offset of each, and of the end."""
    ends = [0]
    for frame in frames_at_rate(_read_frames(play.frames, whole.source), whole.source, times, play.excluded):
        jpeg, _ = encode_chunk([resize(frame, settings.height, settings.width)], settings.quality)
        file.write(jpeg)
        ends.append(ends[-1] + len(jpeg))
    return ends


def _episode(whole: Recording, rows: range, steps: int) -> Recording:
    if len(rows) == steps:
        return whole
    place = f"{rows.start}-{rows.stop}"
    return whole._replace(name=f"{whole.name}@{place}", result=whole.result.with_name(f"{whole.result.name}-{place}"))


def _write_episode(
    episode: Recording,
    rows: range,
    jpegs: BinaryIO,
    ends: Sequence[int],
    actions: Actions,
    settings: EncodingSettings,
) -> None:
    def frames() -> Iterator[bytes]:
        jpegs.seek(ends[rows.start])
        for low, high in pairwise(ends[rows.start : rows.stop + 1]):
            yield jpegs.read(high - low)

    kept = Actions(*(field[rows.start : rows.stop] for field in actions))
    writing = temporary_path(episode.result)
    dataset.write_records(writing, chunk_records(episode.name, frames(), kept, settings))
    stats = RecordedStats(1, len(rows), 0, Counter([settings.source]))
    write_text(episode.file(".json"), json.dumps({"stats": stats.as_dict(), "first_tick": None, "last_tick": None}))
    publish_result(episode, writing, kept)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON values of limited size."""
    return {
        str(name): value if isinstance(value, bool | int) or _is_finite(value) else str(value)[:_MAX_TEXT]
        for name, value in facts.items()
    }


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and bool(np.isfinite(value))


def _excluded(play: TimedPlay, start: float, steps: int) -> list[list[float]]:
    """Excluded seconds since the first frame, within the recording."""
    end = steps / FRAME_RATE
    clipped = [[round(min(max(time - start, 0.0), end), 6) for time in pair] for pair in play.excluded]
    return [[low, high] for low, high in clipped if low < high]
