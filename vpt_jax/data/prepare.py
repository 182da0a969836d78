"""Dataset preparation from recordings: worker processes encode intact episodes; broken ones are listed in the report.

Intermediate files are in `OUT.partial` until the dataset is complete; then it is renamed to `OUT` or, if that is a
mount point, copied (mount_points.py). Each episode is stored as soon as it is encoded, so an interrupted run resumes
where it stopped. Shards and index are deterministic to the byte, for any number of workers, interrupted or not. A run
needs twice the dataset's size on disk. Recordings of other formats are read by bridges (bridges/registry.py).
"""

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.actions.space import ActionSpace
from vpt_jax.contractor_names import is_version, recorder_version
from vpt_jax.data import beam, bridged_report, dataset, manifest, sessions, splits, trainable
from vpt_jax.data.bridged import BridgedRecording, encode_bridged
from vpt_jax.data.bridges.facts import facts_file
from vpt_jax.data.bridges.registry import load_bridge
from vpt_jax.data.captions import Caption, join_captions, write_captions
from vpt_jax.data.encode import RECORDINGS, EncodingSettings, Recording, add_suffix, encode_episodes
from vpt_jax.data.errors import PrepareError
from vpt_jax.data.prepare_settings import read_settings
from vpt_jax.data.recorded_stats import RecordedStats
from vpt_jax.data.subtitles import subtitles_digest
from vpt_jax.recording import GUI_MOUSE_SCALE, find_recordings, recording_file
from vpt_jax.system.mount_points import place_folder
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.renamed_fields import refuse_renamed_fields
from vpt_jax.system.resumable_folder import refuse_changes
from vpt_jax.system.workers import TaskRunner, locked, process_runner, progress_bar
from vpt_jax.video_files import content_digest, is_video, name_problem, printable_path, utf8_path

SPLITS = ("train", "valid", "test")
_ATTEMPTS = 3  # to assemble the encoded episodes; each attempt re-encodes damaged ones


def prepare(config: ConfigDict, source: str = RECORDINGS) -> Path:
    """Prepares the dataset `config.out` from the recordings in `config.recordings` (fields: configs/prepare.py).

    Recordings are in the subfolders train, valid and test, one per split, or all in the folder itself: then all are
    `train`. If none is `valid`, some contractors' recordings are held out of `train` (splits.py). Or they are the
    segments of a manifest in such a folder (vpt_jax/data/manifest.py). Does nothing if the dataset is up to date.

    Args:
        config: of the run.
        source: format of the recordings: OpenAI's, or a bridge (bridges/registry.py).

    Returns:
        Path of the dataset.

    Raises:
        PrepareError: the dataset cannot be prepared as configured.
        FolderInUseError: another run prepares the same dataset.
    """
    refuse_renamed_fields(config)
    refuse_remote_paths(config)
    if not (config.recordings and config.out):
        raise PrepareError("set the input and the output folder: --config.recordings=A --config.out=B")
    folder, out = Path(config.recordings).resolve(), Path(config.out).resolve()
    settings = read_settings(config, source)
    partial = add_suffix(out, ".partial")
    recordings = _of_versions(_find(folder, partial / "episodes", settings), config.recorder_versions)
    facts = {} if _is_bridged(settings) else trainable.read_all_facts(recordings)
    if not _is_bridged(settings):
        recordings = _hold_out(trainable.allowed(recordings, facts, config.include_untrainable), config.valid, facts)
    for recording in recordings:
        if problem := name_problem(recording.source):
            print(f"broken: {printable_path(recording.source)}: {problem}", flush=True)
    provenance = {"settings": settings.stored, "recordings": _digest(_identity(recordings, config, settings))}
    if _is_up_to_date(out, provenance):
        print("nothing to do: this dataset is up to date")
    else:
        with locked(partial), _workers(config, recordings) as run:
            for _ in range(_ATTEMPTS):
                _encode_all(run, recordings, settings)
                episodes, bridged = _episodes(run, recordings, config, settings)
                if damaged := [one for one in recordings if not one.is_done]:
                    _report_damaged(damaged)
                    continue
                if settings.mouse_factors:
                    bridged_report.refuse_unknown_factors(recordings, dict(settings.mouse_factors))
                report = provenance | _episode_report(folder, list(episodes)) | _recorded_report(episodes)
                report |= bridged or trainable.report_facts(facts, config.include_untrainable)
                if _assemble(run, partial / "dataset", episodes, settings, report):
                    break
            else:
                raise PrepareError(
                    f"{partial} loses files that are written to it: check the disk, then run the same command again"
                )
            place_folder(partial / "dataset", out)
    shutil.rmtree(partial, ignore_errors=True)
    print(_summary(out))
    return out


