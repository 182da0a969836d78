"""Resumable labelling job: from a folder of videos to a dataset with predicted labels, sharded over hosts.

Each host labels one shard of the videos: `config.shard_index` of `config.num_shards`.

    OUT.partial/videos.json                           the videos by content, with their numbers
    OUT.partial/part-00000-of-00004/settings.json     settings and model of this shard; other settings are rejected
                                    frames/           every video's frames at the model's size, or why it is broken
                                    labels/           the labels of every step
                                    labelled/         labels of whole videos, from before videos changed
                                    dataset/          the shard's labelled dataset, once it is complete
    OUT/                                              the dataset of all shards, merged by the host that finishes last

All files are written atomically, so an interrupted job resumes with the files that are missing. Videos may be added,
removed, renamed and replaced in between: work on the others is kept (`resume.py`).
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vpt_jax.data import dataset
from vpt_jax.data.clips import (
    Clip,
    FrameSettings,
    content_keys,
    encode_video,
    is_film_complete,
    read_result,
    render_film,
    require_videos,
    sampling_seed,
)
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.labelling import LabelError, resume
from vpt_jax.labelling.model import CHOICES, MODES, model_digest
from vpt_jax.labelling.plan import EncodedVideo, Plan
from vpt_jax.labelling.shards import SPLIT, JobShard, is_complete, merge_shards, subtitles_of, write_shard_dataset
from vpt_jax.labelling.steps import Labeller, read_steps, read_videos, step_file
from vpt_jax.labelling.waves import Waves
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.printable import printable
from vpt_jax.system.renamed_fields import refuse_renamed_fields
from vpt_jax.system.resumable_folder import describe_changes, resumable_folder
from vpt_jax.system.workers import locked, progress_bar, task_result, worker_pool
from vpt_jax.training.checkpoints import TrainedIDM, load_idm

VERSION = 3  # of the file formats in OUT.partial


def label(config: ConfigDict) -> Path:
    """Labels the videos in `config.videos` and writes the dataset `config.out` (fields: configs/label.py).

    Does nothing if the dataset is up to date.

    Returns:
        Path of the dataset; it does not exist yet if other shards are missing.

    Raises:
        LabelError: labelling cannot be done as configured.
        FolderInUseError: another run labels the same shard.
    """
    refuse_renamed_fields(config)
    refuse_remote_paths(config)
    _check(config)
    out = Path(config.out).resolve()
    work = out.with_name(f"{out.name}.partial")
    videos = require_videos(Path(config.videos).resolve(), LabelError, outside=out)
    idm = load_idm(config.idm)
    keys, made_of = content_keys(videos), _label_settings(config, idm)
    wanted = made_of | subtitles_of(videos) | {"videos": keys}
    if _is_up_to_date(out, wanted):
        return _report_done(out, work)
    _check_window(config, idm)
    with locked(work, wait=True):
        if _is_up_to_date(out, wanted):  # finished by another host while this one waited
            return _report_done(out, work)
        shards = _assign_shards(config, idm, videos, keys, work)
    shard = shards[config.shard_index]
    # The number of rows of a step depends on the number of devices.
    settings = made_of | {"devices": jax.local_device_count(), "version": VERSION}
    with resumable_folder(shard.folder, settings, LabelError, discard_unknown=True, fields=_FIELDS):
        _label_shard(shard, config, idm)
    with locked(work, wait=True):  # while another host checks whether this shard is complete
        if _is_up_to_date(out, wanted) or merge_shards(work, shards, out):  # or another host was faster
            shutil.rmtree(work, ignore_errors=True)
            print(_summary(out))
    return out


def _report_done(out: Path, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed just before it finished
    print(f"nothing to do: {out} is labelled already")
    return out


def _is_up_to_date(out: Path, made_of: dict[str, Any]) -> bool:
    """Returns whether `out` is already this dataset; raises `LabelError` if it is anything else and not empty."""
    if (report := dataset.finished_report(out, "made_of", LabelError)) is None:
        return False
    stored, settings = dict(report["made_of"]), dict(made_of)
    videos = resume.describe_differences(stored.pop("videos", {}), settings.pop("videos"))
    changes = describe_changes(stored, settings, _FIELDS)
    if changes or videos:
        details = "; ".join(filter(None, [changes, videos and f"other videos ({videos})"]))
        raise LabelError(
            f"{out} was made with other settings or videos: {details}. Remove it, or choose another --config.out"
        )
    dataset.require_undamaged(out, LabelError)
    return True


def _check(config: ConfigDict) -> None:
    if not (config.videos and config.idm and config.out):
        raise LabelError("set the videos, the model and the output folder: --config.videos, --config.idm, --config.out")
    for field, choices in {"mode": MODES, "choice": CHOICES}.items():
        if config[field] not in choices:
            raise LabelError(f"config.{field} is {config[field]!r}; choose one of {', '.join(choices)}")
    for field in ("batch", "windows_per_span", "chunk_frames"):
        if config[field] < 1:
            raise LabelError(f"config.{field} must be 1 or more")
    if len(config.aspect) != 2 or min(config.aspect) <= 0:
        raise LabelError(f"config.aspect is {config.aspect}, and must be a width and a height, such as (16, 9)")
    if not 1 <= config.quality <= 100:
        raise LabelError(f"config.quality is {config.quality}: JPEG quality goes from 1 to 100")
    for field in ("workers", "num_films"):
        if config[field] < 0:
            raise LabelError(f"config.{field} must not be negative")
    if not 0 <= config.shard_index < config.num_shards:
        raise LabelError(
            f"config.shard_index is {config.shard_index}, and must be from 0 to {config.num_shards - 1}, since "
            f"config.num_shards is {config.num_shards}"
        )
    if Path(config.videos).resolve() in Path(config.out).resolve().parents:
        raise LabelError(f"config.out is inside {config.videos}, where its films would be labelled too: choose another")


def _sizes(videos: dict[str, Clip]) -> dict[str, int]:
    return {name: clip.size for name, clip in videos.items()}


def _check_window(config: ConfigDict, idm: TrainedIDM) -> None:
    if idm.window % 4:
        raise LabelError(f"{config.idm} was trained on windows of {idm.window} frames: labelling needs a multiple of 4")


def _assign_shards(
    config: ConfigDict, idm: TrainedIDM, videos: dict[str, Clip], keys: dict[str, str], work: Path
) -> list[JobShard]:  # fmt: skip
    """Assigns videos to shards: the video's number modulo the number of shards."""
    height, width, _ = idm.frame_shape
    frames = FrameSettings(height, width, tuple(config.aspect), config.chunk_frames, config.quality)
    numbers, shards = resume.number_videos(work, keys), []
    for shard_index in range(config.num_shards):
        own = {name: clip for name, clip in videos.items() if numbers[name] % config.num_shards == shard_index}
        own_keys, own_numbers = {name: keys[name] for name in own}, {name: numbers[name] for name in own}
        folder = work / f"part-{shard_index:05}-of-{config.num_shards:05}"
        shards.append(JobShard(own, own_keys, own_numbers, folder, frames, idm.module.space))
    return shards


