"""Resuming a labelling job whose videos were added, removed or replaced: all work that is still valid is kept.

    OUT.partial/videos.json              a number for every video, by content: it names its files, and gives its part
    OUT.partial/part-.../labels/plan.json   which videos the labels beside it are of
    OUT.partial/part-.../labelled/       labels of whole videos, kept from plans that were given up

So a video that is as it was is neither decoded nor labelled again, whatever became of the others, and whatever it is
called now.
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
from vpt_jax.labelling.steps import save_labels, try_labels
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.video_files import printable_path

_NAMED = 3  # videos that a message names


def number_videos(work: Path, keys: Mapping[str, str]) -> dict[str, int]:
    """A number for every video, by name, the same at every call for the same content; the caller holds `work` locked.

    Args:
      work: folder that keeps the numbers.
      keys: identity by content of every video, by name, in order: new ones get the next free numbers.
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
    """Number and name of the known videos, by content. Without it nothing tells whose the files are: they go."""
    known, parts = read_json(work / "videos.json"), list(work.glob("part-*"))
    if isinstance(known, dict) and all(_is_numbered(value) for value in known.values()):
        return {key: (number, name) for key, (number, name) in known.items()}
    if parts:
        print(f"{work / 'videos.json'} is missing or damaged, so what was made by it is made anew", flush=True)
    for part in parts:
        shutil.rmtree(part)
    return {}


def _is_numbered(value: Any) -> bool:
    return isinstance(value, list) and list(map(type, value)) == [int, str]


def _describe_changes(known: Mapping[str, tuple[int, str]], keys: Mapping[str, str]) -> str:
    """A line for the user on how the videos differ from those that the job knows, or ""."""
    before = {name: key for key, (_, name) in known.items()}
    new = [name for name, key in keys.items() if key not in known]
    replaced = [name for name in new if name in before]
    gone = [name for name, key in before.items() if key not in keys.values() and name not in keys]
    changes = {"replaced": replaced, "new": [name for name in new if name not in before], "gone": gone}
    line = "; ".join(f"{len(names):,} {what} ({list_names(names)})" for what, names in changes.items() if names)
    return f"videos have changed since this job was begun: {line}. Work on all others is kept" if line else ""


