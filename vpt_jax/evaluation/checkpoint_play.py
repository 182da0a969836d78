"""Play of a run's checkpoints, `play.jsonl` of its work directory: one line per checkpoint and per agent without one.

Every checkpoint plays two sets of episodes: those of `choosing` select the best checkpoint, and those of `reported`
select nothing, so that a figure of the chosen one is not biased by the choice. All agents play the same `reported`
episodes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vpt_jax.evaluation.resampling import Figure
from vpt_jax.system.atomic_files import write_text

PLAY_FILE = "play.jsonl"
BEST_BY_PLAY = "best_by_play"  # work directory, in that of the run, of the checkpoint that played best
CHECKPOINT = "checkpoint"  # agent of a line of a checkpoint

Figures = Mapping[str, Figure]  # from `play_figures`


class AgentPlay(NamedTuple):
    """Play of a checkpoint, or of an agent that is not trained."""

    agent: str  # CHECKPOINT, or RANDOM or SCRIPTED of `rollouts`
    step: int  # of the checkpoint; 0: it has none
    settings: Mapping[str, Any]  # of the game and the episodes; JSON values, equal in all lines of a file
    choosing: Figures  # empty for agents that are not trained
    reported: Figures


def read_play(workdir: Path) -> list[AgentPlay]:
    """Lines of a run's `play.jsonl`, in order; none if nothing has played."""
    file = workdir / PLAY_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [from_json(json.loads(line)) for line in lines]


def append_play(workdir: Path, played: AgentPlay) -> None:
    """Append a line to a run's `play.jsonl`, atomically."""
    lines = [json.dumps(one._asdict()) for one in [*read_play(workdir), played]]
    write_text(workdir / PLAY_FILE, "\n".join(lines) + "\n")


def checkpoints_of(played: Sequence[AgentPlay]) -> list[AgentPlay]:
    """The lines of checkpoints."""
    return [one for one in played if one.agent == CHECKPOINT]


def best_by_play(played: Sequence[AgentPlay]) -> AgentPlay | None:
    """Checkpoint with the highest mean return in the episodes that choose, the first of equals; None: there is none."""
    completed = [one for one in checkpoints_of(played) if "return" in one.choosing]  # not all of its episodes lost
    return max(completed, key=lambda one: one.choosing["return"].value, default=None)


def from_json(line: Mapping[str, Any]) -> AgentPlay:
    """The line from its JSON values."""
    groups = {
        group: {name: Figure(*values) for name, values in line[group].items()} for group in ("choosing", "reported")
    }
    return AgentPlay(**{**line, **groups})
