"""Labelling as a job: a folder of videos in, a dataset with predicted labels out; any number of hosts share the videos.

    OUT.partial/videos.json                           the videos by content, with their numbers
    OUT.partial/part-00000-of-00004/settings.json     what this part is made of; other settings are refused
                                    frames/           every video's frames at the model's size, or why it is broken
                                    labels/           the labels of every step
                                    labelled/         labels of whole videos, from before videos changed
                                    dataset/          the part's labelled dataset, once it is whole
    OUT/                                              the dataset of all parts, moved together by whoever ends last

Every file appears under its name only when it is whole, so a job that was killed goes on with what is missing. Videos
may be added, removed, renamed and replaced in between: what was done for the others counts (`resume.py`).
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.checkpoints import TrainedIDM, load_idm
from vpt_jax.data import dataset
from vpt_jax.data.manifest import SUFFIX
from vpt_jax.data.streams import batches
from vpt_jax.labelling import resume
from vpt_jax.labelling.model import CHOICES, MODES, label_spans, model_digest
from vpt_jax.labelling.plan import Labels, Plan, Video
from vpt_jax.labelling.videos import Clip, FrameSettings, draw_film, draw_number, encode_video, find_videos, identify
from vpt_jax.workers import locked, progress_bar, worker_pool

SPLIT = "train"
VERSION = 2  # of the files in OUT.partial


class LabelError(Exception):
    """Labels that cannot be made as asked; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """One part of the work."""

    videos: dict[str, Clip]  # by name
    keys: dict[str, str]  # their identity by content
    numbers: dict[str, int]  # the same for the same content, whatever became of other videos
    folder: Path
    frames: FrameSettings


def label(config: ConfigDict) -> Path:
    """Makes the dataset `config.out` of the videos in `config.videos` (fields: configs/label.py).

    Where the dataset is there already, nothing happens. Returns its path. Raises `LabelError`, and `FolderInUseError`
    while another run labels the same part.
    """
    _check(config)
    out = Path(config.out).resolve()
    work = out.with_name(f"{out.name}.partial")
    idm = load_idm(config.idm)
    videos = _find(config)
    keys, made_of = identify(videos), _made_of(config, idm)
    if _is_made(out, made_of | {"videos": keys}):
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed at its very end
        print(f"nothing to do: {out} is labelled already")
        return out
    _check_window(config, idm)
    with locked(work, wait=True):
        jobs = _share(config, idm, videos, keys, work)
    job = jobs[config.part]
    with locked(job.folder):
        _keep_settings(job, made_of)
        _label_part(job, config, idm)
    with locked(work, wait=True):  # for a host that looks whether this part is done
        if (out / "report.json").is_file() or _merge(work, jobs, out):  # or another host was faster
            shutil.rmtree(work)
            print(_summary(out))
    return out


