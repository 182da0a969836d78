"""Recordings of evaluated episodes: in OpenAI's format if the actions are of MineRL's space, else as event tables.

Both can be prepared for training (`launch/prepare.py`; an event table with `--source=event_table` and the space).
"""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.bridges import event_table
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.pairing import pair_actions
from vpt_jax.recording import RecordingWriter, read_steps
from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.video import FRAME_RATE, Frame, VideoWriter


class EpisodeActions(NamedTuple):
    """Actions of an episode's `n` steps, in a space."""

    space: ActionSpace
    buttons: UInt8[np.ndarray, "n keys"]
    camera: Float[np.ndarray, "n axes"]


class EpisodeWriter(Protocol):
    """Writer of one episode."""

    def write(self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        """Append a frame and the action taken after it."""
        ...


@contextmanager
def episode_writer(path: Path, height: int, width: int, space: ActionSpace) -> Iterator[EpisodeWriter]:
    """Writes an episode's files, which appear at the end of the block; none if it raises.

    Args:
        path: without suffix.
        height, width: of the frames.
        space: of the actions.
    """
    if space == MINERL:
        with RecordingWriter(path, height, width) as recording:
            yield _OpenAIWriter(recording)
        return
    with VideoWriter(path.with_name(f"{path.name}.mp4"), height, width) as video:
        writer = _EventWriter(space, video)
        yield writer
    with atomic_write(path.with_name(f"{path.name}.csv")) as writing, writing.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([event_table.COLUMNS, *writer.rows()])


class _OpenAIWriter:
    def __init__(self, recording: RecordingWriter):
        self._recording = recording

    def write(self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        self._recording.write(frame, MINERL.to_env(buttons, camera))


class _EventWriter:
    def __init__(self, space: ActionSpace, video: VideoWriter):
        self._space, self._video, self._steps = space, video, 0
        self._held = np.zeros(len(space.keys), bool)
        self._rows: list[tuple[float, str, str, float | str]] = []

    def write(self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        self._video.write(frame)
        time, held = self._steps / FRAME_RATE, np.asarray(buttons) > 0
        for key in np.flatnonzero(held != self._held):
            self._rows.append((time, "press" if held[key] else "release", self._space.keys[key], ""))
        for axis, moved in zip(self._space.axes, np.asarray(camera).tolist(), strict=True):
            if moved:
                self._rows.append((time, "move", axis.name, moved))
        self._held, self._steps = held, self._steps + 1

    def rows(self) -> list[tuple[float, str, str, float | str]]:
        """Events of the whole episode; keys that are held come up at its end."""
        end = self._steps / FRAME_RATE
        return [*self._rows, *((end, "release", self._space.keys[key], "") for key in np.flatnonzero(self._held))]


def actions_file(path: Path) -> Path:
    """File of an episode's actions; it appears after the video."""
    openai = path.with_name(f"{path.name}.jsonl")
    return openai if openai.exists() else path.with_name(f"{path.name}.csv")


def read_actions(path: Path, space: ActionSpace, limit: int) -> EpisodeActions:
    """Reads the actions of an episode's first steps.

    Args:
        path: without suffix.
        space: of the actions, unless they are in OpenAI's format.
        limit: number of steps to read; there may be fewer.

    Raises:
        BrokenRecordingError: its files are damaged.
    """
    if (file := actions_file(path)).suffix == ".jsonl":
        steps = read_steps(file)
        return EpisodeActions(MINERL, steps.buttons[:limit], steps.camera[:limit])
    play = event_table.read(path, BridgeOptions())[path.name]
    times = [time for time, _ in play.frames()]
    paired = pair_actions(play, file, times[0], len(times), space)
    return EpisodeActions(space, paired.buttons[:limit], paired.camera[:limit])
