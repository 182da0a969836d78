"""Labelling as a job: a folder of videos in, a dataset with predicted labels out; any number of hosts share the videos.

    OUT.partial/part-00000-of-00004/settings.json     what this part is made of; other settings are refused
                                    frames/           every video's frames at the model's size, or why it is broken
                                    labels/           the labels of every step
                                    dataset/          the part's labelled dataset, once it is whole
    OUT/                                              the dataset of all parts, moved together by whoever ends last

Every file appears under its name only when it is whole, so a job that was killed goes on with what is missing.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.checkpoints import TrainedIDM, load_idm
from vpt_jax.data import dataset
from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.manifest import SUFFIX
from vpt_jax.data.streams import batches
from vpt_jax.keys import seed_key
from vpt_jax.labelling.model import CHOICES, MODES, label_spans
from vpt_jax.labelling.plan import Labels, Plan, Video
from vpt_jax.labelling.videos import Clip, FrameSettings, draw_film, encode_video, find_videos, is_drawn, read_result
from vpt_jax.mount_points import is_free, place_folder
from vpt_jax.paths import refuse_remote_paths
from vpt_jax.printable import printable
from vpt_jax.state_files import atomic_write, publish, read_arrays, read_json, write_text
from vpt_jax.workers import locked, progress_bar, worker_pool

SPLIT = "train"


class LabelError(Exception):
    """Labels that cannot be made as asked; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """One part of the work."""

    videos: dict[str, Clip]  # by name
    folder: Path
    frames: FrameSettings

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Of the videos, in order."""
        return {name: number for number, name in enumerate(self.videos)}


def label(config: ConfigDict) -> Path:
    """Makes the dataset `config.out` of the videos in `config.videos` (fields: configs/label.py).

    Where the dataset is there already, nothing happens. Returns its path. Raises `LabelError`, and `FolderInUseError`
    while another run labels the same part.
    """
    refuse_remote_paths(config)
    _check(config)
    out = Path(config.out).resolve()
    work = out.with_name(f"{out.name}.partial")
    idm = load_idm(config.idm)
    videos = _find(config)
    if _is_made(out, _made_of(config, idm) | {"videos": _sizes(videos)}):
        shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed at its very end
        print(f"nothing to do: {out} is labelled already")
        return out
    job = _make_job(config, idm, videos, work)
    with locked(job.folder):
        _keep_settings(job, config, idm)
        _label_part(job, config, idm)
    with locked(work, wait=True):  # for a host that looks whether this part is done
        if not is_free(out) or _merge(work, config.parts, out):  # or another host was faster
            shutil.rmtree(work)
            print(_summary(out))
    return out


def _is_made(out: Path, made_of: dict[str, Any]) -> bool:
    """Whether `out` is this very dataset; raises where it is anything else but empty."""
    if out.is_file():
        raise LabelError(f"{out} is a file, and config.out must be a folder: choose another --config.out")
    if is_free(out):
        return False
    if not (out / "report.json").is_file():
        raise LabelError(f"{out} is in use by something else: choose another --config.out")
    report = read_json(out / "report.json")
    there = report.get("made_of") if isinstance(report, dict) else None
    if not isinstance(there, dict):
        raise LabelError(f"{out / 'report.json'} is damaged: remove {out}, or choose another --config.out")
    if changed := [name for name in made_of if made_of[name] != there.get(name)]:
        raise LabelError(f"{out} was labelled with other {', '.join(changed)}: remove it, or choose another out")
    try:
        dataset.check_dataset(out)
    except (DatasetDamagedError, DatasetMissingError) as error:
        raise LabelError(f"{out} is damaged: remove it, or choose another out. {error}") from error
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
        videos = find_videos(Path(config.videos).resolve())
    except ValueError as error:
        raise LabelError(str(error)) from error
    if not videos:
        raise LabelError(f"there are no videos in {config.videos}")
    return videos


def _sizes(videos: dict[str, Clip]) -> dict[str, int]:
    return {name: clip.size for name, clip in videos.items()}


def _make_job(config: ConfigDict, idm: TrainedIDM, videos: dict[str, Clip], work: Path) -> Job:
    if idm.window % 4:
        raise LabelError(f"{config.idm} was trained on windows of {idm.window} frames: labelling needs a multiple of 4")
    mine = dict(list(videos.items())[config.part :: config.parts])
    folder = work / f"part-{config.part:05}-of-{config.parts:05}"
    height, width, _ = idm.frame_shape
    frames = FrameSettings(height, width, tuple(config.aspect), config.chunk_frames, config.quality)
    return Job(mine, folder, frames)


def _made_of(config: ConfigDict, idm: TrainedIDM) -> dict[str, Any]:
    """What decides the labels, besides the videos."""
    fields = ("mode", "choice", "mirror", "seed", "batch", "span", "aspect", "chunk_frames", "quality")
    made_of = {name: config[name] for name in fields} | {"idm": f"{Path(config.idm).resolve()}, step {idm.step}"}
    return json.loads(json.dumps(made_of))


def _keep_settings(job: Job, config: ConfigDict, idm: TrainedIDM) -> None:
    """Notes what the part is made of, or raises if what is there was made of something else."""
    file = job.folder / "settings.json"
    # A step has rows for each device.
    made_of = _made_of(config, idm) | {"videos": _sizes(job.videos), "devices": jax.local_device_count()}
    there = read_json(file)
    if not isinstance(there, dict):
        _start_anew(job.folder, file)
        write_text(file, json.dumps(made_of, indent=1) + "\n")
        there = made_of
    if changed := [name for name in made_of if made_of[name] != there.get(name)]:
        raise LabelError(f"{job.folder} was begun with other {', '.join(changed)}: remove it, or choose another out")


def _start_anew(folder: Path, settings: Path) -> None:
    """Removes what was made with settings that cannot be read."""
    if settings.exists():
        print(f"{settings} is damaged, so what was made with it is made anew", flush=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _label_part(job: Job, config: ConfigDict, idm: TrainedIDM) -> None:
    if _is_assembled(job.folder / "dataset"):
        return
    for damaged in _forget_damage(job):
        print(f"{job.videos[damaged]} is decoded anew, since what was kept of it is damaged", flush=True)
    with worker_pool(config.workers) as pool:
        _encode_all(pool, job)
        names = [name for name in job.videos if _result(job, name, "frames").exists()]
        if names:
            plan = _make_plan(job, names, config, idm)
            try:
                _label_steps(plan, job.folder / "labels", config, idm)
            except DatasetDamagedError as error:
                raise LabelError(str(error)) from error
            labels = partial(_read_labels, plan, job.folder / "labels")
            _draw_films(pool, job, names[: config.films], labels)
        _assemble(job, names, labels if names else None)


def _is_assembled(folder: Path) -> bool:
    """Whether a part's dataset is there. One that is damaged is removed."""
    if not folder.exists():
        return False
    report = read_json(folder / "report.json")
    try:
        if not (isinstance(report, dict) and {"broken", "made_of"} <= report.keys()):
            raise DatasetDamagedError(f"{folder / 'report.json'} is damaged")
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
    return True


