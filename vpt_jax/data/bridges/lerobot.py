"""LeRobot v3 datasets (Parquet and mp4), read without LeRobot, which needs PyTorch.

A recording is a whole dataset: the folder that has `meta/info.json`. Its episodes are plays of one player each. Rows
and frames are matched by index: the stored `timestamp` is float32 and begins anew in each episode. `lerobot_actions.py`
says which names are keys; with more than one camera, `meta/vpt.json` names the one that is read: `{"video": "KEY"}`.

That file may also have facts (facts.py): `facts` of all episodes, and `episode_facts` of each by name. Their `excluded`
is in seconds of each episode.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.facts import check_facts
from vpt_jax.data.bridges.given_facts import with_facts
from vpt_jax.data.bridges.interface import Bridge, BridgeOptions, TimedPlay
from vpt_jax.data.bridges.lerobot_actions import (
    Roles,
    elements_of,
    is_certain,
    listed_roles,
    roles_by_values,
    to_events,
    to_matrix,
)
from vpt_jax.data.bridges.lerobot_layout import (
    INFO,
    SIDECAR,
    EpisodePlace,
    FilePlace,
    Layout,
    read_episodes,
    read_layout,
    read_rows,
)
from vpt_jax.data.bridges.stored_images import decode_image
from vpt_jax.data.bridges.videos import FrameFinder
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import Frame

_SEEK_MARGIN = 1.0  # seconds before an episode: time stamps of a file may begin after zero


def find(folder: Path) -> list[Path]:
    """The folder itself if it is a dataset, or else its subfolders that are."""
    if (folder / INFO).is_file():
        return [folder]
    return sorted(path for path in folder.iterdir() if (path / INFO).is_file())


def files(recording: Path) -> list[Path]:
    """All files of a dataset."""
    parts = ("meta", "data", "videos", "images")
    return sorted(file for part in parts for file in (recording / part).rglob("*") if file.is_file())


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """The plays of all episodes, by name; each is read from the files when it is asked for."""
    layout = read_layout(recording)
    return _Plays(layout)


class _Plays(Mapping[str, TimedPlay]):
    """Episodes of a dataset by name, in their order."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._camera = _camera(layout)
        self._elements = elements_of(layout)
        is_video = layout.features[self._camera]["dtype"] == "video"
        episodes = read_episodes(layout, self._camera if is_video else "")
        self._episodes = dict(zip(_names(layout, episodes), episodes, strict=True))
        self._facts = _given(layout, layout.sidecar.get("facts", {}))
        self._episode_facts = _episode_facts(layout, self._episodes)
        self._first_rows: dict[FilePlace, int] = {}
        for episode in episodes:
            first = self._first_rows.setdefault(episode.data, episode.first_row)
            self._first_rows[episode.data] = min(first, episode.first_row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._episodes)

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, name: str) -> TimedPlay:
        """The play of an episode; if its rows are damaged, `frames` raises, so that the others can be used."""
        episode = self._episodes[name]
        facts: dict[str, object] = {"session": name}
        facts |= {key: self._layout.sidecar[key] for key in ("labels",) if key in self._layout.sidecar}
        facts |= {"text": "; ".join(episode.tasks)} if any(episode.tasks) else {}
        try:
            actions = np.concatenate(list(self._actions(episode)))
        except BrokenRecordingError as error:
            play = TimedPlay(
                events=EventList(self._layout.folder).to_events(), frames=partial(_raise, error), facts=facts
            )
        else:
            play = TimedPlay(
                events=to_events(self._layout.folder, actions, self._roles, self._layout.fps),
                frames=lambda: self._frames(episode),
                facts=facts,
                remarks=self._remarks,
            )
        return with_facts(with_facts(play, self._facts), self._episode_facts.get(name, {}))

    @cached_property
    def _roles(self) -> Roles:
        if listed := listed_roles(self._layout, self._elements):
            return listed
        return roles_by_values(self._elements, self._all_actions())

    def _all_actions(self) -> Iterator[Float64[np.ndarray, "_n elements"]]:
        """Actions of all episodes that can be read."""
        for episode in self._episodes.values():
            with suppress(BrokenRecordingError):
                yield from self._actions(episode)

    @property
    def _remarks(self) -> tuple[str, ...]:
        if {"keys", "axes"} & self._layout.sidecar.keys() or all(map(is_certain, self._elements)):
            return ()
        keys, axes = (", ".join(name for name in names if name) or "none" for names in self._roles)
        return (f"by their values, keys: {keys}; axes: {axes} ({SIDECAR} may say otherwise)",)

    def _actions(self, episode: EpisodePlace) -> Iterator[Float64[np.ndarray, "_n elements"]]:
        columns = list(dict.fromkeys(element.feature for element in self._elements))
        for file, batch in self._batches(episode, columns):
            try:
                yield to_matrix(batch, self._elements)
            except ValueError as error:
                detail = f"episode {episode.number}: {error}"
                raise BrokenRecordingError(file, "bad value", detail) from error

    def _batches(self, episode: EpisodePlace, columns: list[str]) -> Iterator[tuple[Path, pa.RecordBatch]]:
        """Rows of an episode, after a check that they are its own."""
        file = self._layout.data_file(episode.data)
        first = episode.first_row - self._first_rows[episode.data]
        position = 0
        for batch in read_rows(file, first, episode.length, [*columns, "episode_index", "frame_index"]):
            frames = np.arange(position, position + batch.num_rows)
            found = batch.column("episode_index").to_numpy(zero_copy_only=False)
            numbers = batch.column("frame_index").to_numpy(zero_copy_only=False)
            if not (found == episode.number).all() or not np.array_equal(numbers, frames):
                detail = f"row {first + position:,} and those that follow are not frames of episode {episode.number}"
                raise BrokenRecordingError(file, "frame count", detail)
            position += batch.num_rows
            yield file, batch

    def _frames(self, episode: EpisodePlace) -> Iterator[tuple[float, Frame]]:
        times = [number / self._layout.fps for number in range(episode.length)]  # stored ones are float32
        if episode.video is None:
            yield from zip(times, self._stored_images(episode), strict=True)
            return
        video = self._layout.video_file(episode.video, self._camera)
        finder = FrameFinder(video, video, 0.5 / self._layout.fps, max(episode.start - _SEEK_MARGIN, 0.0))
        for time in times:
            yield time, finder.at(episode.start + time)

    def _stored_images(self, episode: EpisodePlace) -> Iterator[Frame]:
        """Frames of a camera whose images are in the data files."""
        number = 0
        for file, batch in self._batches(episode, [self._camera]):
            for image in batch.column(self._camera).to_pylist():
                where = f"episode {episode.number}, frame {number}"
                data = image.get("bytes") if isinstance(image, dict) else image
                if not isinstance(data, bytes):
                    raise BrokenRecordingError(file, "missing video", f"{where} has no image in this file")
                yield decode_image(data, file, where)
                number += 1


