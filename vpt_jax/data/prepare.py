"""Recordings to a dataset: every intact episode is encoded by worker processes, every broken one is listed.

The work lies in `OUT.partial` until the dataset is whole; then one rename makes it `OUT`. Each episode is kept there as
soon as it is encoded, so a run that was killed goes on where it stopped. The shards and the index come out the same, to
the byte, for any number of workers, interrupted or not. While it runs, it needs twice the dataset's size on disk.
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.data import beam, dataset, manifest
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.recording import BrokenRecording, Steps, find_recordings, read_frames, read_steps, recording_file
from vpt_jax.video import FRAME_RATE
from vpt_jax.video_files import name_problem, printable_path, utf8_path
from vpt_jax.workers import Run, in_processes, locked, progress_bar, unique_name

SPLITS = ("train", "valid", "test")


class PrepareError(Exception):
    """A dataset that cannot be made as asked; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """What decides, together with the recordings, every byte of a dataset (fields: configs/prepare.py)."""

    height: int
    width: int
    chunk_frames: int
    quality: int
    layout: str = dataset.VERSION


class Recording(NamedTuple):
    """A recording, or some of its frames, and the place of the result: `.records` and, last, `.npz`; or `.broken`."""

    split: str
    name: str  # of the episode
    source: Path  # without suffix
    result: Path  # without suffix; the name changes with the settings and with the recording's two files
    size: int  # bytes of both files
    first: int = 0
    stop: int | None = None  # None: to the end

    def __str__(self) -> str:
        return f"{self.source.with_name(self.name)}"

    @property
    def is_done(self) -> bool:
        """Whether this run, or one before, has dealt with it."""
        return self.file(".npz").exists() or self.file(".broken").exists()

    def file(self, suffix: str) -> Path:
        """A file of the result."""
        return _add_suffix(self.result, suffix)

    def actions(self) -> dict[str, np.ndarray]:
        """The stored actions: `buttons` uint8 [n, 20] and `camera` float32 [n, 2]."""
        with np.load(self.file(".npz")) as stored:
            return dict(stored)


def prepare(config: ConfigDict) -> Path:
    """Makes the dataset `config.out` of the recordings in `config.recordings` (fields: configs/prepare.py).

    Recordings lie in the subfolders train, valid and test, each a split, or all in the folder itself: then all are
    `train`. Or they are the segments of a manifest in such a folder (vpt_jax/data/manifest.py). Where the dataset is
    there already, nothing happens. Returns its path. Raises `PrepareError`, and `FolderInUseError` while another run
    makes it.
    """
    if not (config.recordings and config.out):
        raise PrepareError("say where recordings are and where the dataset goes: --config.recordings=A --config.out=B")
    source, out = Path(config.recordings).resolve(), Path(config.out).resolve()
    settings = Settings(config.height, config.width, config.chunk_frames, config.quality)
    _check(settings)
    partial = _add_suffix(out, ".partial")
    recordings = _find(source, partial / "episodes", settings)
    for recording in recordings:
        if problem := name_problem(recording.source):
            print(f"broken: {printable_path(recording.source)}: {problem}", flush=True)
    results = [f"{recording.split}/{recording.result.name}" for recording in recordings]
    made_from = {"settings": asdict(settings), "recordings": _digest(results)}
    if _is_made(out, made_from):
        print("nothing to do: this dataset is made already")
    else:
        with locked(partial), _workers(config) as run:
            _encode_all(run, recordings, settings)
            report = made_from | _describe(source, recordings)
            _assemble(run, partial / "dataset", recordings, settings, report)
            (partial / "dataset").rename(out)
    shutil.rmtree(partial, ignore_errors=True)
    print(_summary(out))
    return out


def _workers(config: ConfigDict) -> AbstractContextManager[Run]:
    if config.beam.runner:
        return beam.on_runner(config.beam.runner, config.beam.options)
    return in_processes(config.workers)


