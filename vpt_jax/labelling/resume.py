"""Resuming of a labelling job whose videos were added, removed or replaced: all work that is still valid is kept.

    OUT.partial/videos.json                 a number for every video, by content: determines its files and its shard
    OUT.partial/part-.../labels/plan.json   the videos of the labels in this folder
    OUT.partial/part-.../labelled/          labels of whole videos, kept from discarded plans

So an unchanged video is neither decoded nor labelled again when it is renamed or other videos change.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpt_jax.labelling.plan import Labels, Plan
from vpt_jax.labelling.steps import save_labels, try_load_labels
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.video_files import printable_path

_MAX_NAMES = 3  # videos that a message names


def number_videos(work: Path, keys: Mapping[str, str]) -> dict[str, int]:
    """Assigns a number to every video, by name, stable for the same content; the caller holds the lock of `work`.

    Args:
      work: folder that stores the numbers.
      keys: content keys of the videos, by name, in order: new ones get the next free numbers.
    """
    known = _read_numbers(work)
    new = {key: name for name, key in keys.items() if key not in known}
    if known and (changes := _describe_changes(known, keys)):
        print(changes, flush=True)
    if new:
        first = 1 + max((number for number, _ in known.values()), default=-1)
        known |= {key: (number, name) for number, (key, name) in enumerate(new.items(), first)}
        _write(work / "videos.json", known)
    return {name: known[key][0] for name, key in keys.items()}


def _read_numbers(work: Path) -> dict[str, tuple[int, str]]:
    """Reads number and name of the known videos, by content; if the file is lost, removes all shards, which need it."""
    known, shard_dirs = read_json(work / "videos.json"), list(work.glob("part-*"))
    if isinstance(known, dict) and all(_is_numbered(value) for value in known.values()):
        return {key: (number, name) for key, (number, name) in known.items()}
    if shard_dirs:
        print(f"{work / 'videos.json'} is missing or damaged, so all videos are processed again", flush=True)
    for shard_dir in shard_dirs:
        shutil.rmtree(shard_dir)
    return {}


def _is_numbered(value: Any) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [int, str]


def _describe_changes(known: Mapping[str, tuple[int, str]], keys: Mapping[str, str]) -> str:
    """Message on the differences between the videos and those of earlier runs of the job, or ""."""
    before = {name: key for key, (_, name) in known.items()}
    new = [name for name, key in keys.items() if key not in known]
    replaced = [name for name in new if name in before]
    gone = [name for name, key in before.items() if key not in keys.values() and name not in keys]
    changes = {"replaced": replaced, "new": [name for name in new if name not in before], "gone": gone}
    line = "; ".join(f"{len(names):,} {what} ({list_names(names)})" for what, names in changes.items() if names)
    return f"videos have changed since this job was started: {line}. Work on all others is kept" if line else ""


def describe_differences(labelled: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    """Short message on the differences between the videos `keys` and those of a finished dataset, `labelled`."""
    changes = {
        "replaced": [name for name in keys if name in labelled and labelled[name] != keys[name]],
        "new": [name for name in keys if name not in labelled],
        "gone": [name for name in labelled if name not in keys],
    }
    return "; ".join(f"{what}: {list_names(names)}" for what, names in changes.items() if names)


def list_names(names: list[str]) -> str:
    """Formats the first few names and the number of the others."""
    shown = ", ".join(printable_path(name) for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES:,} more"


class NumberedVideo(NamedTuple):
    """Video with its number, whose decoded frames are stored."""

    number: int
    frames: int
    key: str  # content key
    name: str


class _PlanState(NamedTuple):
    """Stored state of a plan: the videos whose labels a folder holds."""

    videos: list[NumberedVideo]  # by number
    kept: list[int]  # numbers of those whose labels are kept from earlier plans

    @property
    def planned(self) -> list[NumberedVideo]:
        """Videos that the plan labels."""
        return [video for video in self.videos if video.number not in self.kept]


def resume_plan(
    shard_dir: Path,
    videos: Iterable[NumberedVideo],
    make_plan: Callable[[Sequence[NumberedVideo]], Plan],
    read_steps: Callable[[Plan], Iterable[Labels]],
    step_file: Callable[[Path, int], Path],
) -> tuple[Plan, dict[str, Path]]:
    """Returns the plan of the videos to label, in the order of numbers, and the files of labels that are kept, by name.

    If the videos differ from those of the previous run, the steps that both plans share stay; complete videos after
    them are saved in separate files; films are rendered again.

    Args:
      shard_dir: folder of the shard.
      videos: all videos of the shard that should have labels.
      make_plan: makes a plan of some videos.
      read_steps: yields the labels of a plan's first steps, as far as they exist.
      step_file: path of a step's labels, from the folder of labels and the step.
    """
    videos, folder, kept = sorted(videos), shard_dir / "labels", shard_dir / "labelled"
    state = _read_plan_state(folder)
    lost = [video.number for video in state.videos if video.number in state.kept and not _is_kept(kept, video)]
    for number in lost:
        _kept_file(kept, number).unlink(missing_ok=True)
    if state.videos != videos or lost:
        shutil.rmtree(shard_dir / "films", ignore_errors=True)
        valid = set(state.kept) - set(lost)
        previous, pending = state.planned, [video for video in videos if video.number not in valid]
        old = make_plan(previous)
        for first in (_common_prefix_length(previous, pending), 0):
            _save_complete_videos(old, read_steps, kept, first)
            # Includes files that no state lists: of `save_all_labels`, and of a run that stopped before writing it.
            state = _PlanState(videos, [video.number for video in videos if _is_kept(kept, video)])
            plan, shared = make_plan(state.planned), _common_prefix_length(previous, state.planned)
            if plan.rows == old.rows and shared == first:
                break
        shared = shared if plan.rows == old.rows else 0
        steps = replace(plan, videos=plan.videos[:shared]).num_spans // plan.rows
        _write_plan_state(folder, state, [step_file(folder, step) for step in range(steps, old.steps)])
    return make_plan(state.planned), {
        video.name: _kept_file(kept, video.number) for video in videos if video.number in state.kept
    }


def extends_plan(shard_dir: Path, videos: Iterable[NumberedVideo]) -> bool:
    """Returns whether the videos begin with all those of the stored plan, so that none of its steps is discarded."""
    stored = _read_plan_state(shard_dir / "labels").videos
    return _common_prefix_length(stored, sorted(videos)) == len(stored)


def save_all_labels(shard_dir: Path, plan: Plan, read_steps: Callable[[Plan], Iterable[Labels]]) -> dict[str, Path]:
    """Saves the labels of all videos of a completed plan; returns the files of all of the shard's videos, by name."""
    _save_complete_videos(plan, read_steps, shard_dir / "labelled", 0)
    videos = _read_plan_state(shard_dir / "labels").videos
    return {video.name: _kept_file(shard_dir / "labelled", video.number) for video in videos}