def _given(layout: Layout, facts: object) -> dict[str, Any]:
    """Validated facts of `meta/vpt.json`."""
    checked = check_facts(layout.folder / SIDECAR, facts)
    if "start" in checked:
        raise BrokenRecordingError(layout.folder / SIDECAR, "bad value", "`start` must be left out: frames have times")
    return checked


def _episode_facts(layout: Layout, episodes: Collection[str]) -> dict[str, dict[str, Any]]:
    """Facts of single episodes, by name: the object `episode_facts` of `meta/vpt.json`."""
    given = layout.sidecar.get("episode_facts", {})
    if not isinstance(given, dict) or (unknown := sorted(given.keys() - set(episodes))):
        problem = f"there is no episode {unknown[0][:100]!r}" if isinstance(given, dict) else "it is not an object"
        raise BrokenRecordingError(layout.folder / SIDECAR, "bad value", f"`episode_facts`: {problem}")
    return {name: _given(layout, facts) for name, facts in given.items()}


def _raise(error: BrokenRecordingError) -> NoReturn:
    raise error


def _camera(layout: Layout) -> str:
    """Name of the camera that is read."""
    cameras = [key for key, feature in layout.features.items() if feature.get("dtype") in ("video", "image")]
    chosen = layout.sidecar.get("video", cameras[0] if len(cameras) == 1 else None)
    if chosen in cameras:
        return chosen
    if not cameras:
        raise BrokenRecordingError(layout.folder / INFO, "missing video", "`features` has no video and no image")
    detail = f'name the camera in {SIDECAR}, {{"video": "KEY"}}: {", ".join(cameras[:20])}'
    raise BrokenRecordingError(layout.folder / INFO, "missing video", detail)


def _names(layout: Layout, episodes: list[EpisodePlace]) -> list[str]:
    """Names of episodes: those of the dataset that this library exported, or the folder's, with numbers."""
    names = layout.sidecar.get("episodes")
    if isinstance(names, list) and len(names) == len(episodes) == len(set(map(str, names))):
        return [str(name) for name in names]
    folder = layout.folder.resolve().name
    return [folder] if len(episodes) == 1 else [f"{folder}-episode_{episode.number:06d}" for episode in episodes]


BRIDGE = Bridge(find=find, files=files, read=read)