def _check(settings: Settings) -> None:
    for field in ("height", "width"):
        if (size := getattr(settings, field)) < 8 or size % 8:
            raise PrepareError(f"config.{field} is {size}, and must be divisible by 8, as the model's input is")
    if settings.chunk_frames < 1:
        raise PrepareError(f"config.chunk_frames is {settings.chunk_frames}, and must be 1 or more")
    if not 1 <= settings.quality <= 100:
        raise PrepareError(f"config.quality is {settings.quality}, and must be from 1 to 100")


def _find(source: Path, results: Path, settings: Settings) -> list[Recording]:
    """All recordings, split by split, in the order of their names."""
    if source.suffix == manifest.SUFFIX and source.is_file():
        return _find_segments(source, results, settings)
    if not source.is_dir():
        raise PrepareError(f"there is no folder of recordings at {source}, and no manifest (NAME{manifest.SUFFIX})")
    folders = {split: source / split for split in SPLITS if (source / split).is_dir()}
    loose = find_recordings(source)
    if folders and loose:
        raise PrepareError(f"{loose[0]} lies beside the splits {', '.join(folders)}: move it into one of these folders")
    found = {split: find_recordings(folder) for split, folder in folders.items()} or {"train": loose}
    if not any(found.values()):
        raise PrepareError(f"there are no recordings (NAME.mp4 and NAME.jsonl) in {source}")
    return [_recording(split, path, results, settings) for split, paths in found.items() for path in paths]


def _find_segments(source: Path, results: Path, settings: Settings) -> list[Recording]:
    """The segments of a manifest; the subfolder that a video lies in is its split, as with folders."""
    try:
        segments = manifest.read_segments(source)
    except manifest.ManifestError as error:
        raise PrepareError(str(error)) from error
    found: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    for segment in segments:  # those of a recording after one another, as they are in time
        folder, video = Path(segment.video).parent.as_posix(), source.parent / segment.video
        split = folder if folder in SPLITS else "train"
        whole = _recording(split, video.with_suffix(""), results, settings)
        place = whole.result.with_name(f"{whole.result.name}-{_digest(segment)}")
        name, rows = segment.name.removeprefix(f"{split}/"), segment.frames
        found[split].append(whole._replace(name=name, result=place, first=rows.start, stop=rows.stop))
    for recordings in found.values():
        names = Counter(recording.name for recording in recordings)
        if twice := [name for name, count in names.items() if count > 1]:
            raise PrepareError(f"{source}: two segments would be called {twice[0]}: remove one")
    return [recording for of_split in found.values() for recording in of_split]


def _recording(split: str, path: Path, results: Path, settings: Settings) -> Recording:
    halves = [half for suffix in (".mp4", ".jsonl") if (half := recording_file(path, suffix)).exists()]
    stats = [half.stat() for half in halves]
    state = [asdict(settings), [half.suffix for half in halves], [(stat.st_size, stat.st_mtime_ns) for stat in stats]]
    plain = len(os.fsencode(path.name)) < 150 and not name_problem(path.name)
    name = path.name if plain else f"{utf8_path(path.name)[:30]}-{_digest(path.name)}"
    result = results / split / f"{name}-{_digest(state)}"
    return Recording(split, utf8_path(path.name), path, result, sum(stat.st_size for stat in stats))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _add_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # `with_suffix` would cut the name at its last dot


def _is_made(out: Path, made_from: dict[str, Any]) -> bool:
    """Whether `out` is this very dataset; raises where it is anything else but empty."""
    if not out.exists() or not any(out.iterdir()):
        return False
    if not (out / "report.json").is_file():
        raise PrepareError(f"{out} is in use by something else: choose another --config.out")
    there = json.loads((out / "report.json").read_text())
    if there["settings"] != made_from["settings"]:
        differ = [f"{key} {there['settings'].get(key)}, not {value}" for key, value in made_from["settings"].items()
                  if there["settings"].get(key) != value]  # fmt: skip
        raise PrepareError(f"{out} was made with {'; '.join(differ)}: remove it, or choose another --config.out")
    if there["recordings"] != made_from["recordings"]:
        raise PrepareError(f"recordings changed since {out} was made: remove it, or choose another --config.out")
    return True