def _is_bridged(settings: EncodingSettings) -> bool:
    return settings.source != RECORDINGS


def _identity(recordings: Sequence[Any], config: ConfigDict, settings: EncodingSettings) -> list[Any]:
    """JSON values that identify the recordings of a dataset and their splits."""
    results: list[Any] = [f"{recording.split}/{recording.result.name}" for recording in recordings]
    if _is_bridged(settings):  # these are split by facts that are read later
        return [*results, config.valid.to_dict(), config.include_untrainable]
    return results + (["joined"] if config.join_segments else [])


def _episodes(
    run: TaskRunner, recordings: Sequence[Any], config: ConfigDict, settings: EncodingSettings
) -> tuple[dict[Recording, list[Recording]], dict[str, Any]]:
    """Episodes of the encoded recordings, each with its segments, and what the report has of bridged ones."""
    if _is_bridged(settings):
        chosen = bridged_report.choose_episodes(recordings, config.valid, config.include_untrainable)
        if names := chosen.duplicates:
            raise PrepareError(f"two recordings would be called {names[0]}: rename one of their files")
        return {episode: [episode] for episode in chosen.episodes}, chosen.report
    if config.join_segments:
        return _join(run, recordings, settings), {}
    return {recording: [recording] for recording in recordings}, {}


def _workers(config: ConfigDict, recordings: Sequence[Any]) -> AbstractContextManager[TaskRunner]:
    if config.beam.runner:
        return beam.on_runner(config.beam.runner, config.beam.options)
    return process_runner(config.workers, PrepareError, lambda: _in_progress(recordings))


def _find(source: Path, results: Path, settings: EncodingSettings) -> list[Any]:
    """Finds all recordings, by split and name: `Recording`, or `BridgedRecording` if the source is a bridge."""
    if source.suffix == manifest.SUFFIX and source.is_file() and not _is_bridged(settings):
        return _find_segments(source, results, settings)
    if not source.is_dir():
        raise PrepareError(f"there is no folder of recordings at {source}, and no manifest (NAME{manifest.SUFFIX})")
    folders = {split: source / split for split in SPLITS if (source / split).is_dir()}
    find = load_bridge(settings.source).find if _is_bridged(settings) else find_recordings
    unassigned = [path for path in find(source) if not any(map(path.is_relative_to, folders.values()))]
    if folders and unassigned:
        names = ", ".join(folders)
        raise PrepareError(f"{unassigned[0]} is next to the split folders {names}: move it into one of these folders")
    found = {split: find(folder) for split, folder in folders.items()} or {"train": unassigned}
    if not any(found.values()):
        kind = f"of the format {settings.source}" if _is_bridged(settings) else "(NAME.mp4 and NAME.jsonl)"
        raise PrepareError(f"there are no recordings {kind} in {source}")
    places = [(split, path) for split, paths in found.items() for path in paths]
    if _is_bridged(settings):
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda place: _bridged(place[0], place[1], results, settings), places))
    return list(_describe_recordings(places, results, settings).values())


def _bridged(split: str, path: Path, results: Path, settings: EncodingSettings) -> BridgedRecording:
    """Describes a bridged recording; hashes its files."""
    bridge, files = load_bridge(settings.source), list[Path]()
    with suppress(OSError):  # a folder that cannot be read: the encoder reports it
        files = [*bridge.files(path), *([bridge.facts(path)] if bridge.facts(path).exists() else [])]
    names = [str(file.relative_to(path.parent)) if file.is_relative_to(path.parent) else file.name for file in files]
    contents = [content_digest(file, whole=not is_video(file)) for file in files]
    result = results / split / f"{_plain_name(path.name)}-{_digest([settings.stored, path.name, names, contents])}"
    size = sum(file.stat().st_size for file in files if file.is_file())
    return BridgedRecording(split, utf8_path(path.name), path, result, size)


def _find_segments(source: Path, results: Path, settings: EncodingSettings) -> list[Recording]:
    """Finds the recordings of a manifest's segments; as with folders, a video's subfolder is its split."""
    try:
        segments = manifest.read_segments(source)
    except manifest.ManifestError as error:
        raise PrepareError(str(error)) from error
    found: dict[str, list[Recording]] = {split: [] for split in SPLITS}
    places = {segment.video: _locate(source, segment.video) for segment in segments}
    recordings_at = _describe_recordings(places.values(), results, settings)
    for segment in segments:  # grouped by recording, in chronological order
        split, _ = places[segment.video]
        whole = recordings_at[places[segment.video]]
        result = whole.result.with_name(f"{whole.result.name}-{_digest(segment)}")
        name, rows = segment.name.removeprefix(f"{split}/"), segment.frames
        found[split].append(whole._replace(name=name, result=result, first=rows.start, stop=rows.stop))
    for recordings in found.values():
        names = Counter(recording.name for recording in recordings)
        if duplicates := [name for name, count in names.items() if count > 1]:
            raise PrepareError(f"{source}: two segments would be called {duplicates[0]}: remove one")
    return [recording for split_recordings in found.values() for recording in split_recordings]