def describe_other_videos(labelled: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    """Differences of the videos `keys` from those of a finished dataset, `labelled`, in a few words."""
    changes = {
        "replaced": [name for name in keys if name in labelled and labelled[name] != keys[name]],
        "new": [name for name in keys if name not in labelled],
        "gone": [name for name in labelled if name not in keys],
    }
    return "; ".join(f"{what}: {list_names(names)}" for what, names in changes.items() if names)


def list_names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(printable_path(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"


class Decoded(NamedTuple):
    """A video whose frames are stored."""

    number: int
    frames: int
    key: str  # identity by content
    name: str


class _Note(NamedTuple):
    """The videos whose labels a folder holds."""

    videos: list[Decoded]  # by number
    kept: list[int]  # numbers of those whose labels are kept from earlier plans

    @property
    def planned(self) -> list[Decoded]:
        return [video for video in self.videos if video.number not in self.kept]


def settle_plan(
    part: Path,
    videos: Iterable[Decoded],
    make_plan: Callable[[Sequence[Decoded]], Plan],
    read_steps: Callable[[Plan], Iterable[Labels]],
    step_file: Callable[[Path, int], Path],
) -> tuple[Plan, dict[str, Path]]:
    """The plan of what is to be labelled, in the order of numbers; and files of labels that are kept, by name.

    If the videos are not those of the run before, the steps that both plans share stay; whole videos after them are
    kept in files of their own; films are drawn anew.

    Args:
      part: folder of the part.
      videos: that are to be labelled.
      make_plan: of some videos.
      read_steps: the labels of a plan's first steps, as far as there are any.
      step_file: of the folder of labels and a step.
    """
    videos, folder, kept = sorted(videos), part / "labels", part / "labelled"
    note = _read_note(folder)
    lost = [video.number for video in note.videos if video.number in note.kept and not _is_kept(kept, video)]
    for number in lost:
        _kept_file(kept, number).unlink(missing_ok=True)
    if note.videos != videos or lost:
        shutil.rmtree(part / "films", ignore_errors=True)
        still = set(note.kept) - set(lost)
        before, left = note.planned, [video for video in videos if video.number not in still]
        old = make_plan(before)
        for first in (_count_shared(before, left), 0):
            _keep_whole_videos(old, read_steps, kept, first)
            # Also files that no note tells of: of `keep_all`, and of a run that was stopped before it noted them.
            note = _Note(videos, [video.number for video in videos if _is_kept(kept, video)])
            plan, shared = make_plan(note.planned), _count_shared(before, note.planned)
            if plan.rows == old.rows and shared == first:
                break
        shared = shared if plan.rows == old.rows else 0
        steps = replace(plan, videos=plan.videos[:shared]).num_spans // plan.rows
        _begin_plan(folder, note, [step_file(folder, step) for step in range(steps, old.steps)])
    return make_plan(note.planned), {
        video.name: _kept_file(kept, video.number) for video in videos if video.number in note.kept
    }


def keep_all(part: Path, plan: Plan, read_steps: Callable[[Plan], Iterable[Labels]]) -> dict[str, Path]:
    """Files of the labels of all videos of the part, by name, once the plan is done."""
    _keep_whole_videos(plan, read_steps, part / "labelled", 0)
    return {video.name: _kept_file(part / "labelled", video.number) for video in _read_note(part / "labels").videos}


def _count_shared(before: Sequence[Decoded], now: Sequence[Decoded]) -> int:
    """The number of videos, from the first one on, that are the same; they may have other names."""
    pairs = zip(before, now, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0][:3] == pair[1][:3], pairs))


def _keep_whole_videos(plan: Plan, read_steps: Callable[[Plan], Iterable[Labels]], folder: Path, first: int) -> None:
    """Stores the labels of those videos, from number `first` of the plan on, that are labelled to their end."""
    count = sum(len(part.buttons) for part in read_steps(plan)) if plan.videos else 0
    whole = int(np.searchsorted(np.cumsum([video.frames for video in plan.videos]), count, side="right"))
    folder.mkdir(exist_ok=True)
    of_videos = islice(plan.by_video(read_steps(plan)), whole) if whole > first else ()
    for video, labels in islice(zip(plan.videos, of_videos, strict=False), first, None):
        save_labels(_kept_file(folder, int(video.records.stem)), labels)


def _read_note(folder: Path) -> _Note:
    """The note of the labels in a folder; an empty one if there is none that can be read."""
    content = read_json(folder / "plan.json")
    try:
        return _Note([Decoded(*video) for video in content["videos"]], list(content["kept"]))
    except (TypeError, KeyError):
        return _Note([], [])


def _begin_plan(folder: Path, note: _Note, given_up: Sequence[Path]) -> None:
    """Notes a new plan. The steps given up go first, and backwards: those left are always the first ones of both."""
    folder.mkdir(exist_ok=True)
    if not _read_note(folder).videos:  # missing or damaged: nothing tells what the steps are of
        given_up = sorted(folder.glob("*.npz"))
    for file in reversed(given_up):
        file.unlink(missing_ok=True)
    _write(folder / "plan.json", note._asdict())


def _kept_file(folder: Path, number: int) -> Path:
    return folder / f"{number:07}.npz"


def _is_kept(folder: Path, video: Decoded) -> bool:
    labels = try_labels(_kept_file(folder, video.number))
    return labels is not None and len(labels.buttons) == video.frames


def result_file(folder: Path, number: int, suffix: str) -> Path:
    """A file of a video's encoded frames."""
    return folder / f"{number:07}.{suffix}"


def _write(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")
