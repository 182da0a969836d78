"""Labelled dataset of one shard of a job, from decoded videos and their labels; and merging of all shards.

Shards of a job: `config.shard_index` of `config.num_shards`, in folders `part-00000-of-00004`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.actions.space import ActionSpace
from vpt_jax.data import dataset
from vpt_jax.data.captions import Caption, write_captions
from vpt_jax.data.clips import Clip, FrameSettings, is_film_complete
from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.subtitles import find_subtitles, subtitle_captions, subtitles_digest
from vpt_jax.labelling import LabelError
from vpt_jax.labelling.plan import Labels
from vpt_jax.labelling.resume import result_file
from vpt_jax.system.atomic_files import publish, read_json
from vpt_jax.system.mount_points import place_folder
from vpt_jax.system.workers import progress_bar

SPLIT = "train"


@dataclass(frozen=True)
class JobShard:
    """One shard of a labelling job: its videos, and the folder of its intermediate files."""

    videos: dict[str, Clip]  # by name
    keys: dict[str, str]  # content keys (clips.content_keys)
    numbers: dict[str, int]  # by content: stable when other videos are added or removed
    folder: Path  # of intermediate files
    frames: FrameSettings
    space: ActionSpace  # of the labels

    def result(self, name: str, suffix: str) -> Path:
        """Path of a file of a video's encoded frames."""
        return result_file(self.folder / "frames", self.numbers[name], suffix)


def is_complete(shard: JobShard) -> bool:
    """Returns whether the shard's dataset is complete and of these videos. A damaged dataset is removed."""
    folder = shard.folder / "dataset"
    if not folder.exists():
        return False
    try:
        report = read_report(folder)
        if (folder / "index").exists():  # not every video is broken
            dataset.check_dataset(folder)
            index = dataset.load_index(folder, SPLIT)
            for name, frames in zip(index.names, index.lengths.tolist(), strict=True):
                if (film := folder / "films" / f"{name}.mp4").exists() and not is_film_complete(film, frames):
                    raise DatasetDamagedError(f"{film} is damaged")
    except (DatasetDamagedError, DatasetMissingError) as error:
        print(f"{folder} is damaged, so it is created again: {error}", flush=True)
        shutil.rmtree(folder)
        return False
    return report["made_of"].get("videos") == shard.keys


def read_report(folder: Path) -> dict[str, Any]:
    """Reads the report of a shard's dataset; raises `DatasetDamagedError`."""
    report = read_json(folder / "report.json")
    if not (isinstance(report, dict) and {"broken", "made_of"} <= report.keys()):
        raise DatasetDamagedError(f"{folder / 'report.json'} is damaged")
    return report


def write_shard_dataset(shard: JobShard, names: Sequence[str], labels: Any) -> None:
    """Writes the dataset of a shard and renames it into place atomically.

    Args:
        shard: the shard, all of whose videos are decoded.
        names: of its intact videos, in order.
        labels: function that returns an iterator over the labels of these videos.
    """
    folder = shard.folder / "dataset.writing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    notes = [
        dict(zip(("file", "reason", "detail"), (str(clip), *read_json(note)), strict=True))
        for name, clip in shard.videos.items()
        if (note := shard.result(name, "broken")).exists()
    ]
    if names:
        groups = list(dataset.group_by_size([shard.result(name, "records") for name in names], dataset.SHARD_BYTES))
        videos = zip(names, (shard.result(name, "records") for name in names), labels(), strict=True)
        with progress_bar(len(names), desc="writing", unit="video") as bar:
            record_counts = []
            for i, group in enumerate(groups):
                path = dataset.shard_path(folder, SPLIT, i, len(groups))
                record_counts.append(dataset.write_records(path, _labelled_records(videos, len(group), shard, bar)))
        lengths = {name: len(video_labels.buttons) for name, video_labels in zip(names, labels(), strict=True)}
        dataset.write_index(
            folder / "index" / SPLIT,
            lengths,
            (video_labels.buttons for video_labels in labels()),
            (video_labels.camera for video_labels in labels()),
            (video_labels.confidence for video_labels in labels()),
            "predicted",
            shard.frames.chunk_frames,
        )
        dataset.write_metadata(folder, {SPLIT: record_counts}, shard.space)
    if (shard.folder / "films").exists():
        (shard.folder / "films").rename(folder / "films")
    made_of = json.loads((shard.folder / "settings.json").read_text())
    made_of = {name: value for name, value in made_of.items() if name not in ("devices", "version")}
    made_of["videos"] = shard.keys
    (folder / "report.json").write_text(json.dumps({"broken": notes, "made_of": made_of}, indent=1) + "\n")
    publish(folder, shard.folder / "dataset")