def _encode_all(run: Run, recordings: Sequence[Recording], settings: Settings) -> None:
    """Runs `encode_episodes` on all recordings not yet done, and shows how it goes."""
    for folder in {recording.result.parent for recording in recordings}:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*.writing"):
            left_over.unlink()
    left = [recording for recording in recordings if not recording.is_done]
    if len(left) < len(recordings):
        print(f"{len(recordings) - len(left)} of {len(recordings)} recordings are done already", flush=True)
    todo = [list(parts) for _, parts in groupby(left, key=lambda recording: recording.source)]
    frames, start = 0, time.monotonic()
    with progress_bar(sum(parts[0].size for parts in todo), desc="encoding", unit="B", unit_scale=True) as bar:
        try:
            for done, (number, count) in enumerate(run(encode_episodes, [(parts, settings) for parts in todo]), 1):
                frames += count
                rate = f", {frames / (time.monotonic() - start):,.0f} frames/s" if frames else ""
                bar.set_postfix_str(f"{done}/{len(todo)} recordings{rate}", refresh=False)
                bar.update(todo[number][0].size)
        except BrokenProcessPool:
            raise PrepareError(
                f"a worker process died, short of memory or by one of these recordings: {_at_work(left)}. What is done "
                "is kept: run the same command again, with a smaller --config.workers or without that recording"
            ) from None


def _at_work(recordings: Sequence[Recording]) -> str:
    begun = {path.name for folder in {one.result.parent for one in recordings} for path in folder.glob("*.writing")}
    return ", ".join(str(one) for one in recordings if any(name.startswith(one.result.name) for name in begun))


def encode_episodes(parts: Sequence[Recording], settings: Settings) -> int:
    """Encodes a recording, or some segments of it, or notes why they are broken; returns the number of frames.

    Done twice, even at the same time, it does no harm: whoever is last replaces the same by the same.

    Args:
        parts: of one recording, in the order of time.
    """
    mp4, jsonl = (recording_file(parts[0].source, suffix) for suffix in (".mp4", ".jsonl"))
    files = {part: unique_name(part.result) for part in parts}
    try:
        if problem := name_problem(jsonl):
            raise BrokenRecording(jsonl, "unreadable name", problem)
        steps = read_steps(jsonl)
        rows = {part: kept for part in parts if (kept := _rows(part, len(steps.buttons)))}
        frames = read_frames(mp4, steps, settings.height, settings.width)
        _write_parts(rows, files, frames, steps, settings)
    except BrokenRecording as error:
        for part in parts:
            files[part].unlink(missing_ok=True)
            _note_broken(part, error)
        return 0
    for part in parts:
        if part in rows:
            _keep(part, files[part], steps.buttons[rows[part]], steps.camera[rows[part]])
        else:
            _note_broken(part, BrokenRecording(jsonl, "too short", f"there are no steps {part.first} to {part.stop}"))
    return sum(kept.stop - kept.start for kept in rows.values())


def _rows(part: Recording, there: int) -> slice | None:
    """The steps that are asked for, or None if they are not there. A second may be missing: films' ends are rounded."""
    stop = there if part.stop is None else part.stop
    return slice(part.first, min(stop, there)) if part.first < there and stop < there + FRAME_RATE else None


def _write_parts(
    rows: Mapping[Recording, slice],
    files: Mapping[Recording, Path],
    frames: Iterator[np.ndarray],
    steps: Steps,
    settings: Settings,
) -> None:
    """Writes the records of some steps each. All frames are read, since only their end tells whether they fit."""
    position = 0
    for part, wanted in rows.items():
        deque(islice(frames, wanted.start - position), maxlen=0)
        kept = Steps(*(field[wanted] for field in steps))
        dataset.write_records(files[part], _records(part.name, frames, kept, settings))
        position = wanted.stop
    deque(frames, maxlen=0)


def _note_broken(part: Recording, error: BrokenRecording) -> None:
    writing = unique_name(part.result)
    writing.write_text(json.dumps({"file": utf8_path(error.path.name), "reason": error.reason, "detail": error.detail}))
    writing.rename(part.file(".broken"))


def _keep(part: Recording, records: Path, buttons: np.ndarray, camera: np.ndarray) -> None:
    """Gives the records their name, and then the actions: with them a recording is done."""
    records.rename(part.file(".records"))
    with records.open("wb") as file:
        np.savez(file, buttons=buttons, camera=camera)
    records.rename(part.file(".npz"))