def _is_made(out: Path, made_of: dict[str, Any]) -> bool:
    """Whether `out` is this very dataset; raises where it is anything else but empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    report = out / "report.json"
    there = json.loads(report.read_text()).get("made_of") if report.is_file() else None
    if there is None:
        raise LabelError(f"{out} is in use by something else: choose another --config.out")
    if changed := [name for name in made_of if made_of[name] != there.get(name)]:
        videos = resume.describe_other_videos(there.get("videos", {}), made_of["videos"])
        raise LabelError(
            f"{out} was labelled with other {', '.join(changed)}: remove it, or choose another out"
            + (f" (videos {videos})" if videos else "")
        )
    return True


def _check(config: ConfigDict) -> None:
    if not (config.videos and config.idm and config.out):
        raise LabelError("say what to label, by which model, and where to: --config.videos, --config.idm, --config.out")
    for field, choices in {"mode": MODES, "choice": CHOICES}.items():
        if config[field] not in choices:
            raise LabelError(f"config.{field} is {config[field]!r}; choose one of {', '.join(choices)}")
    for field in ("batch", "span", "chunk_frames"):
        if config[field] < 1:
            raise LabelError(f"config.{field} must be 1 or more")
    if len(config.aspect) != 2 or min(config.aspect) <= 0:
        raise LabelError(f"config.aspect is {config.aspect}, and must be a width and a height, such as (16, 9)")
    if not 1 <= config.quality <= 100:
        raise LabelError(f"config.quality is {config.quality}: JPEG quality goes from 1 to 100")
    for field in ("workers", "films"):
        if config[field] < 0:
            raise LabelError(f"config.{field} must not be negative")
    if not 0 <= config.part < config.parts:
        raise LabelError(f"config.part is {config.part}, and must be from 0 to {config.parts - 1} for config.parts")
    videos = Path(config.videos)
    if not (videos.is_dir() or (videos.suffix == SUFFIX and videos.is_file())):
        raise LabelError(f"there is no folder of videos at {videos}, and no manifest (NAME{SUFFIX})")
    if Path(config.videos).resolve() in Path(config.out).resolve().parents:
        raise LabelError(f"config.out lies in {config.videos}, where its films would be labelled too: choose another")


def _find(config: ConfigDict) -> dict[str, Clip]:
    try:
        videos = find_videos(Path(config.videos).resolve(), Path(config.out).resolve())
    except ValueError as error:
        raise LabelError(str(error)) from error
    if not videos:
        raise LabelError(f"there are no videos in {config.videos}")
    return videos


def _sizes(videos: dict[str, Clip]) -> dict[str, int]:
    return {name: clip.size for name, clip in videos.items()}


def _check_window(config: ConfigDict, idm: TrainedIDM) -> None:
    if idm.window % 4:
        raise LabelError(f"{config.idm} was trained on windows of {idm.window} frames: labelling needs a multiple of 4")


def _share(
    config: ConfigDict, idm: TrainedIDM, videos: dict[str, Clip], keys: dict[str, str], work: Path
) -> list[Job]:  # fmt: skip
    """All parts: a video's number tells which one it belongs to."""
    height, width, _ = idm.frame_shape
    frames = FrameSettings(height, width, tuple(config.aspect), config.chunk_frames, config.quality)
    numbers, jobs = resume.number_videos(work, keys), []
    for part in range(config.parts):
        mine = {name: clip for name, clip in videos.items() if numbers[name] % config.parts == part}
        keys_of_part, numbers_of_part = {name: keys[name] for name in mine}, {name: numbers[name] for name in mine}
        folder = work / f"part-{part:05}-of-{config.parts:05}"
        jobs.append(Job(mine, keys_of_part, numbers_of_part, folder, frames))
    return jobs


def _made_of(config: ConfigDict, idm: TrainedIDM) -> dict[str, Any]:
    """What decides the labels, besides the videos."""
    fields = ("mode", "choice", "mirror", "seed", "batch", "span", "aspect", "chunk_frames", "quality")
    made_of = {name: config[name] for name in fields} | {"idm": f"step {idm.step}, parameters {model_digest(idm)}"}
    return json.loads(json.dumps(made_of))


def _keep_settings(job: Job, made_of: dict[str, Any]) -> None:
    """Notes what the part is made of, or raises if what is there was made of something else."""
    file = job.folder / "settings.json"
    # A step has rows for each device.
    made_of = made_of | {"devices": jax.local_device_count(), "version": VERSION}
    if not file.exists():
        writing = job.folder / "settings.writing"
        writing.write_text(json.dumps(made_of, indent=1) + "\n")
        writing.rename(file)
    there = json.loads(file.read_text())
    if changed := [name for name in made_of if made_of[name] != there.get(name)]:
        raise LabelError(f"{job.folder} was begun with other {', '.join(changed)}: remove it, or choose another out")


def _label_part(job: Job, config: ConfigDict, idm: TrainedIDM) -> None:
    if _is_done(job):
        return
    shutil.rmtree(job.folder / "dataset", ignore_errors=True)  # of other videos
    with worker_pool(config.workers) as pool:
        _encode_all(pool, job)
        names = [name for name in job.videos if _result(job, name, "frames").exists()]
        if names:
            plan, kept = _begin_plan(job, names, config, idm)
            if plan.videos:
                _label_steps(plan, job.folder / "labels", config, idm)
            if names != sorted(names, key=job.numbers.__getitem__):  # some came later; plans are in order of numbers
                kept = resume.keep_all(job.folder, plan, partial(_read_steps, job.folder / "labels"))
            labels = partial(_read_labels, tuple(names), tuple(kept.items()), plan, job.folder / "labels")
            _draw_films(pool, job, names[: config.films], labels)
        _assemble(job, names, labels if names else None)


