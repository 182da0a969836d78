"""Recorder of demos: every player's view of every game as a recording at 20 Hz, with the alignment measured.

Frame `i` of a recording is what the player saw before the commands of step `i`. That is the state after the tic before
them; the engine draws none before the first tic, and a black one after it, so recordings begin with the third tic. A
recording ends when its player dies for good or the level is left. OUT/demos.json has the facts of each recording, and
NAME.json beside it those that a dataset's preparation reads.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from vpt_jax.actions.minerl import YAW
from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.actions import action_of, paused, step_bounds
from vpt_jax.envs.doom.demos.engine import FIRST_FRAME, SIZES, draw, program, trace
from vpt_jax.envs.doom.demos.motion import TurnAlignment, image_shifts, turn_alignment
from vpt_jax.envs.doom.demos.plan import View, plan_views, summary
from vpt_jax.envs.doom.demos.trace import Trace, turned_as_commanded
from vpt_jax.recording import RecordingWriter
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.resumable_folder import resumable_folder
from vpt_jax.system.workers import progress_bar, task_result, worker_pool
from vpt_jax.video import FRAME_RATE, Frame
from vpt_jax.video_files import content_digest

_FACTS = "demos.json"
_NOT_MEASURED = "not measured: the player turns too little, or the pictures do not show it"
_MIN_STEPS = FRAME_RATE  # a second
_MIN_TURNED = 0.9  # of the commanded turns; other engines or levels than those of the demo would turn otherwise


def record_demos(config: ConfigDict) -> Path:
    """Record all views of all demos that `config.out` lacks, and return that folder (fields: configs/record.py).

    Raises:
        DemoError: a setting or a file is wrong, or dsda-doom is missing. `FolderInUseError` while another run records.
    """
    refuse_remote_paths(config)
    if not config.out:
        raise DemoError("config.out is empty: set the folder of the recordings, --config.out=FOLDER")
    if config.height % 2 or config.width % 2:
        raise DemoError(f"config.height {config.height} and config.width {config.width} must be even")
    drawn_width(config.height, config.width)
    program()
    out, views = Path(config.out), plan_views(config)
    settings = {"height": config.height, "width": config.width, "demos": [view.path.name for view in views]}
    wads = sorted({path for view in views for path in (view.game, *view.additions)})
    settings["wads"] = {path.name: content_digest(path, whole=True) for path in wads}
    with resumable_folder(out, settings, DemoError):
        facts = _record_all(views, config)
    kept = [fact for fact in facts if not fact["left_out"]]
    print(f"recordings {out}: {len(kept)} of {len(facts)} views, {summary(facts)}", flush=True)
    return out


def drawn_width(height: int, width: int) -> int:
    """Returns the width at which the engine draws frames of this size: the smallest that covers it.

    Raises:
        DemoError: the size is not positive, or too large.
    """
    for drawn, drawn_height in SIZES:
        if 0 < height <= drawn_height and 0 < width <= drawn:
            return drawn
    raise DemoError(f"cannot draw {width}x{height}: sizes go from 1x1 to {SIZES[-1][0]}x{SIZES[-1][1]}")


def record_view(view: View, height: int, width: int) -> dict[str, Any]:
    """Record one view; returns its facts, among them why it was left out, if it was."""
    facts = {
        "recording": view.path.name, "left_out": "", "player": view.person, "session": view.session,
        "world": view.level, "source": Path(view.source).name, "licence": view.licence, "view": view.player,
        "players": len(view.demo.players), "skill": view.demo.skill, "demo_seconds": round(view.demo.seconds, 2),
        "seconds": 0.0,
    }  # fmt: skip
    try:
        replayed = trace(view.demo, view.game, view.additions, view.source)
        turned = turned_as_commanded(replayed, view.demo, view.demo.players.index(view.player))
        if turned < _MIN_TURNED:
            raise DemoError(f"the view followed {turned:.0%} of the recorded turns")
        frames, alignment = _write(view, replayed, height, width)
    except DemoError as error:
        return facts | {"left_out": str(error)}
    measured = {"turned_as_commanded": turned} | (asdict(alignment) if alignment else {"alignment": _NOT_MEASURED})
    write_text(_sidecar(view), json.dumps(_sidecar_facts(view, alignment), indent=1) + "\n")
    return facts | {"seconds": frames / FRAME_RATE} | _rounded(measured)


def _sidecar(view: View) -> Path:
    return view.path.with_name(f"{view.path.name}.json")


def _sidecar_facts(view: View, alignment: TurnAlignment | None) -> dict[str, str]:
    """Fields of NAME.json (vpt_jax/data/bridges/facts.py)."""
    facts = {
        "player": view.person, "session": view.session, "world": view.level, "game": view.game.stem,
        "licence": view.licence, "notes": "" if alignment else f"alignment: {_NOT_MEASURED}",
    }  # fmt: skip
    return {name: value for name, value in facts.items() if value}


def _write(view: View, replayed: Trace, height: int, width: int) -> tuple[int, TurnAlignment | None]:
    """Draw and write a recording; nothing is published if it is too short, or the frames do not fit the turns."""
    actions, firsts = _actions(view, replayed)
    if len(actions) < _MIN_STEPS:
        raise DemoError(f"the player leads it for {len(actions) / FRAME_RATE:.1f} s only")
    drawn = draw(view.demo, view.player, view.game, view.additions, drawn_width(height, width), view.source)
    shifts = []
    with closing(drawn), RecordingWriter(view.path, height, width) as recording:

        def write_all() -> Iterator[Frame]:
            for frame, action in zip(_select(drawn, [first - 1 for first in firsts]), actions, strict=True):
                recording.write(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), action)
                yield frame

        shifts = list(image_shifts(write_all()))
        yaws = [action["camera"][YAW] for action in actions]
        alignment = turn_alignment(np.array(shifts), np.array([0.0, *yaws[:-1]]))  # a turn shows in the next frame
        if alignment and any((alignment.late, *alignment.late_by_part)):
            raise DemoError(
                f"the turns come {alignment.late} frames late (in its parts {alignment.late_by_part}), in this version "
                "of dsda-doom"
            )
    return len(actions), alignment


def _actions(view: View, replayed: Trace) -> tuple[list[dict[str, Any]], list[int]]:
    """The actions of all steps of a view, and the first tic of each."""
    slot = view.demo.players.index(view.player)
    alive = np.flatnonzero(~replayed.dead[:, slot])
    end = min(len(replayed.dead), int(alive[-1]) + 2) if len(alive) else 0
    idle = paused(view.demo.buttons)
    moves, buttons = view.demo.moves[:, slot].copy(), view.demo.buttons[:, slot].copy()
    moves[idle], buttons[idle] = 0, 0
    dead_before = np.concatenate([[False], replayed.dead[:-1, slot]])
    bounds = step_bounds(FIRST_FRAME + 1, end)
    rows = [slice(*bound) for bound in bounds]
    return [action_of(moves[row], buttons[row], dead_before[row]) for row in rows], bounds[:, 0].tolist()


def _select(frames: Iterator[Frame], numbers: Sequence[int]) -> Iterator[Frame]:
    """The frames of these rising numbers."""
    position = 0
    for number in numbers:
        yield next(islice(frames, number - position, None))
        position = number + 1


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def _record_all(views: Sequence[View], config: ConfigDict) -> list[dict[str, Any]]:
    """Record what is missing; returns the facts of all views."""
    stored = read_json(Path(config.out) / _FACTS)
    facts = {fact["recording"]: fact for fact in stored} if isinstance(stored, list) else {}
    facts = {name: fact for name, fact in facts.items() if not fact["left_out"]}
    remaining = [view for view in views if view.path.name not in facts or not _is_published(view)]
    if len(remaining) < len(views):
        print(f"{len(views) - len(remaining)} of {len(views)} views are recorded already", flush=True)
    _remove_unfinished(remaining)
    tics, start = 0, time.monotonic()
    bar = progress_bar(len(remaining), desc="recording", unit="view")
    try:
        with bar, worker_pool(config.workers) as pool:
            futures = {pool.submit(record_view, view, config.height, config.width): view for view in remaining}
            for future in as_completed(futures):
                view = futures[future]
                fact = facts[view.path.name] = task_result(future, view.path, DemoError)
                write_text(Path(config.out) / _FACTS, _as_text(views, facts))
                if fact["left_out"]:
                    print(f"left out: {view.source}, player {view.player + 1}: {fact['left_out']}", flush=True)
                tics += len(view.demo.moves)
                bar.set_postfix_str(f"{tics / (time.monotonic() - start):,.0f} tics/s", refresh=False)
                bar.update()
    except BaseException:  # workers were killed during their recordings
        _remove_unfinished([view for view in views if view.path.name not in facts])
        raise
    return [facts[view.path.name] for view in views]


def _as_text(views: Sequence[View], facts: dict[str, dict[str, Any]]) -> str:
    ordered = [facts[view.path.name] for view in views if view.path.name in facts]
    return json.dumps(ordered, indent=1) + "\n"


def _remove_unfinished(views: Sequence[View]) -> None:
    for view in views:
        view.path.parent.mkdir(exist_ok=True)
        for suffix in (".mp4", ".jsonl", ".mp4.partial", ".jsonl.partial", ".json"):
            view.path.with_name(view.path.name + suffix).unlink(missing_ok=True)


def _is_published(view: View) -> bool:
    return view.path.with_name(f"{view.path.name}.jsonl").exists() and _sidecar(view).exists()