def _common_prefix_length(before: Sequence[NumberedVideo], now: Sequence[NumberedVideo]) -> int:
    """Length of the common prefix of two lists of videos, ignoring their names."""
    pairs = zip(before, now, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0][:3] == pair[1][:3], pairs))


def _save_complete_videos(plan: Plan, read_steps: Callable[[Plan], Iterable[Labels]], folder: Path, first: int) -> None:
    """Saves the labels of the completely labelled videos of a plan, from index `first` on."""
    count = sum(len(labels.buttons) for labels in read_steps(plan)) if plan.videos else 0
    complete = int(np.searchsorted(np.cumsum([video.frames for video in plan.videos]), count, side="right"))
    folder.mkdir(exist_ok=True)
    labels_by_video = islice(plan.split_by_video(read_steps(plan)), complete) if complete > first else ()
    for video, labels in islice(zip(plan.videos, labels_by_video, strict=False), first, None):
        save_labels(_kept_file(folder, int(video.records.stem)), labels)


def _read_plan_state(folder: Path) -> _PlanState:
    """Reads the state of the labels in a folder; an empty one if it is missing or damaged."""
    content = read_json(folder / "plan.json")
    try:
        return _PlanState([NumberedVideo(*video) for video in content["videos"]], list(content["kept"]))
    except (TypeError, KeyError):
        return _PlanState([], [])


def _write_plan_state(folder: Path, state: _PlanState, discarded: Sequence[Path]) -> None:
    """Writes the state of a new plan, after removing the discarded steps.

    These are removed in reverse order, so that if interrupted, the remaining steps are the first ones of both plans.
    """
    folder.mkdir(exist_ok=True)
    if not _read_plan_state(folder).videos:  # missing or damaged: the videos of the steps are unknown
        discarded = sorted(folder.glob("*.npz"))
    for file in reversed(discarded):
        file.unlink(missing_ok=True)
    _write(folder / "plan.json", state._asdict())


def _kept_file(folder: Path, number: int) -> Path:
    return folder / f"{number:07}.npz"


def _is_kept(folder: Path, video: NumberedVideo) -> bool:
    labels = try_load_labels(_kept_file(folder, video.number))
    return labels is not None and len(labels.buttons) == video.frames


def result_file(folder: Path, number: int, suffix: str) -> Path:
    """Path of a file of a video's encoded frames."""
    return folder / f"{number:07}.{suffix}"


def _write(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")