def _is_done(job: Job) -> bool:
    """True if the part's dataset is there, and is of these videos."""
    report = job.folder / "dataset" / "report.json"
    return report.is_file() and json.loads(report.read_text())["made_of"]["videos"] == job.keys


def _begin_plan(job: Job, names: Sequence[str], config: ConfigDict, idm: TrainedIDM) -> tuple[Plan, dict[str, Path]]:
    """The plan of what is to be labelled, and files of labels that are kept from earlier plans, by name."""
    frames = {name: int(_result(job, name, "frames").read_text()) for name in names}
    videos = [resume.Decoded(job.numbers[name], frames[name], job.keys[name], name) for name in names]
    make_plan = lambda some: _make_plan(job, some, config, idm)  # noqa: E731
    return resume.settle_plan(job.folder, videos, make_plan, partial(_read_steps, job.folder / "labels"), _step_file)


def _result(job: Job, name: str, suffix: str) -> Path:
    """A file of a video's encoded frames."""
    return resume.result_file(job.folder / "frames", job.numbers[name], suffix)


def _encode_all(pool: ProcessPoolExecutor, job: Job) -> None:
    """Decodes every video that is not done yet, and shows how it goes."""
    (job.folder / "frames").mkdir(exist_ok=True)
    sizes = _sizes(job.videos)
    done = {name for name in job.videos if any(_result(job, name, kind).exists() for kind in ("frames", "broken"))}
    frames, start = 0, time.monotonic()
    with progress_bar(sum(sizes.values()), desc="decoding", unit="B", unit_scale=True) as bar:
        bar.update(sum(sizes[name] for name in done))
        futures = {
            pool.submit(encode_video, clip, _result(job, name, "records").with_suffix(""), job.frames): name
            for name, clip in job.videos.items()
            if name not in done
        }
        for future in as_completed(futures):
            frames += _finished(future, job.videos[futures[future]].video)
            bar.set_postfix_str(f"{frames / (time.monotonic() - start):,.0f} frames/s", refresh=False)
            bar.update(sizes[futures[future]])


def _finished(future: Future, video: Path) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise LabelError(
            f"a worker process died, short of memory or by a video such as {video}. What is done is kept: run the same "
            "command again, with a smaller --config.workers or without that video"
        ) from None
    except Exception as error:
        error.add_note(f"at {video}; what is done is kept, run the same command to go on")
        raise


