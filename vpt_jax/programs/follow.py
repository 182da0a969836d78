"""Let the checkpoints of a training run play, each once (fields: configs/follow.py).

Training never waits for it. Parameters are in memory before an episode begins, so that training may remove a checkpoint
that plays, and those of the best are saved as a work directory of their own before its line is written. They are saved
with the line: a program that was killed between the two writes it when it resumes.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.envs.games import GAMES
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.evaluation.checkpoint_play import (
    BEST_BY_PLAY,
    CHECKPOINT,
    PLAY_FILE,
    AgentPlay,
    Figures,
    append_play,
    best_by_play,
    checkpoints_of,
    from_json,
    read_play,
)
from vpt_jax.evaluation.rollouts import (
    RANDOM,
    SCRIPTED,
    EvaluatedPolicy,
    IdleAgent,
    RandomAgent,
    VectorAgent,
    play_figures,
)
from vpt_jax.programs.evaluate import CHOSEN_BY, count_envs, episode_seeds, overlap, play_agent
from vpt_jax.report.checkpoint_play import write_play_page
from vpt_jax.report.play_and_loss import write_play_and_loss
from vpt_jax.system import stopping
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.resumable_folder import refuse_changes
from vpt_jax.system.workers import locked
from vpt_jax.training.checkpoints import (
    CheckpointError,
    TrainedPolicy,
    checkpoint_steps,
    jsonable,
    load_policy,
)
from vpt_jax.training.parameters_only import save_policy
from vpt_jax.training.setup import check_choices

FINISHED = "finished\n"  # line of standard input: no further checkpoint comes
_POLL_SECONDS = 2.0
_LINE = "play"  # in the metadata of the best by play: its line of play.jsonl


def follow(config: ConfigDict) -> Path:
    """Lets all checkpoints that have not played play, and with `config.wait` also later ones; returns the page's path.

    Raises:
        ConfigError: a field is invalid, or differs from that of the checkpoints that have played.
        FileNotFoundError: the work directory holds no checkpoint.
        CheckpointError: its checkpoints are no policies, or damaged.
    """
    settings, workdir, finished = check(config), Path(config.workdir), threading.Event()
    if config.wait:
        os.nice(19)  # training comes first
        _listen(sys.stdin, finished)
    else:
        finished.set()
    with locked(workdir / BEST_BY_PLAY, wait=config.wait):  # the process of a training that was killed may still end
        if played := read_play(workdir):
            refuse_changes(workdir / PLAY_FILE, played[0].settings, settings, ConfigError, field="config.workdir")
        else:
            shutil.rmtree(workdir / BEST_BY_PLAY / "checkpoints", ignore_errors=True)
        restore_line(workdir)
        while True:
            is_last = finished.is_set()  # before the folder is read, so that none is missed
            policy = next_policy(workdir, {one.step for one in checkpoints_of(read_play(workdir))})
            if policy is not None:
                play_checkpoint(config, settings, policy)
            elif is_last:
                break
            else:
                finished.wait(_POLL_SECONDS)
        if not read_play(workdir):
            load_policy(workdir)  # raises: there is none
        page = write_play_page(workdir)
        write_play_and_loss(workdir)
    print(f"play of all checkpoints: {page}", flush=True)
    return page


def _listen(lines: Iterable[str], finished: threading.Event) -> None:
    """A line `FINISHED` sets the event; the end of the lines, which a kill of their writer brings, ends the program."""

    def read() -> None:
        for line in lines:
            if line == FINISHED:
                finished.set()
        stopping.exit_now(stopping.EXIT_STATUS)

    threading.Thread(target=read, daemon=True).start()


def check(config: ConfigDict) -> dict[str, Any]:
    """Checks the config, and raises `ConfigError`; returns the settings on which results depend."""
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not config.workdir:
        raise ConfigError("config.workdir is empty: give the work directory of a training run")
    numbers = {
        "choosing.episodes": config.choosing.episodes,
        "reported.episodes": config.reported.episodes,
        "num_envs": config.num_envs,
    }
    for field, number in numbers.items():
        if number < 1:
            raise ConfigError(f"config.{field} is {number}, and must be 1 or more")
    if overlap(*(episode_seeds(config[group].seed, config[group].episodes) for group in ("choosing", "reported"))):
        raise ConfigError(
            "config.choosing and config.reported have episodes of the same seeds: the figures of the best checkpoint "
            "would be those that chose it. Set another config.reported.seed"
        )
    fields = jsonable(config)
    return {name: fields[name] for name in ("game", "rewards", "choosing", "reported", "num_envs")}


def restore_line(workdir: Path) -> None:
    """Writes the line of the best by play, if a kill came between saving it and its line.

    It is not played again: where episodes differ in spite of equal seeds, it might no longer be the best, and the
    parameters of the best would be lost.
    """
    steps = {one.step for one in checkpoints_of(read_play(workdir))}
    for step in checkpoint_steps(workdir / BEST_BY_PLAY):
        if step not in steps:
            append_play(workdir, from_json((load_policy(f"{workdir / BEST_BY_PLAY}@{step}").metadata or {})[_LINE]))


def next_policy(workdir: Path, played: Collection[int]) -> TrainedPolicy | None:
    """The policy of the earliest checkpoint that has not played; None: there is none, or training has removed it."""
    for step in checkpoint_steps(workdir):
        for last_attempt in (False, True) if step not in played else ():
            try:
                return load_policy(f"{workdir}@{step}")
            except (CheckpointError, FileNotFoundError):
                time.sleep(_POLL_SECONDS)  # training may be removing its files
                if step not in checkpoint_steps(workdir):
                    break
                if last_attempt:
                    raise
    return None


def play_checkpoint(config: ConfigDict, settings: dict[str, Any], policy: TrainedPolicy) -> None:
    """Plays all episodes of a checkpoint, saves it if it is the best, and writes its line and the page.

    Agents that are not trained play before the first one.
    """
    workdir, size, space = Path(config.workdir), policy.frame_shape[:2], policy.module.space
    for agent in (RANDOM, *([SCRIPTED] if GAMES[config.game.name].scripted else [])):
        if agent not in {one.agent for one in read_play(workdir)}:
            append_play(
                workdir, AgentPlay(agent, 0, settings, {}, _play(config, "reported", agent, policy, size, space))
            )
    choosing, reported = (_play(config, group, CHECKPOINT, policy, size, space) for group in ("choosing", "reported"))
    new, played = AgentPlay(CHECKPOINT, policy.step, settings, choosing, reported), read_play(workdir)
    if best_by_play([*played, new]) is new:
        chosen_by = {"game": config.game.name, **config.choosing}
        metadata = dict(policy.metadata or {}) | {CHOSEN_BY: chosen_by, _LINE: new._asdict()}
        save_policy(workdir / BEST_BY_PLAY, policy._replace(metadata=metadata))
    append_play(workdir, new)
    write_play_page(workdir)
    if "return" in reported:
        mean, low, high = reported["return"]
        print(f"step {policy.step}: return {mean:.2f}, 95% interval {low:.2f} to {high:.2f}", flush=True)


def _play(
    config: ConfigDict, group: str, name: str, policy: TrainedPolicy, size: tuple[int, ...], space: ActionSpace
) -> Figures:
    """Figures of an agent in the episodes of a group."""
    episodes = config[group].episodes

    def make_agent() -> VectorAgent:
        if name == SCRIPTED:
            return IdleAgent(MINERL)
        if name == RANDOM:
            return RandomAgent(space, config[group].seed)
        rows = count_envs(config, episodes)
        return EvaluatedPolicy((policy.module, policy.params), None, rows, config[group].seed)

    seeds = episode_seeds(config[group].seed, episodes)
    title = f"step {policy.step}, {group}" if name == CHECKPOINT else f"{name}, {group}"
    return play_figures(play_agent(config, name, make_agent, seeds, size, space, title=title))