def _forget_damage(job: Job) -> Iterator[str]:
    """Removes what was kept of videos whose files are damaged or disagree, and gives their names."""
    for name in job.videos:
        files = [_result(job, name, suffix) for suffix in ("records", "frames", "broken")]
        if any(file.exists() for file in files[1:]) and read_result(files[0].with_suffix(""), job.frames) is None:
            for file in files:
                file.unlink(missing_ok=True)
            yield name


def _result(job: Job, name: str, suffix: str) -> Path:
    """A file of a video's encoded frames."""
    return job.folder / "frames" / f"{job.numbers[name]:07}.{suffix}"


def _encode_all(pool: ProcessPoolExecutor, job: Job) -> None:
    """Decodes every video that is not done yet, and shows how it goes."""
    (job.folder / "frames").mkdir(exist_ok=True)
    for left_over in (job.folder / "frames").glob("*.writing"):
        left_over.unlink()
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


def _make_plan(job: Job, names: Sequence[str], config: ConfigDict, idm: TrainedIDM) -> Plan:
    """Rows of a step are no more than there are spans, and always as many on every device."""
    chunk = job.frames.chunk_frames
    videos = tuple(
        Video(
            _result(job, name, "records"),
            int(_result(job, name, "frames").read_text()),
            chunk,
            number=config.part + config.parts * job.numbers[name],
        )
        for name in names
    )
    plan, devices = Plan(videos, idm.window, config.span, 1), jax.local_device_count()
    rows = min(config.batch, plan.num_spans)
    return Plan(videos, idm.window, config.span, -(-rows // devices) * devices)


def _label_steps(plan: Plan, folder: Path, config: ConfigDict, idm: TrainedIDM) -> None:
    """Labels what is not labelled yet, step by step; the device works while the step before is written."""
    folder.mkdir(exist_ok=True)
    begin = next(step for step in range(plan.steps + 1) if step == plan.steps or _load(plan, folder, step) is None)
    if _step_file(folder, begin).exists():
        print(f"{_step_file(folder, begin)} is damaged: it and the labels after it are made anew", flush=True)
    done = sum(map(plan.count_kept, range(begin)))
    mesh = parallel.make_mesh(devices=jax.local_devices())  # parts of a job share no program
    by_rows, on_all = parallel.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    params, rng = jax.device_put((idm.params, jax.random.wrap_key_data(seed_key(config.seed))), on_all)
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
    with atomic_write(_step_file(folder, step)) as writing, writing.open("wb") as file:
        np.savez(file, **kept._asdict())
    return len(kept.buttons)


def _load(plan: Plan, folder: Path, step: int) -> Labels | None:
    """The labels of a step, or None if they are not there or damaged."""
    stored = read_arrays(_step_file(folder, step))
    if stored is None or stored.keys() != set(Labels._fields):
        return None
    labels = Labels(**stored)
    return labels if {len(field) for field in labels} == {plan.count_kept(step)} else None


def _load_whole(plan: Plan, folder: Path, step: int) -> Labels:
    labels = _load(plan, folder, step)
    if labels is None:
        raise LabelError(f"{_step_file(folder, step)} is damaged: run the same command again, which makes it anew")
    return labels


def _read_labels(plan: Plan, folder: Path) -> Iterator[Labels]:
    """The labels of every video, in order."""
    return plan.by_video(_load_whole(plan, folder, step) for step in range(plan.steps))


def _draw_films(pool: ProcessPoolExecutor, job: Job, names: Sequence[str], labels: Any) -> None:
    films = {}
    for name, of_video in zip(names, labels(), strict=False):
        film = job.folder / "films" / f"{name}.mp4"
        if not is_drawn(film, len(of_video.buttons)):
            films[pool.submit(draw_film, job.videos[name], film, of_video.buttons, of_video.camera)] = name
    with progress_bar(len(films), desc="drawing films", unit="film", disable=not films) as bar:
        for future in as_completed(films):
            _finished(future, job.videos[films[future]].video)
            bar.update()


def _assemble(job: Job, names: Sequence[str], labels: Any) -> None:
    """Writes the part's dataset, anew."""
    folder = job.folder / "dataset.writing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    notes = [
        dict(zip(("file", "reason", "detail"), (str(clip), *read_json(note)), strict=True))
        for name, clip in job.videos.items()
        if (note := _result(job, name, "broken")).exists()
    ]
    if names:
        groups = list(dataset.group_by_size([_result(job, name, "records") for name in names], dataset.SHARD_BYTES))
        of_videos = zip(names, (_result(job, name, "records") for name in names), labels(), strict=True)
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
    del made_of["devices"]
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


def _merge(folder: Path, parts: int, out: Path) -> bool:
    """Makes one dataset of all parts, if all are done; says whether it did."""
    there = [folder / f"part-{part:05}-of-{parts:05}" / "dataset" for part in range(parts)]
    if missing := [part.parent.name for part in there if not part.exists()]:
        print(f"this part is done; the dataset will be made when these are too: {', '.join(missing)}")
        return False
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    reports = [_read_report(part) for part in there]
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
    dataset.check_dataset(merged)
    place_folder(merged, out)
    return True


def _read_report(part: Path) -> dict[str, Any]:
    report = read_json(part / "report.json")
    if not (isinstance(report, dict) and {"broken", "made_of"} <= report.keys()):
        raise LabelError(f"{part / 'report.json'} is damaged: label this part again, which makes it anew")
    return report


def _summary(out: Path) -> str:
    report = json.loads((out / "report.json").read_text())
    counts = report["splits"][SPLIT]
    lines = [
        f"dataset {out}",
        f"  {counts['episodes']:,} videos of {counts['frames']:,} frames, labelled with a mean confidence of "
        f"{report['mean_confidence']:.2f}; {counts['broken']:,} broken",
    ]
    lines += [
        printable(f"  broken: {note['file']}: {note['reason']}: {note['detail']}") for note in report["broken"][:5]
    ]
    if len(report["broken"]) > 5:
        lines.append(f"  every one is listed in {out / 'report.json'}")
    return "\n".join(lines)