def _records(name: str, frames: Iterator[np.ndarray], steps: Steps, settings: Settings) -> Iterator[bytes]:
    """The serialised chunks of an episode; takes as many frames as there are steps."""
    total = len(steps.buttons)
    for chunk, first in enumerate(range(0, total, settings.chunk_frames)):
        rows = slice(first, first + settings.chunk_frames)
        data, ends = encode_chunk(islice(frames, len(steps.camera[rows])), settings.quality)
        yield dataset.serialize_chunk(
            {
                "frames": data,
                "frame_ends": ends,
                "buttons": steps.buttons[rows],
                "camera": steps.camera[rows],
                "confidence": np.ones(len(steps.camera[rows]), np.float32),
                "labels": "recorded",
                "episode": name,
                "chunk": chunk,
                "first_frame": first,
                "num_frames": total,
            }
        )


def _assemble(
    run: Run, folder: Path, recordings: Sequence[Recording], settings: Settings, report: dict[str, Any]
) -> None:
    """Writes the dataset of all intact episodes to `folder`, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shard_lengths = {}
    for split, counts in report["splits"].items():
        if counts["episodes"]:
            episodes = [r for r in recordings if r.split == split and r.file(".npz").exists()]
            shard_lengths[split] = _write_split(run, folder, split, episodes, settings.chunk_frames)
    if not shard_lengths:
        raise PrepareError(f"all {len(recordings)} recordings are broken; {folder / 'report.json'} says why")
    dataset.write_metadata(folder, shard_lengths)


def _write_split(run: Run, folder: Path, split: str, episodes: Sequence[Recording], chunk_frames: int) -> list[int]:
    """Writes a split's shards and index; returns the number of records in each shard."""
    dataset.write_index(
        folder / "index" / split,
        {episode.name: len(episode.actions()["buttons"]) for episode in episodes},
        (episode.actions()["buttons"] for episode in episodes),
        (episode.actions()["camera"] for episode in episodes),
        (np.ones(len(episode.actions()["camera"]), np.float32) for episode in episodes),
        "recorded",
        chunk_frames,
    )
    shards = list(dataset.group_by_size([episode.file(".records") for episode in episodes], dataset.SHARD_BYTES))
    paths = [dataset.shard_path(folder, split, i, len(shards)) for i in range(len(shards))]
    joined = [folder.parent / "shards" / path.name for path in paths]  # apart: a lost worker leaves half a file
    joined[0].parent.mkdir(exist_ok=True)
    for _ in run(dataset.join_records, list(zip(joined, shards, strict=True))):
        pass
    for file, path in zip(joined, paths, strict=True):
        file.rename(path)
    return list(map(dataset.count_records, paths))


def _describe(source: Path, recordings: Sequence[Recording]) -> dict[str, Any]:
    """What went in and what was left out, for `report.json`."""
    folder = source.parent if source.is_file() else source
    splits = {recording.split: Counter(episodes=0, frames=0, broken=0) for recording in recordings}
    broken = []
    for recording in recordings:
        if recording.file(".npz").exists():
            splits[recording.split].update(episodes=1, frames=len(recording.actions()["buttons"]))
            continue
        note = json.loads(recording.file(".broken").read_text())
        splits[recording.split].update(broken=1)
        broken.append(note | {"file": str(recording.source.with_name(note["file"]).relative_to(folder))})
    return {"splits": splits, "broken": broken}


def _summary(out: Path) -> str:
    report = json.loads((out / "report.json").read_text())
    lines = [f"dataset {out}"]
    for split, counts in report["splits"].items():
        intact = f"{counts['episodes']:,} episodes of {counts['frames']:,} frames"
        lines.append(f"  {split}: {intact}, {counts['broken']:,} broken recordings")
    reasons = Counter(note["reason"] for note in report["broken"])
    for reason, count in reasons.most_common():
        lines.append(f"  left out for {reason!r}: {count:,}")
    if reasons:
        lines.append(f"  every one is listed in {out / 'report.json'}")
    return "\n".join(lines)
