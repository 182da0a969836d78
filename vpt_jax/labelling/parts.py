"""The labelled dataset of a part of a job, from decoded videos and their labels; and the dataset of all parts."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.data import dataset
from vpt_jax.data.clips import Clip, FrameSettings, is_drawn
from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.labelling import LabelError
from vpt_jax.labelling.plan import Labels
from vpt_jax.labelling.resume import result_file
from vpt_jax.system.atomic_files import publish, read_json
from vpt_jax.system.mount_points import place_folder
from vpt_jax.system.workers import progress_bar

SPLIT = "train"


@dataclass(frozen=True)
class Job:
    """The videos of one part of a labelling job, and where its work lies."""

    videos: dict[str, Clip]  # by name
    keys: dict[str, str]  # their identity by content
    numbers: dict[str, int]  # the same for the same content, whatever became of other videos
    folder: Path
    frames: FrameSettings

    def result(self, name: str, suffix: str) -> Path:
        """A file of a video's encoded frames."""
        return result_file(self.folder / "frames", self.numbers[name], suffix)


def is_done(job: Job) -> bool:
    """True if the part's dataset is there, whole, and of these videos. One that is damaged is removed."""
    folder = job.folder / "dataset"
    if not folder.exists():
        return False
    try:
        report = read_report(folder)
        if (folder / "index").exists():  # not every video is broken
            dataset.check_dataset(folder)
            index = dataset.load_index(folder, SPLIT)
            for name, frames in zip(index.names, index.lengths.tolist(), strict=True):
                if (film := folder / "films" / f"{name}.mp4").exists() and not is_drawn(film, frames):
                    raise DatasetDamagedError(f"{film} is damaged")
    except (DatasetDamagedError, DatasetMissingError) as error:
        print(f"{folder} is made anew, since it is damaged: {error}", flush=True)
        shutil.rmtree(folder)
        return False
    return report["made_of"].get("videos") == job.keys


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a part's dataset; raises `DatasetDamagedError`."""
    report = read_json(folder / "report.json")
    if not (isinstance(report, dict) and {"broken", "made_of"} <= report.keys()):
        raise DatasetDamagedError(f"{folder / 'report.json'} is damaged")
    return report


def assemble(job: Job, names: Sequence[str], labels: Any) -> None:
    """Writes the part's dataset, anew."""
    folder = job.folder / "dataset.writing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    notes = [
        dict(zip(("file", "reason", "detail"), (str(clip), *read_json(note)), strict=True))
        for name, clip in job.videos.items()
        if (note := job.result(name, "broken")).exists()
    ]
    if names:
        groups = list(dataset.group_by_size([job.result(name, "records") for name in names], dataset.SHARD_BYTES))
        of_videos = zip(names, (job.result(name, "records") for name in names), labels(), strict=True)
        chunk = job.frames.chunk_frames
        with progress_bar(len(names), desc="writing", unit="video") as bar:
            shards = []
            for i, group in enumerate(groups):
                path = dataset.shard_path(folder, SPLIT, i, len(groups))
                shards.append(dataset.write_records(path, _labelled_records(of_videos, len(group), chunk, bar)))
        lengths = {name: len(of_video.buttons) for name, of_video in zip(names, labels(), strict=True)}
        dataset.write_index(
            folder / "index" / SPLIT,
            lengths,
            (of_video.buttons for of_video in labels()),
            (of_video.camera for of_video in labels()),
            (of_video.confidence for of_video in labels()),
            "predicted",
            job.frames.chunk_frames,
        )
        dataset.write_metadata(folder, {SPLIT: shards})
    if (job.folder / "films").exists():
        (job.folder / "films").rename(folder / "films")
    made_of = json.loads((job.folder / "settings.json").read_text())
    made_of = {name: value for name, value in made_of.items() if name not in ("devices", "version")}
    made_of["videos"] = job.keys
    (folder / "report.json").write_text(json.dumps({"broken": notes, "made_of": made_of}, indent=1) + "\n")
    publish(folder, job.folder / "dataset")


def _whole_records(records: Path, frames: int, chunk_frames: int) -> Iterator[bytes]:
    """The records of a video. Where one is damaged, all are removed: the next run decodes the video anew."""
    try:
        yield from dataset.read_episode(records, frames, chunk_frames)
    except DatasetDamagedError as error:
        records.unlink(missing_ok=True)
        raise LabelError(f"{error}. Run the same command again, which decodes that video anew") from error


def _labelled_records(
    of_videos: Iterator[tuple[str, Path, Labels]], count: int, chunk_frames: int, bar: Any
) -> Iterator[bytes]:
    """The records of the next `count` videos, with their labels in."""
    for _ in range(count):
        name, records, labels = next(of_videos)
        first = 0
        for chunk, record in enumerate(_whole_records(records, len(labels.buttons), chunk_frames)):
            values = dataset.parse_chunk(record)
            rows = slice(first, first + len(values["frame_ends"]))
            yield dataset.serialize_chunk(
                values
                | {
                    "buttons": labels.buttons[rows],
                    "camera": labels.camera[rows],
                    "confidence": labels.confidence[rows],
                    "labels": "predicted",
                    "episode": name,
                    "chunk": chunk,
                    "first_frame": first,
                    "num_frames": len(labels.camera),
                }
            )
            first = rows.stop
        bar.update()


def merge(folder: Path, jobs: Sequence[Job], out: Path) -> bool:
    """Makes one dataset of all parts, if all are done; says whether it did."""
    there = [job.folder / "dataset" for job in jobs]
    if missing := [job.folder.name for job in jobs if not is_done(job)]:
        print(f"this part is done; the dataset will be made when these are too: {', '.join(missing)}")
        return False
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    reports = [read_report(part) for part in there]
    videos: dict[str, str] = {}
    for part, report in zip(there, reports, strict=True):
        videos |= report["made_of"].pop("videos")
        if report["made_of"] != reports[0]["made_of"]:
            raise LabelError(f"{part.parent} was labelled with other settings than {there[0].parent}: remove one")
    broken = [note for report in reports for note in report["broken"]]
    labelled = [part for part in there if (part / "index").exists()]
    if not labelled:
        raise LabelError(f"all {len(broken)} videos are broken, the first: {broken[0]}")
    dataset.join_datasets(merged, labelled, SPLIT)
    index = dataset.load_index(merged, SPLIT)
    counts = {"episodes": len(index.names), "frames": len(index.buttons), "broken": len(broken)}
    report = {"splits": {SPLIT: counts}, "mean_confidence": float(np.mean(index.confidence)), "broken": broken}
    made_of = reports[0]["made_of"] | {"videos": dict(sorted(videos.items()))}
    (merged / "report.json").write_text(json.dumps(report | {"made_of": made_of}, indent=1) + "\n")
    for part in there:
        if (part / "films").exists():
            shutil.copytree(part / "films", merged / "films", dirs_exist_ok=True)
    dataset.check_dataset(merged)
    place_folder(merged, out)
    return True
