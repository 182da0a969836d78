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
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vpt_jax.data import dataset
from vpt_jax.data.clips import (
    Clip,
    FrameSettings,
    draw_film,
    draw_number,
    encode_video,
    find_videos,
    identify,
    is_drawn,
    read_result,
)
from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.manifest import SUFFIX
from vpt_jax.labelling import LabelError, resume
from vpt_jax.labelling.model import CHOICES, MODES, model_digest
from vpt_jax.labelling.parts import SPLIT, Job, assemble, is_done, merge
from vpt_jax.labelling.plan import Plan, Video
from vpt_jax.labelling.steps import label_steps, read_steps, read_videos, step_file
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.mount_points import is_free
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import locked, progress_bar, worker_pool
from vpt_jax.training.checkpoints import TrainedIDM, load_idm

VERSION = 3  # of the files in OUT.partial


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
    keys, made_of = identify(videos), _made_of(config, idm)
    wanted = made_of | {"videos": keys}
    if _is_made(out, wanted):
        return _tell_made(out, work)
    _check_window(config, idm)
    with locked(work, wait=True):
        if _is_made(out, wanted):  # while it waited
            return _tell_made(out, work)
        jobs = _share(config, idm, videos, keys, work)
    job = jobs[config.part]
    with locked(job.folder):
        _keep_settings(job, made_of)
        _label_part(job, config, idm)
    with locked(work, wait=True):  # for a host that looks whether this part is done
        if _is_made(out, wanted) or merge(work, jobs, out):  # or another host was faster
            shutil.rmtree(work, ignore_errors=True)
            print(_summary(out))
    return out


def _tell_made(out: Path, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed at its very end
    print(f"nothing to do: {out} is labelled already")
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
        videos = resume.describe_other_videos(there.get("videos", {}), made_of["videos"])
        raise LabelError(
            f"{out} was labelled with other {', '.join(changed)}: remove it, or choose another out"
            + (f" (videos {videos})" if videos else "")
        )
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
    if is_done(job):
        return
    shutil.rmtree(job.folder / "dataset", ignore_errors=True)  # of other videos
    for damaged in _forget_damage(job):
        print(f"{job.videos[damaged]} is decoded anew, since what was kept of it is damaged", flush=True)
    with worker_pool(config.workers) as pool:
        _encode_all(pool, job)
        names = [name for name in job.videos if job.result(name, "frames").exists()]
        labels = None
        if names:
            folder = job.folder / "labels"
            plan, kept = _begin_plan(job, names, config, idm)
            try:
                if plan.videos:
                    label_steps(plan, folder, config, idm)
            except DatasetDamagedError as error:
                raise LabelError(str(error)) from error
            if names != sorted(names, key=job.numbers.__getitem__):  # some came later; plans are in order of numbers
                kept = resume.keep_all(job.folder, plan, partial(read_steps, folder))
            labels = partial(read_videos, plan, folder, names, kept)
            _draw_films(pool, job, names[: config.films], labels)
        assemble(job, names, labels)


def _forget_damage(job: Job) -> Iterator[str]:
    """Removes what was kept of videos whose files are damaged or disagree, and gives their names."""
    for name in job.videos:
        files = [job.result(name, suffix) for suffix in ("records", "frames", "broken")]
        if any(file.exists() for file in files[1:]) and read_result(files[0].with_suffix(""), job.frames) is None:
            for file in files:
                file.unlink(missing_ok=True)
            yield name


def _begin_plan(job: Job, names: Sequence[str], config: ConfigDict, idm: TrainedIDM) -> tuple[Plan, dict[str, Path]]:
    """The plan of what is to be labelled, and files of labels that are kept from earlier plans, by name."""
    frames = {name: int(job.result(name, "frames").read_text()) for name in names}
    videos = [resume.Decoded(job.numbers[name], frames[name], job.keys[name], name) for name in names]
    make_plan = lambda some: _make_plan(job, some, config, idm)  # noqa: E731
    return resume.settle_plan(job.folder, videos, make_plan, partial(read_steps, job.folder / "labels"), step_file)


def _encode_all(pool: ProcessPoolExecutor, job: Job) -> None:
    """Decodes every video that is not done yet, and shows how it goes."""
    (job.folder / "frames").mkdir(exist_ok=True)
    for left_over in (job.folder / "frames").glob("*.writing"):
        left_over.unlink()
    sizes = _sizes(job.videos)
    done = {name for name in job.videos if any(job.result(name, kind).exists() for kind in ("frames", "broken"))}
    frames, start = 0, time.monotonic()
    with progress_bar(sum(sizes.values()), desc="decoding", unit="B", unit_scale=True) as bar:
        bar.update(sum(sizes[name] for name in done))
        futures = {
            pool.submit(encode_video, clip, job.result(name, "records").with_suffix(""), job.frames): name
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


def _draw_films(pool: ProcessPoolExecutor, job: Job, names: Sequence[str], labels: Any) -> None:
    films = {}
    for name, of_video in zip(names, labels(), strict=False):
        film = job.folder / "films" / f"{name}.mp4"
        if not is_drawn(film, len(of_video.buttons)):
            films[pool.submit(draw_film, job.videos[name], film, of_video.buttons, of_video.camera)] = name
    with progress_bar(len(films), desc="drawing films", unit="film", disable=not films) as bar:
        for future in as_completed(films):
            if problem := _finished(future, job.videos[films[future]].video):
                bar.write(f"no film of {films[future]}: {problem}")
            bar.update()


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
    if report["broken"]:
        lines.append("  this dataset stays as it is: what you mend of them, label into another --config.out")
    return "\n".join(lines)