_FIELDS = {"span": "windows_per_span"}  # config fields of settings that are stored under their earlier name


def _label_settings(config: ConfigDict, idm: TrainedIDM) -> dict[str, Any]:
    """Settings and model that determine the labels, in addition to the videos."""
    names = ("mode", "choice", "mirror", "seed", "batch", "span", "aspect", "chunk_frames", "quality")
    made_of = {name: config[_FIELDS.get(name, name)] for name in names}
    made_of["idm"] = f"step {idm.step}, parameters {model_digest(idm)}"
    return json.loads(json.dumps(made_of))


def _label_shard(shard: JobShard, config: ConfigDict, idm: TrainedIDM) -> None:
    if is_complete(shard):
        return
    shutil.rmtree(shard.folder / "dataset", ignore_errors=True)  # a dataset of other videos
    for damaged in _remove_damaged(shard):
        print(f"{shard.videos[damaged]} is decoded again, since its intermediate files are damaged", flush=True)
    with worker_pool(config.workers) as pool:
        labeller = Labeller(config, idm)
        _decode_and_label(pool, shard, config, idm, labeller)
        names = [name for name in shard.videos if shard.result(name, "frames").exists()]
        labels = None
        if names:
            folder = shard.folder / "labels"
            frames = {name: int(shard.result(name, "frames").read_text()) for name in names}
            plan, kept = _resume_plan(shard, _numbered_videos(shard, frames), config, idm)
            if plan.videos:
                _label_steps(labeller, plan, folder, plan.steps)
                print(f"labelled {labeller.times}", flush=True)
            # Plans are in order of numbers, which differs from that of names if videos were added later.
            if names != sorted(names, key=shard.numbers.__getitem__):
                kept = resume.save_all_labels(shard.folder, plan, partial(read_steps, folder))
            labels = partial(read_videos, plan, folder, names, kept)
            _render_films(pool, shard, names[: config.num_films], labels)
        write_shard_dataset(shard, names, labels)