def _of_versions(recordings: list[Any], versions: Sequence[str]) -> list[Any]:
    """The recordings of some recorder versions; all of them if none is given."""
    if not versions:
        return recordings
    found = {recording: recorder_version(recording.source) or "none" for recording in recordings}
    chosen = [one for one, version in found.items() if is_version(version, versions)]
    if not chosen:
        others = ", ".join(sorted({*found.values()}))
        raise PrepareError(
            f"config.recorder_versions is {tuple(versions)}, and the recordings are of {others}: "
            "the version is in a recording's name, 8.0_NAME, or its folder's, 8.0/NAME"
        )
    print(f"{len(chosen):,} of {len(recordings):,} recordings are of config.recorder_versions", flush=True)
    return chosen


def _locate(source: Path, video: str) -> tuple[str, Path]:
    """Returns split and path, without suffix, of a manifest's recording."""
    folder = Path(video).parent.as_posix()
    return folder if folder in SPLITS else "train", (source.parent / video).with_suffix("")


def _hold_out(
    recordings: Sequence[Recording], valid: ConfigDict, facts: Mapping[str, Mapping[str, Any]]
) -> list[Recording]:
    """Moves held-out recordings from `train` to `valid`, unless the user provides recordings in `valid`."""
    if any(recording.split == "valid" for recording in recordings):
        return list(recordings)
    names = [recording.name for recording in recordings if recording.split == "train"]
    chosen = splits.held_out(names, valid.fraction, valid.by, valid.seed, facts)
    if chosen:
        print(f"{len(chosen):,} of {len(names):,} recordings are held out as valid (see config.valid)", flush=True)
    return sorted(
        (_move_to_valid(one) if one.split == "train" and one.name in chosen else one for one in recordings),
        key=lambda recording: SPLITS.index(recording.split),
    )


def _move_to_valid(recording: Recording) -> Recording:
    result = recording.result.parent.with_name("valid") / recording.result.name
    return recording._replace(split="valid", result=result)


def _describe_recordings(
    places: Iterable[tuple[str, Path]], results: Path, settings: EncodingSettings
) -> dict[tuple[str, Path], Recording]:
    """Describes recordings by split and path without suffix; hashes their files in a thread pool."""
    distinct = list(dict.fromkeys(places))
    with ThreadPoolExecutor(16) as pool:
        recordings = pool.map(lambda place: _recording(place[0], place[1], results, settings), distinct)
        return dict(zip(distinct, recordings, strict=True))


def _recording(split: str, path: Path, results: Path, settings: EncodingSettings) -> Recording:
    files = [file for suffix in (".mp4", ".jsonl") if (file := recording_file(path, suffix)).exists()]
    # Content hashes, since copying changes dates. Unreadable files are reported as broken by the encoder.
    contents = [content_digest(file, whole=file.suffix.lower() == ".jsonl") for file in files]
    state = [settings.stored, [file.suffix for file in files], contents]
    if (sidecar := facts_file(path)).exists():
        state.append(content_digest(sidecar, whole=True))
    if subtitles := subtitles_digest([recording_file(path, ".mp4")]):
        state.append(subtitles)
    if (version := recorder_version(path)) in GUI_MOUSE_SCALE:  # the folder's name may contain it
        state.append(version)
    result = results / split / f"{_plain_name(path.name)}-{_digest(state)}"
    return Recording(split, utf8_path(path.name), path, result, sum(file.stat().st_size for file in files))


def _plain_name(name: str) -> str:
    """A name that is short and UTF-8, so that a file's name may begin with it."""
    plain = len(os.fsencode(name)) < 150 and not name_problem(name)
    return name if plain else f"{utf8_path(name)[:30]}-{_digest(name)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _is_up_to_date(out: Path, provenance: dict[str, Any]) -> bool:
    """Returns whether `out` is already this dataset; raises `PrepareError` if it is anything else and not empty."""
    if (report := dataset.finished_report(out, "settings", PrepareError)) is None:
        return False
    refuse_changes(out, report["settings"], provenance["settings"], PrepareError)
    if report.get("recordings") != provenance["recordings"]:
        raise PrepareError(
            f"recordings changed since {out} was made, or config.valid, config.join_segments or "
            "config.include_untrainable did, or an earlier version made it, which identified recordings by their "
            "dates. Training still reads it. To prepare it again, remove it, or choose another --config.out"
        )
    dataset.require_undamaged(out, PrepareError)
    return True


