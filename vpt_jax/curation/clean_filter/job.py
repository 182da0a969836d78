"""Resumable filter job: a folder of videos in, a table of their clean segments out.

    OUT/segments.parquet            clean segments: video, start and end in seconds, share of clean frames
    OUT/filtered.parquet            every video: shares of its frames by class, kept or not, and the reason if not
    OUT/filter.answers/             cached class scores of the sampled frames, a file per video

A job that was killed resumes with the videos that have no cached scores. With other rules, or more videos, only new
videos are decoded.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vpt_jax.curation.clean_filter.classifier import CLASSES, FrameClassifier
from vpt_jax.curation.clean_filter.embedders import Embedder
from vpt_jax.curation.clean_filter.segments import SegmentRules, select_segments
from vpt_jax.curation.clean_filter.training import BATCH, classify, embed_batch
from vpt_jax.data.clips import Clip, content_keys, require_videos
from vpt_jax.data.manifest import write_table
from vpt_jax.system.atomic_files import atomic_write, read_arrays, read_json, write_text
from vpt_jax.system.cores import available_cores
from vpt_jax.system.errors import UserError
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import locked, progress_bar, task_result, worker_pool
from vpt_jax.video import FRAME_RATE, VideoError, resize
from vpt_jax.video_files import utf8_path

SEGMENTS = pa.schema([("video", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("clean", pa.float64())])
VIDEOS = pa.schema(
    [("name", pa.string()), ("video", pa.string()), ("kept", pa.bool_()), ("reason", pa.string()),
     ("seconds", pa.float64()), ("clean_seconds", pa.float64()), ("clean", pa.float64())]
    + [(f"labelled_{name}", pa.float64()) for name in CLASSES]
)  # fmt: skip


class FilterError(UserError):
    """Videos that cannot be filtered as configured; the message gives the remedy."""


class ClipDecisions(NamedTuple):
    """Class scores of the sampled frames of a clip, or why it cannot be read. Field names are array names on disk."""

    ticks: Int[np.ndarray, " n"]  # indices of the sampled frames, at 20 per second
    decisions: Float[np.ndarray, "n 3"]
    frames: int  # of the clip at 20 per second
    broken: str = ""  # why it cannot be read; empty if it can


def filter_videos(config: ConfigDict, classifier: FrameClassifier, embedder: Embedder) -> Path:
    """Writes the tables of the clean segments of `config.videos`; returns the path of `segments.parquet`.

    Raises `FilterError`, and `FolderInUseError` while another run writes to the same folder.
    """
    source = Path(config.videos).resolve()
    out = Path(config.out).resolve() if config.out else source if source.is_dir() else source.parent
    clips = _find_clips(source, out)
    folder = out / "filter.answers"
    with locked(folder):
        _invalidate_cache(folder, classifier, config.frames_per_second)
        results = {name: _result_file(folder, key) for name, key in content_keys(clips).items()}
        _classify_all(clips, results, config, classifier, embedder)
        scored = {name: _load_saved(result) for name, result in results.items()}
    rules = SegmentRules(config.median_window, config.min_seconds, config.min_share)
    threshold = classifier.threshold if config.threshold is None else config.threshold
    tables = [_table_rows(out, name, clips[name], decided, threshold, rules) for name, decided in scored.items()]
    write_table(out / "filtered.parquet", [row for row, _ in tables], VIDEOS)
    write_table(out / "segments.parquet", [row for _, rows in tables for row in rows], SEGMENTS)
    print(_summary(out, [row for row, _ in tables]))
    return out / "segments.parquet"


def check_config(config: ConfigDict) -> None:
    """Raises FilterError for an invalid field of the config."""
    if config.median_window < 1 or config.median_window % 2 == 0:
        raise FilterError(f"config.median_window is {config.median_window}, and must be odd, 1 or more")
    if not 0 < (rate := config.frames_per_second) <= FRAME_RATE:
        raise FilterError(f"config.frames_per_second is {rate}, and must be above 0 and at most {FRAME_RATE}")
    if not 0 <= config.min_share <= 1:
        raise FilterError(f"config.min_share is {config.min_share}, and must be from 0 to 1")
    if config.min_seconds < 0 or config.workers < 0:
        raise FilterError("config.min_seconds and config.workers must not be negative")


def _find_clips(source: Path, out: Path) -> dict[str, Clip]:
    if source in (out / "segments.parquet", out / "filtered.parquet"):
        raise FilterError(f"{source} would be overwritten: give it another name, or choose another --config.out")
    clips = require_videos(source, FilterError)
    if not all(clip.video.is_relative_to(out) for clip in clips.values()):
        raise FilterError(
            f"config.out is {out}, and must be a folder that contains the videos: the tables name them by "
            "their paths in it"
        )
    return clips


def _invalidate_cache(folder: Path, classifier: FrameClassifier, frames_per_second: float) -> None:
    """Empties the cache if another classifier or frame rate wrote it: recomputing is quicker than asking the user."""
    file, made_of = folder / "settings.json", {"machine": classifier.digest(), "rate": frames_per_second}
    if read_json(file) == made_of:
        return
    for old in [file, *folder.glob("*.npz")]:
        old.unlink(missing_ok=True)
    write_text(file, json.dumps(made_of) + "\n")


def _result_file(folder: Path, key: str) -> Path:
    """Cache file of a clip, addressed by content: `key` is the same for the same content, whatever the file name."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _classify_all(
    clips: dict[str, Clip],
    results: dict[str, Path],
    config: ConfigDict,
    classifier: FrameClassifier,
    embedder: Embedder,
) -> None:
    """Scores every video that is not in the cache. Workers decode a few videos ahead (prefetch)."""
    for folder in {result.parent for result in results.values()}:
        for left_over in (*folder.glob("*.npy"), *folder.glob("*.writing")):
            left_over.unlink()
    todo = [(clip, results[name]) for name, clip in clips.items() if _load(results[name]) is None]
    if len(todo) < len(clips):
        print(f"{len(clips) - len(todo)} of {len(clips)} videos are classified already", flush=True)
    if not todo:
        return
    size = sum(clip.size for clip, _ in todo)
    with progress_bar(size, desc="filtering", unit="B", unit_scale=True) as bar, worker_pool(config.workers) as pool:
        for clip, result, future in _prefetch(pool, todo, config, embedder):
            _save(result, _classify_clip(task_result(future, clip, FilterError), result, classifier, embedder))
            bar.update(clip.size)