def _decode_and_label(
    pool: ProcessPoolExecutor, shard: JobShard, config: ConfigDict, idm: TrainedIDM, labeller: Labeller
) -> None:
    """Decodes all videos, and labels the full steps of the first ones meanwhile, in waves."""
    waves = Waves(shard, _rows(config.batch), lambda frames: _count_spans(frames, config, idm))
    for _ in _encode_all(pool, shard):
        if (frames := waves.next_wave()) is None:
            continue
        videos = _numbered_videos(shard, frames)
        if resume.extends_plan(shard.folder, videos):  # else steps of an earlier start would be discarded
            plan, _kept = _resume_plan(shard, videos, config, idm)
            _label_steps(labeller, plan, shard.folder / "labels", plan.num_spans // plan.rows)


def _label_steps(labeller: Labeller, plan: Plan, folder: Path, stop: int) -> None:
    try:
        labeller.label_steps(plan, folder, stop)
    except DatasetDamagedError as error:
        raise LabelError(str(error)) from error


def _remove_damaged(shard: JobShard) -> Iterator[str]:
    """Removes the files of videos whose files are damaged or inconsistent, and yields their names."""
    for name in shard.videos:
        files = [shard.result(name, suffix) for suffix in ("records", "frames", "broken")]
        if any(file.exists() for file in files[1:]) and read_result(files[0].with_suffix(""), shard.frames) is None:
            for file in files:
                file.unlink(missing_ok=True)
            yield name


def _numbered_videos(shard: JobShard, frames: Mapping[str, int]) -> list[resume.NumberedVideo]:
    """Decoded videos, from the numbers of their frames."""
    return [resume.NumberedVideo(shard.numbers[name], count, shard.keys[name], name) for name, count in frames.items()]


def _resume_plan(
    shard: JobShard, videos: Sequence[resume.NumberedVideo], config: ConfigDict, idm: TrainedIDM
) -> tuple[Plan, dict[str, Path]]:
    """Returns the plan of the videos to label, and the files of labels that are kept from earlier plans, by name."""
    make_plan = lambda selected: _make_plan(shard, selected, config, idm)  # noqa: E731
    return resume.resume_plan(shard.folder, videos, make_plan, partial(read_steps, shard.folder / "labels"), step_file)


def _encode_all(pool: ProcessPoolExecutor, shard: JobShard) -> Iterator[None]:
    """Decodes the videos that are not done, with a progress bar; yields after each."""
    (shard.folder / "frames").mkdir(exist_ok=True)
    for unfinished in (shard.folder / "frames").glob("*.writing"):
        unfinished.unlink()
    sizes = _sizes(shard.videos)
    done = {name for name in shard.videos if any(shard.result(name, kind).exists() for kind in ("frames", "broken"))}
    frames, start = 0, time.monotonic()
    with progress_bar(sum(sizes.values()), desc="decoding", unit="B", unit_scale=True) as bar:
        bar.update(sum(sizes[name] for name in done))
        futures = {
            pool.submit(encode_video, clip, shard.result(name, "records").with_suffix(""), shard.frames): name
            for name, clip in shard.videos.items()
            if name not in done
        }
        for future in as_completed(futures):
            frames += task_result(future, shard.videos[futures[future]].video, LabelError)
            bar.set_postfix_str(f"{frames / (time.monotonic() - start):,.0f} frames/s", refresh=False)
            bar.update(sizes[futures[future]])
            yield


def _make_plan(shard: JobShard, decoded: Sequence[resume.NumberedVideo], config: ConfigDict, idm: TrainedIDM) -> Plan:
    """Makes a plan whose rows per step are limited by the number of spans, and divisible by that of local devices."""
    chunk = shard.frames.chunk_frames
    videos = tuple(
        EncodedVideo(resume.result_file(shard.folder / "frames", video.number, "records"), video.frames, chunk,
              sampling_seed=sampling_seed(video.key))
        for video in decoded
    )  # fmt: skip
    num_spans = Plan(videos, idm.window, config.windows_per_span, 1).num_spans
    return Plan(videos, idm.window, config.windows_per_span, _rows(max(1, min(config.batch, num_spans))))


def _rows(spans: int) -> int:
    """Rows of a step for a number of spans: a multiple of the number of devices."""
    return -(-spans // jax.local_device_count()) * jax.local_device_count()


def _count_spans(frames: int, config: ConfigDict, idm: TrainedIDM) -> int:
    """Number of spans of a video."""
    return Plan((EncodedVideo(Path(), frames, 1),), idm.window, config.windows_per_span, 1).num_spans


def _render_films(pool: ProcessPoolExecutor, shard: JobShard, names: Sequence[str], labels: Any) -> None:
    films = {}
    for name, video_labels in zip(names, labels(), strict=False):
        film = shard.folder / "films" / f"{name}.mp4"
        if not is_film_complete(film, len(video_labels.buttons)):
            labels_of = video_labels.buttons, video_labels.camera
            films[pool.submit(render_film, shard.videos[name], film, *labels_of, shard.space)] = name
    with progress_bar(len(films), desc="drawing films", unit="film", disable=not films) as bar:
        for future in as_completed(films):
            if problem := task_result(future, shard.videos[films[future]].video, LabelError):
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
        lines.append(f"  all are listed in {out / 'report.json'}")
    if report["broken"]:
        lines.append("  this dataset is not extended: to include repaired videos, label them into another --config.out")
    return "\n".join(lines)