def _encode_all(run: TaskRunner, recordings: Sequence[Any], settings: EncodingSettings) -> None:
    """Runs `encode_episodes` or `encode_bridged` on all recordings that are not done, with a progress bar."""
    for folder in {recording.result.parent for recording in recordings}:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob("*.writing"):
            unfinished.unlink()
    if damaged := [recording for recording in recordings if recording.remove_if_damaged()]:
        _report_damaged(damaged)
    pending = [recording for recording in recordings if not recording.is_done]
    if len(pending) < len(recordings):
        print(f"{len(recordings) - len(pending)} of {len(recordings)} recordings are done already", flush=True)
    todo = [list(segments) for _, segments in groupby(pending, key=lambda recording: recording.source)]
    encode = encode_bridged if _is_bridged(settings) else encode_episodes
    frames, start = 0, time.monotonic()
    with progress_bar(sum(segments[0].size for segments in todo), desc="encoding", unit="B", unit_scale=True) as bar:
        for done, (number, count) in enumerate(run(encode, [(segments, settings) for segments in todo]), 1):
            frames += count
            rate = f", {frames / (time.monotonic() - start):,.0f} frames/s" if frames else ""
            bar.set_postfix_str(f"{done}/{len(todo)} recordings{rate}", refresh=False)
            bar.update(todo[number][0].size)


def _report_damaged(recordings: Sequence[Any]) -> None:
    named = ", ".join(map(str, recordings[:3])) + (", ..." if len(recordings) > 3 else "")
    print(
        f"{len(recordings)} recordings are encoded again, since their intermediate files are damaged: {named}",
        flush=True,
    )


def _in_progress(recordings: Sequence[Any]) -> str:
    started = {path.name for folder in {one.result.parent for one in recordings} for path in folder.glob("*.writing")}
    return ", ".join(str(one) for one in recordings if any(name.startswith(one.result.name) for name in started))


def _join(
    run: TaskRunner, recordings: Sequence[Recording], settings: EncodingSettings
) -> dict[Recording, list[Recording]]:
    """Joins contiguous segments of a session; maps every resulting episode to its segments, in the original order.

    Damaged segments lose their records, so they are no longer `is_intact`.
    """
    groups: dict[Recording, list[Recording]] = {}
    for split in SPLITS:
        whole = [one for one in recordings if one.split == split and one.stop is None and one.file(".npz").exists()]
        groups |= {group[0]: group for group in sessions.group_contiguous(whole, _segment_timing)}
    later = {segment for group in groups.values() for segment in group[1:]}
    made = {one: groups.get(one, [one]) for one in recordings if one not in later}
    episodes = {_joined_recording(segments) if len(segments) > 1 else one: segments for one, segments in made.items()}
    tasks = [
        (
            episode.result,
            [(segment.result, segment.name) for segment in segments],
            episode.name,
            settings.chunk_frames,
            settings.space,
        )
        for episode, segments in episodes.items()
        if len(segments) > 1
    ]
    for _ in run(sessions.join_episode, tasks):
        pass
    return episodes


def _joined_recording(segments: Sequence[Recording]) -> Recording:
    result = segments[0].result.with_name(f"joined-{_digest([segment.result.name for segment in segments])}")
    return segments[0]._replace(result=result, size=sum(segment.size for segment in segments))


def _segment_timing(recording: Recording) -> sessions.SegmentTiming:
    recorded, frames = recording.recorded(), len(recording.actions()["buttons"])
    return sessions.SegmentTiming(recording.source, frames, recorded.get("first_tick"), recorded.get("last_tick"))