def _make_plan(job: Job, decoded: Sequence[resume.Decoded], config: ConfigDict, idm: TrainedIDM) -> Plan:
    """Rows of a step are no more than there are spans, and always as many on every device."""
    chunk = job.frames.chunk_frames
    videos = tuple(
        Video(resume.result_file(job.folder / "frames", video.number, "records"), video.frames, chunk,
              number=draw_number(video.key))
        for video in decoded
    )  # fmt: skip
    plan, devices = Plan(videos, idm.window, config.span, 1), jax.local_device_count()
    rows = max(1, min(config.batch, plan.num_spans))
    return Plan(videos, idm.window, config.span, -(-rows // devices) * devices)


def _label_steps(plan: Plan, folder: Path, config: ConfigDict, idm: TrainedIDM) -> None:
    """Labels what is not labelled yet, step by step; the device works while the step before is written."""
    folder.mkdir(exist_ok=True)
    begin = next(step for step in range(plan.steps + 1) if not _step_file(folder, step).exists())
    done = sum(len(_load(_step_file(folder, step)).buttons) for step in range(begin))
    mesh = parallel.make_mesh()
    by_rows, on_all = parallel.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    params, rng = jax.device_put((idm.params, jax.random.key(config.seed)), on_all)
    run = jax.jit(partial(label_spans, idm.module, idm.window, config.mode, config.choice, mirror=config.mirror))
    before: tuple[int, Labels] | None = None
    total = sum(video.frames for video in plan.videos)
    with (
        progress_bar(total, desc="labelling", unit=" frames", initial=done) as bar,
        closing(batches(plan, range(plan.rows), begin, plan.steps, config.workers or 1)) as spans_of_steps,
    ):
        for step, spans in enumerate(spans_of_steps, begin):
            labels = run(params, rng, jax.device_put(spans, by_rows))
            if before is not None:
                bar.update(_save(plan, folder, *before))
            before = step, labels
        if before is not None:
            bar.update(_save(plan, folder, *before))


def _step_file(folder: Path, step: int) -> Path:
    return folder / f"{step:08}.npz"


def _save(plan: Plan, folder: Path, step: int, labels: Labels) -> int:
    """Writes the labels of a step that count, and returns how many."""
    kept = plan.keep(step, jax.device_get(labels))
    writing = folder / "writing"
    with writing.open("wb") as file:
        np.savez(file, **kept._asdict())
    writing.rename(_step_file(folder, step))
    return len(kept.buttons)


def _load(file: Path) -> Labels:
    with np.load(file) as stored:
        return Labels(**stored)


def _read_steps(folder: Path, plan: Plan) -> Iterator[Labels]:
    """The labels of every step, up to the first one that is missing."""
    return map(_load, takewhile(Path.exists, (_step_file(folder, step) for step in range(plan.steps))))


def _read_labels(
    names: Sequence[str], kept: Sequence[tuple[str, Path]], plan: Plan, folder: Path
) -> Iterator[Labels]:  # fmt: skip
    """The labels of every video, in order."""
    planned, files = plan.by_video(_read_steps(folder, plan)), dict(kept)
    return (_load(files[name]) if name in files else next(planned) for name in names)


def _draw_films(pool: ProcessPoolExecutor, job: Job, names: Sequence[str], labels: Any) -> None:
    films = {}
    for name, of_video in zip(names, labels(), strict=False):
        film = job.folder / "films" / f"{name}.mp4"
        if not film.exists():
            films[pool.submit(draw_film, job.videos[name], film, of_video.buttons, of_video.camera)] = name
    with progress_bar(len(films), desc="drawing films", unit="film", disable=not films) as bar:
        for future in as_completed(films):
            if problem := _finished(future, job.videos[films[future]].video):
                bar.write(f"no film of {films[future]}: {problem}")
            bar.update()


def _assemble(job: Job, names: Sequence[str], labels: Any) -> None:
    """Writes the part's dataset, anew."""
    folder = job.folder / "dataset.writing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    notes = [
        dict(zip(("file", "reason", "detail"), (str(clip), *note.read_text().split("\n", 1)), strict=True))
        for name, clip in job.videos.items()
        if (note := _result(job, name, "broken")).exists()
    ]
    if names:
        groups = list(dataset.group_by_size([_result(job, name, "records") for name in names], dataset.SHARD_BYTES))
        of_videos = zip(names, (_result(job, name, "records") for name in names), labels(), strict=True)
        with progress_bar(len(names), desc="writing", unit="video") as bar:
            shards = []
            for i, group in enumerate(groups):
                path = dataset.shard_path(folder, SPLIT, i, len(groups))
                shards.append(dataset.write_records(path, _labelled_records(of_videos, len(group), bar)))
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
    folder.rename(job.folder / "dataset")


def _labelled_records(of_videos: Iterator[tuple[str, Path, Labels]], count: int, bar: Any) -> Iterator[bytes]:
    """The records of the next `count` videos, with their labels in."""
    for _ in range(count):
        name, records, labels = next(of_videos)
        first = 0
        for chunk, record in enumerate(dataset.read_records(records)):
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


def _merge(folder: Path, jobs: Sequence[Job], out: Path) -> bool:
    """Makes one dataset of all parts, if all are done; says whether it did."""
    there = [job.folder / "dataset" for job in jobs]
    if missing := [job.folder.name for job in jobs if not _is_done(job)]:
        print(f"this part is done; the dataset will be made when these are too: {', '.join(missing)}")
        return False
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    reports = [json.loads((part / "report.json").read_text()) for part in there]
    videos: dict[str, int] = {}
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
    merged.rename(out)
    return True


def _summary(out: Path) -> str:
    report = json.loads((out / "report.json").read_text())
    counts = report["splits"][SPLIT]
    lines = [
        f"dataset {out}",
        f"  {counts['episodes']:,} videos of {counts['frames']:,} frames, labelled with a mean confidence of "
        f"{report['mean_confidence']:.2f}; {counts['broken']:,} broken",
    ]
    lines += [f"  broken: {note['file']}: {note['reason']}: {note['detail']}" for note in report["broken"][:5]]
    if len(report["broken"]) > 5:
        lines.append(f"  every one is listed in {out / 'report.json'}")
    return "\n".join(lines)