def _checked_records(records: Path, frames: int, chunk_frames: int) -> Iterator[bytes]:
    """Yields the records of a video. If one is damaged, all are removed: the next run decodes the video again."""
    try:
        yield from dataset.read_episode(records, frames, chunk_frames)
    except DatasetDamagedError as error:
        records.unlink(missing_ok=True)
        raise LabelError(f"{error}. Run the same command again, which decodes that video again") from error


def _labelled_records(
    videos: Iterator[tuple[str, Path, Labels]], count: int, shard: JobShard, bar: Any
) -> Iterator[bytes]:
    """Yields the records of the next `count` videos with their labels filled in."""
    for _ in range(count):
        name, records, labels = next(videos)
        first = 0
        for chunk, record in enumerate(_checked_records(records, len(labels.buttons), shard.frames.chunk_frames)):
            values = dataset.parse_chunk(record)
            rows = slice(first, first + len(values["frame_ends"]))
            filled = values | {
                "buttons": labels.buttons[rows],
                "camera": labels.camera[rows],
                "confidence": labels.confidence[rows],
                "labels": "predicted",
                "episode": name,
                "chunk": chunk,
                "first_frame": first,
                "num_frames": len(labels.camera),
            }
            yield dataset.serialize_chunk(filled, shard.space)
            first = rows.stop
        bar.update()


def subtitles_of(videos: Mapping[str, Clip]) -> dict[str, str]:
    """Digest of the subtitles beside the videos, for a dataset's report; empty if there are none."""
    digest = subtitles_digest(clip.video for clip in videos.values())
    return {"subtitles": digest} if digest else {}


def _captions(clip: Clip, frames: int) -> list[Caption]:
    """Captions of a video of so many frames, from the subtitles beside it."""
    file = find_subtitles(clip.video)
    return subtitle_captions(file, clip.first, clip.first + frames) if file else []


def merge_shards(folder: Path, shards: Sequence[JobShard], out: Path) -> bool:
    """Merges the datasets of all shards into `out`, if all are complete; returns whether it did."""
    datasets = [shard.folder / "dataset" for shard in shards]
    if missing := [shard.folder.name for shard in shards if not is_complete(shard)]:
        print(f"this shard is done; the dataset is made once these are too: {', '.join(missing)}")
        return False
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    reports = [read_report(path) for path in datasets]
    videos: dict[str, str] = {}
    for path, report in zip(datasets, reports, strict=True):
        videos |= report["made_of"].pop("videos")
        if report["made_of"] != reports[0]["made_of"]:
            raise LabelError(f"{path.parent} was labelled with other settings than {datasets[0].parent}: remove one")
    broken = [note for report in reports for note in report["broken"]]
    labelled = [path for path in datasets if (path / "index").exists()]
    if not labelled:
        raise LabelError(f"all {len(broken)} videos are broken, the first: {broken[0]}")
    dataset.join_datasets(merged, labelled, SPLIT)
    index = dataset.load_index(merged, SPLIT)
    clips = {name: clip for shard in shards for name, clip in shard.videos.items()}
    write_captions(
        merged / "index" / SPLIT,
        [_captions(clips[name], frames) for name, frames in zip(index.names, index.lengths.tolist(), strict=True)],
    )
    counts = {"episodes": len(index.names), "frames": len(index.buttons), "broken": len(broken)}
    report = {"splits": {SPLIT: counts}, "mean_confidence": float(np.mean(index.confidence)), "broken": broken}
    made_of = reports[0]["made_of"] | subtitles_of(clips) | {"videos": dict(sorted(videos.items()))}
    (merged / "report.json").write_text(json.dumps(report | {"made_of": made_of}, indent=1) + "\n")
    for path in datasets:
        if (path / "films").exists():
            shutil.copytree(path / "films", merged / "films", dirs_exist_ok=True)
    dataset.check_dataset(merged)
    place_folder(merged, out)
    return True