def _prefetch(
    pool: ProcessPoolExecutor, todo: list[tuple[Clip, Path]], config: ConfigDict, embedder: Embedder
) -> Iterator[tuple[Clip, Path, Future]]:  # fmt: skip
    waiting: deque[tuple[Clip, Path, Future]] = deque()
    for clip, result in todo:
        future = pool.submit(sample_frames, clip, result, config.frames_per_second, embedder.size)
        waiting.append((clip, result, future))
        if len(waiting) > 2 * (config.workers or available_cores()):  # bounded: frames decoded ahead take disk space
            yield waiting.popleft()
    yield from waiting


def sample_frames(
    clip: Clip, result: Path, frames_per_second: float, size: tuple[int, int]
) -> tuple[list[int], int, str]:  # fmt: skip
    """Writes sampled frames of a clip, resized, to a `.npy` file next to `result`; runs in a worker process.

    Returns the indices of the sampled frames at 20 per second, the number of all frames, and the problem if the video
    is broken, else "".
    """
    ticks: list[int] = []
    count = 0
    writing = result.with_suffix(".writing")
    try:
        with writing.open("wb") as file:
            for frame in clip.frames():
                if count * frames_per_second >= len(ticks) * FRAME_RATE:
                    file.write(resize(frame, *size).tobytes())
                    ticks.append(count)
                count += 1
        if not ticks:
            raise VideoError("unreadable video", "it has no frames")
    except (VideoError, FileNotFoundError) as error:  # a manifest may name a missing file
        writing.unlink()
        reason = str(error) if isinstance(error, VideoError) else "missing video: no such file"
        return [], 0, reason.replace(str(clip.video), clip.video.name)
    writing.rename(result.with_suffix(".npy"))
    return ticks, count, ""


def _classify_clip(
    sampled: tuple[list[int], int, str], result: Path, classifier: FrameClassifier, embedder: Embedder
) -> ClipDecisions:  # fmt: skip
    ticks, count, broken = sampled
    if broken:
        return ClipDecisions(np.zeros(0, int), np.zeros((0, len(CLASSES))), 0, broken)
    file = result.with_suffix(".npy")
    frames = np.memmap(file, np.uint8, "r", shape=(len(ticks), *embedder.size, 3))
    decisions = [
        classifier.decision_function(embed_batch(frames[start : start + BATCH], embedder))
        for start in range(0, len(ticks), BATCH)
    ]
    file.unlink()
    return ClipDecisions(np.array(ticks), np.concatenate(decisions), count)


def _save(result: Path, decided: ClipDecisions) -> None:
    with atomic_write(result) as writing, writing.open("wb") as file:
        np.savez(file, **decided._asdict())


def _load(result: Path) -> ClipDecisions | None:
    """Cached scores of a clip; None if they are missing or damaged."""
    fields = read_arrays(result)
    if fields is None or fields.keys() != set(ClipDecisions._fields):
        return None
    return ClipDecisions(fields["ticks"], fields["decisions"], int(fields["frames"]), str(fields["broken"]))


def _load_saved(result: Path) -> ClipDecisions:
    decided = _load(result)
    if decided is None:
        raise FilterError(f"{result} was written, but cannot be read back: check the disk, then run it again")
    return decided


def _table_rows(
    out: Path, name: str, clip: Clip, decided: ClipDecisions, threshold: float, rules: SegmentRules
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """A clip's row in `filtered.parquet`, and the rows of its segments in `segments.parquet`."""
    video = utf8_path(clip.video.relative_to(out).as_posix())
    labels = classify(decided.decisions, threshold)
    times = [(clip.first + frame) / FRAME_RATE for frame in (*decided.ticks.tolist(), decided.frames)]
    selection = select_segments(labels == 0, times, rules)
    shares = {f"labelled_{kind}": float(np.mean(labels == i)) if len(labels) else 0.0 for i, kind in enumerate(CLASSES)}
    clean_seconds = sum(span.end - span.start for span in selection.spans)
    row = {"name": name, "video": video, "kept": bool(selection.spans), "reason": decided.broken or selection.reason,
           "seconds": decided.frames / FRAME_RATE, "clean_seconds": clean_seconds,
           "clean": selection.share}  # fmt: skip
    return row | shares, [{"video": video} | span._asdict() for span in selection.spans]


def _summary(out: Path, rows: list[dict[str, Any]]) -> str:
    kept, seconds = sum(row["kept"] for row in rows), sum(row["clean_seconds"] for row in rows)
    lines = [
        f"{out / 'segments.parquet'}: {seconds / 60:.1f} of {sum(row['seconds'] for row in rows) / 60:.1f} minutes, "
        f"of {kept} of {len(rows)} videos"
    ]
    dropped = [row for row in rows if not row["kept"]]
    lines += [printable(f"  dropped: {row['name']}: {row['reason']}") for row in dropped[:5]]
    if len(dropped) > 5:
        lines.append(f"  every one is listed in {out / 'filtered.parquet'}")
    return "\n".join(lines)
