"""Filtering as a job: a folder of videos in, a table of their clean seconds out.

    OUT/segments.parquet            what counts: video, start and end in seconds, share of clean frames
    OUT/filtered.parquet            every video: shares of its frames by class, whether it is kept, and why not
    OUT/filter.answers/             what every frame was taken for, a file per video

A job that was killed goes on with the videos that are missing. With other rules, or more videos, only what is new is
decoded.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from vpt_jax.cores import available_cores
from vpt_jax.data.filtering.classifier import CLASSES, Classifier
from vpt_jax.data.filtering.embedders import Embedder
from vpt_jax.data.filtering.segments import Rules, judge
from vpt_jax.data.filtering.training import BATCH, classify, embed_batch
from vpt_jax.data.manifest import SUFFIX, write_table
from vpt_jax.labelling.videos import Clip, find_videos, identify
from vpt_jax.printable import printable
from vpt_jax.state_files import atomic_write, read_arrays, read_json, write_text
from vpt_jax.video import FRAME_RATE, VideoError, resize
from vpt_jax.video_files import utf8_path
from vpt_jax.workers import locked, progress_bar, worker_pool

SEGMENTS = pa.schema([("video", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("clean", pa.float64())])
VIDEOS = pa.schema(
    [("name", pa.string()), ("video", pa.string()), ("kept", pa.bool_()), ("reason", pa.string()),
     ("seconds", pa.float64()), ("clean_seconds", pa.float64()), ("clean", pa.float64())]
    + [(f"labelled_{name}", pa.float64()) for name in CLASSES]
)  # fmt: skip


class FilterError(Exception):
    """Videos that cannot be filtered as asked; the message says what to do."""


class Answers(NamedTuple):
    """What the machine said of a clip, or why it could not."""

    ticks: Int[np.ndarray, " n"]  # numbers of the frames looked at, at 20 per second
    decisions: Float[np.ndarray, "n 3"]
    frames: int  # of the clip at 20 per second
    broken: str = ""


def filter_videos(config: ConfigDict, machine: Classifier, embedder: Embedder) -> Path:
    """Writes the tables of the clean segments of `config.videos`; returns the path of `segments.parquet`.

    Raises `FilterError`, and `FolderInUseError` while another run filters to the same folder.
    """
    source = Path(config.videos).resolve()
    out = Path(config.out).resolve() if config.out else source if source.is_dir() else source.parent
    clips = _find(source, out)
    folder = out / "filter.answers"
    with locked(folder):
        _keep_settings(folder, machine, config.rate)
        results = {name: _result(folder, key) for name, key in identify(clips).items()}
        _look_at_all(clips, results, config, machine, embedder)
        answers = {name: _load_kept(result) for name, result in results.items()}
    rules = Rules(config.kernel, config.min_seconds, config.min_share)
    threshold = machine.threshold if config.threshold is None else config.threshold
    tables = [_rows(out, name, clips[name], answer, threshold, rules) for name, answer in answers.items()]
    write_table(out / "filtered.parquet", [row for row, _ in tables], VIDEOS)
    write_table(out / "segments.parquet", [row for _, rows in tables for row in rows], SEGMENTS)
    print(_summary(out, [row for row, _ in tables]))
    return out / "segments.parquet"


def check(config: ConfigDict) -> None:
    """Raises FilterError where a field of the config makes no sense."""
    if config.kernel < 1 or config.kernel % 2 == 0:
        raise FilterError(f"config.kernel is {config.kernel}, and must be odd, 1 or more")
    if not 0 < config.rate <= FRAME_RATE:
        raise FilterError(f"config.rate is {config.rate}, and must be above 0 and at most {FRAME_RATE}")
    if not 0 <= config.min_share <= 1:
        raise FilterError(f"config.min_share is {config.min_share}, and must be from 0 to 1")
    if config.min_seconds < 0 or config.workers < 0:
        raise FilterError("config.min_seconds and config.workers must not be negative")


def _find(source: Path, out: Path) -> dict[str, Clip]:
    if not (source.is_dir() or (source.suffix == SUFFIX and source.is_file())):
        raise FilterError(f"there is no folder of videos at {source}, and no manifest (NAME{SUFFIX})")
    if source in (out / "segments.parquet", out / "filtered.parquet"):
        raise FilterError(f"{source} would be overwritten: give it another name, or choose another --config.out")
    try:
        clips = find_videos(source)
    except ValueError as error:
        raise FilterError(str(error)) from error
    if not clips:
        raise FilterError(f"there are no videos in {source}")
    if not all(clip.video.is_relative_to(out) for clip in clips.values()):
        raise FilterError(f"config.out is {out}, and must be a folder that the videos lie in: the tables name them so")
    return clips


def _keep_settings(folder: Path, machine: Classifier, rate: float) -> None:
    """Empties the folder if other settings made what is there: it is quicker to start anew than to ask."""
    file, made_of = folder / "settings.json", {"machine": machine.digest(), "rate": rate}
    if read_json(file) == made_of:
        return
    for old in [file, *folder.glob("*.npz")]:
        old.unlink(missing_ok=True)
    write_text(file, json.dumps(made_of) + "\n")


def _result(folder: Path, key: str) -> Path:
    """The file of the answers for a clip, by its identity: the same for the same content, whatever it is called."""
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def _look_at_all(
    clips: dict[str, Clip], results: dict[str, Path], config: ConfigDict, machine: Classifier, embedder: Embedder
) -> None:  # fmt: skip
    """Looks at every video that has no answers yet. Workers decode a few videos ahead."""
    for folder in {result.parent for result in results.values()}:
        for left_over in (*folder.glob("*.npy"), *folder.glob("*.writing")):
            left_over.unlink()
    todo = [(clip, results[name]) for name, clip in clips.items() if _load(results[name]) is None]
    if len(todo) < len(clips):
        print(f"{len(clips) - len(todo)} of {len(clips)} videos are looked at already", flush=True)
    if not todo:
        return
    size = sum(clip.size for clip, _ in todo)
    with progress_bar(size, desc="filtering", unit="B", unit_scale=True) as bar, worker_pool(config.workers) as pool:
        for clip, result, future in _ahead(pool, todo, config, embedder):
            _save(result, _look(_finished(future, clip), result, machine, embedder))
            bar.update(clip.size)


def _ahead(
    pool: ProcessPoolExecutor, todo: list[tuple[Clip, Path]], config: ConfigDict, embedder: Embedder
) -> Iterator[tuple[Clip, Path, Future]]:  # fmt: skip
    waiting: deque[tuple[Clip, Path, Future]] = deque()
    for clip, result in todo:
        waiting.append((clip, result, pool.submit(sample, clip, result, config.rate, embedder.size)))
        if len(waiting) > 2 * (config.workers or available_cores()):  # frames of a video ahead take disk
            yield waiting.popleft()
    yield from waiting


def _finished(future: Future, clip: Clip) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise FilterError(
            f"a worker process died, short of memory or by a video such as {clip}. What is done is kept: run the same "
            "command again, with a smaller --config.workers or without that video"
        ) from None
    except Exception as error:
        error.add_note(f"at {clip}; what is done is kept, run the same command to go on")
        raise


def sample(clip: Clip, result: Path, rate: float, size: tuple[int, int]) -> tuple[list[int], int, str]:
    """In a worker: some frames of a clip go to a file beside `result`.

    Returns their numbers at 20 per second, the number of all, and what is wrong with the video.
    """
    ticks: list[int] = []
    count = 0
    writing = result.with_suffix(".writing")
    try:
        with writing.open("wb") as file:
            for frame in clip.frames():
                if count * rate >= len(ticks) * FRAME_RATE:
                    file.write(resize(frame, *size).tobytes())
                    ticks.append(count)
                count += 1
        if not ticks:
            raise VideoError("unreadable video", "it has no frames")
    except (VideoError, FileNotFoundError) as error:  # a manifest may name what is not there
        writing.unlink()
        reason = str(error) if isinstance(error, VideoError) else "missing video: no such file"
        return [], 0, reason.replace(str(clip.video), clip.video.name)
    writing.rename(result.with_suffix(".npy"))
    return ticks, count, ""


def _look(sampled: tuple[list[int], int, str], result: Path, machine: Classifier, embedder: Embedder) -> Answers:
    ticks, count, broken = sampled
    if broken:
        return Answers(np.zeros(0, int), np.zeros((0, len(CLASSES))), 0, broken)
    file = result.with_suffix(".npy")
    frames = np.memmap(file, np.uint8, "r", shape=(len(ticks), *embedder.size, 3))
    decisions = [machine.decide(embed_batch(frames[at : at + BATCH], embedder)) for at in range(0, len(ticks), BATCH)]
    file.unlink()
    return Answers(np.array(ticks), np.concatenate(decisions), count)


def _save(result: Path, answers: Answers) -> None:
    with atomic_write(result) as writing, writing.open("wb") as file:
        np.savez(file, **answers._asdict())


def _load(result: Path) -> Answers | None:
    """The answers for a clip; None if they are not there, or damaged."""
    fields = read_arrays(result)
    if fields is None or fields.keys() != set(Answers._fields):
        return None
    return Answers(fields["ticks"], fields["decisions"], int(fields["frames"]), str(fields["broken"]))


def _load_kept(result: Path) -> Answers:
    answers = _load(result)
    if answers is None:
        raise FilterError(f"{result} does not keep what is written there: check the disk, then run it again")
    return answers


def _rows(
    out: Path, name: str, clip: Clip, answers: Answers, threshold: float, rules: Rules
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """A clip's row in the table of videos, and the rows of its segments."""
    video = utf8_path(clip.video.relative_to(out).as_posix())
    labels = classify(answers.decisions, threshold)
    times = [(clip.first + frame) / FRAME_RATE for frame in (*answers.ticks.tolist(), answers.frames)]
    verdict = judge(labels == 0, times, rules)
    shares = {f"labelled_{kind}": float(np.mean(labels == i)) if len(labels) else 0.0 for i, kind in enumerate(CLASSES)}
    clean_seconds = sum(span.end - span.start for span in verdict.spans)
    row = {"name": name, "video": video, "kept": bool(verdict.spans), "reason": answers.broken or verdict.reason,
           "seconds": answers.frames / FRAME_RATE, "clean_seconds": clean_seconds, "clean": verdict.share}  # fmt: skip
    return row | shares, [{"video": video} | span._asdict() for span in verdict.spans]


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