def _assemble(
    run: TaskRunner,
    folder: Path,
    recordings: Mapping[Recording, Sequence[Recording]],
    settings: EncodingSettings,
    report: dict[str, Any],
) -> bool:
    """Writes the dataset of all intact episodes to `folder`, emptied first; returns False if some were damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    splits = {split: [r for r in recordings if r.split == split and r.is_intact] for split in report["splits"]}
    splits = {split: episodes for split, episodes in splits.items() if episodes}
    if not splits and (left_out := report.get(trainable.LEFT_OUT)):
        raise PrepareError(trainable.none_left(left_out, len(recordings)))
    if not splits:
        raise PrepareError(f"all {len(recordings)} recordings are broken; {folder / 'report.json'} says why")
    counts = {
        split: _write_split(run, folder, split, episodes, settings.chunk_frames, settings.space)
        for split, episodes in splits.items()
    }
    if damaged := [episode for episodes in splits.values() for episode in episodes if not episode.is_intact]:
        _report_damaged(damaged)
        return False
    for split, episodes in splits.items():
        write_captions(folder / "index" / split, [_captions(recordings[episode]) for episode in episodes])
    dataset.write_metadata(folder, counts, settings.space)
    dataset.check_dataset(folder)
    return True


def _captions(segments: Sequence[Recording]) -> list[Caption]:
    """Captions of an episode from its segments."""
    return join_captions((one.captions(), len(one.actions()["buttons"])) for one in segments)


def _write_split(
    run: TaskRunner, folder: Path, split: str, episodes: Sequence[Recording], chunk_frames: int, space: ActionSpace
) -> list[int]:
    """Writes a split's index and shards; returns the number of records in each shard.

    Episodes lose their records, and so are no longer `is_intact`, if these are damaged or differ in length from the
    index.
    """
    lengths = {episode.name: len(episode.actions()["buttons"]) for episode in episodes}
    dataset.write_index(
        folder / "index" / split,
        lengths,
        (episode.actions()["buttons"] for episode in episodes),
        (episode.actions()["camera"] for episode in episodes),
        (np.ones(len(episode.actions()["camera"]), np.float32) for episode in episodes),
        "recorded",
        chunk_frames,
    )
    shards = list(dataset.group_by_size([episode.file(".records") for episode in episodes], dataset.SHARD_BYTES))
    paths = [dataset.shard_path(folder, split, i, len(shards)) for i in range(len(shards))]
    joined = [folder.parent / "shards" / path.name for path in paths]  # a lost worker leaves partial files
    joined[0].parent.mkdir(exist_ok=True)
    in_order = iter(lengths.items())
    lengths_of = [dict(islice(in_order, len(shard))) for shard in shards]
    tasks = [(*task, chunk_frames, space) for task in zip(joined, shards, lengths_of, strict=True)]
    for _ in run(dataset.join_records, tasks):
        pass
    if not all(episode.is_intact for episode in episodes):
        return []
    for file, path in zip(joined, paths, strict=True):
        file.rename(path)
    return list(map(dataset.count_records, paths))


def _episode_report(source: Path, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Counts of episodes and frames by split, and the broken recordings, for `report.json`."""
    folder = source.parent if source.is_file() else source
    splits = {recording.split: Counter(episodes=0, frames=0, broken=0) for recording in recordings}
    broken = []
    for recording in recordings:
        if recording.is_intact:
            splits[recording.split].update(episodes=1, frames=len(recording.actions()["buttons"]))
            continue
        note = json.loads(recording.file(".broken").read_text())
        splits[recording.split].update(broken=1)
        broken.append(note | {"file": str((recording.source.parent / note["file"]).relative_to(folder))})
    return {"splits": splits, "broken": broken}


def _recorded_report(episodes: Mapping[Recording, Sequence[Recording]]) -> dict[str, Any]:
    """Statistics of each split's recordings, and the joined segments, for `report.json`."""
    recorded = {episode.split: RecordedStats() for episode in episodes}
    for episode, segments in episodes.items():
        for segment in segments:
            recorded[episode.split].add(RecordedStats(**segment.recorded().get("stats", {})))
    summaries = {split: stats.summary() for split, stats in recorded.items() if stats.recordings}
    joined = {
        f"{one.split}/{one.name}": [p.name for p in segments] for one, segments in episodes.items() if len(segments) > 1
    }
    return {"recorded": summaries} | ({"joined": joined} if joined else {})


def _summary(out: Path) -> str:
    report = json.loads((out / "report.json").read_text())
    lines = [f"dataset {out}"]
    for split, counts in report["splits"].items():
        intact = f"{counts['episodes']:,} episodes of {counts['frames']:,} frames"
        lines.append(f"  {split}: {intact}, {counts['broken']:,} broken recordings")
    reasons = Counter(note["reason"] for note in report["broken"])
    for reason, count in reasons.most_common():
        lines.append(f"  left out for {reason!r}: {count:,}")
    lines += bridged_report.summary(report) + trainable.summary(report)
    if reasons:
        lines.append(f"  all are listed in {out / 'report.json'}")
        lines.append(
            "  this dataset is not extended: to include repaired recordings, prepare them into another --config.out"
        )
    return "\n".join(lines)
