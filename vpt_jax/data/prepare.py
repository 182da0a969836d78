"""Recordings to a dataset: every intact episode is encoded by worker processes, every broken one is listed.

The work lies in `OUT.partial` until the dataset is whole; then one rename makes it `OUT`. Each episode is kept there as
soon as it is encoded, so a run that was killed goes on where it stopped. The shards and the index come out the same, to
the byte, for any number of workers, interrupted or not. While it runs, it needs twice the dataset's size on disk.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.recording import BrokenRecording, Steps, find_recordings, read_frames, read_steps
from vpt_jax.workers import locked, progress_bar, worker_pool

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
    """A recording and the place of its result: `.records` and, written last, `.npz`; or `.broken` alone."""

    split: str
    source: Path  # without suffix
    result: Path  # without suffix; the name changes with the settings and with the recording's two files
    size: int  # bytes of both files

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
    `train`. Where the dataset is there already, nothing happens. Returns its path. Raises `PrepareError`, and
    `FolderInUseError` while another run makes it.
    """
    if not (config.recordings and config.out):
        raise PrepareError("say where recordings are and where the dataset goes: --config.recordings=A --config.out=B")
    source, out = Path(config.recordings).resolve(), Path(config.out).resolve()
    settings = Settings(config.height, config.width, config.chunk_frames, config.quality)
    _check(settings)
    partial = _add_suffix(out, ".partial")
    recordings = _find(source, partial / "episodes", settings)
    results = [f"{recording.split}/{recording.result.name}" for recording in recordings]
    made_from = {"settings": asdict(settings), "recordings": _digest(results)}
    if _is_made(out, made_from):
        print("nothing to do: this dataset is made already")
    else:
        with locked(partial), worker_pool(config.workers) as pool:
            _encode_all(pool, recordings, settings)
            report = made_from | _describe(source, recordings)
            _assemble(pool, partial / "dataset", recordings, settings, report)
            (partial / "dataset").rename(out)
    shutil.rmtree(partial, ignore_errors=True)
    print(_summary(out))
    return out


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
    if not source.is_dir():
        raise PrepareError(f"there is no folder of recordings at {source}")
    folders = {split: source / split for split in SPLITS if (source / split).is_dir()}
    loose = find_recordings(source)
    if folders and loose:
        raise PrepareError(f"{loose[0]} lies beside the splits {', '.join(folders)}: move it into one of these folders")
    found = {split: find_recordings(folder) for split, folder in folders.items()} or {"train": loose}
    if not any(found.values()):
        raise PrepareError(f"there are no recordings (NAME.mp4 and NAME.jsonl) in {source}")
    return [_recording(split, path, results, settings) for split, paths in found.items() for path in paths]


def _recording(split: str, path: Path, results: Path, settings: Settings) -> Recording:
    halves = [half for suffix in (".mp4", ".jsonl") if (half := _add_suffix(path, suffix)).exists()]
    stats = [half.stat() for half in halves]
    state = [asdict(settings), [half.suffix for half in halves], [(stat.st_size, stat.st_mtime_ns) for stat in stats]]
    result = results / split / f"{path.name}-{_digest(state)}"
    return Recording(split, path, result, sum(stat.st_size for stat in stats))


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


def _encode_all(pool: ProcessPoolExecutor, recordings: Sequence[Recording], settings: Settings) -> None:
    """Runs `encode_episode` on all recordings not yet done, and shows how it goes."""
    for folder in {recording.result.parent for recording in recordings}:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*.writing"):
            left_over.unlink()
    todo = [recording for recording in recordings if not recording.is_done]
    if len(todo) < len(recordings):
        print(f"{len(recordings) - len(todo)} of {len(recordings)} recordings are done already", flush=True)
    frames, start = 0, time.monotonic()
    size = sum(recording.size for recording in todo)
    with progress_bar(size, desc="encoding", unit="B", unit_scale=True) as bar:
        futures = {pool.submit(encode_episode, recording, settings): recording for recording in todo}
        for done, future in enumerate(as_completed(futures), 1):
            recording = futures[future]
            frames += _result(future, recording)
            rate = frames / (time.monotonic() - start)
            bar.set_postfix_str(f"{done}/{len(todo)} recordings, {rate:,.0f} frames/s", refresh=False)
            bar.update(recording.size)


def _result(future: Future, recording: Recording) -> int:
    try:
        return future.result()
    except BrokenProcessPool:
        at_work = ", ".join(sorted(path.name for path in recording.result.parent.parent.glob("*/*.writing")))
        raise PrepareError(
            f"a worker process died, short of memory or by one of these recordings: {at_work}. What is done is kept: "
            "run the same command again, with a smaller --config.workers or without that recording"
        ) from None
    except Exception as error:
        error.add_note(f"while encoding {recording.source}; what is done is kept, run the same command to go on")
        raise


def encode_episode(recording: Recording, settings: Settings) -> int:
    """Encodes a recording, or notes why it is broken; returns its number of frames, 0 for a broken one."""
    mp4, jsonl = (_add_suffix(recording.source, suffix) for suffix in (".mp4", ".jsonl"))
    writing = recording.file(".writing")
    try:
        steps = read_steps(jsonl)
        frames = read_frames(mp4, steps, settings.height, settings.width)
        dataset.write_records(writing, _records(recording.source.name, frames, steps, settings))
    except BrokenRecording as error:
        note = {"file": error.path.name, "reason": error.reason, "detail": error.detail}
        writing.write_text(json.dumps(note))
        writing.rename(recording.file(".broken"))
        return 0
    writing.rename(recording.file(".records"))
    with writing.open("wb") as file:
        np.savez(file, buttons=steps.buttons, camera=steps.camera)
    writing.rename(recording.file(".npz"))
    return len(steps.buttons)


def _records(name: str, frames: Iterator[np.ndarray], steps: Steps, settings: Settings) -> Iterator[bytes]:
    """The serialised chunks of an episode. Runs `frames` to its end, since only there it can find a frame too many."""
    total = len(steps.buttons)
    for chunk, first in enumerate(range(0, total, settings.chunk_frames)):
        rows = slice(first, first + settings.chunk_frames)
        data, ends = encode_chunk(islice(frames, settings.chunk_frames), settings.quality)
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
    next(frames, None)


def _assemble(
    pool: ProcessPoolExecutor, folder: Path, recordings: Sequence[Recording], settings: Settings, report: dict[str, Any]
) -> None:
    """Writes the dataset of all intact episodes to `folder`, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    shard_lengths = {}
    for split, counts in report["splits"].items():
        if counts["episodes"]:
            episodes = [r for r in recordings if r.split == split and r.file(".npz").exists()]
            shard_lengths[split] = _write_split(pool, folder, split, episodes, settings.chunk_frames)
    if not shard_lengths:
        raise PrepareError(f"all {len(recordings)} recordings are broken; {folder / 'report.json'} says why")
    dataset.write_metadata(folder, shard_lengths)


def _write_split(
    pool: ProcessPoolExecutor, folder: Path, split: str, episodes: Sequence[Recording], chunk_frames: int
) -> list[int]:
    """Writes a split's shards and index; returns the number of records in each shard."""
    dataset.write_index(
        folder / "index" / split,
        {episode.source.name: len(episode.actions()["buttons"]) for episode in episodes},
        (episode.actions()["buttons"] for episode in episodes),
        (episode.actions()["camera"] for episode in episodes),
        (np.ones(len(episode.actions()["camera"]), np.float32) for episode in episodes),
        "recorded",
        chunk_frames,
    )
    shards = list(dataset.group_by_size([episode.file(".records") for episode in episodes], dataset.SHARD_BYTES))
    paths = [dataset.shard_path(folder, split, i, len(shards)) for i in range(len(shards))]
    return list(pool.map(dataset.join_records, paths, shards))


def _describe(source: Path, recordings: Sequence[Recording]) -> dict[str, Any]:
    """What went in and what was left out, for `report.json`."""
    splits = {recording.split: Counter(episodes=0, frames=0, broken=0) for recording in recordings}
    broken = []
    for recording in recordings:
        if recording.file(".npz").exists():
            splits[recording.split].update(episodes=1, frames=len(recording.actions()["buttons"]))
            continue
        note = json.loads(recording.file(".broken").read_text())
        splits[recording.split].update(broken=1)
        broken.append(note | {"file": str(recording.source.with_name(note["file"]).relative_to(source))})
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
