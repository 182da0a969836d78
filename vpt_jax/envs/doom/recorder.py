"""Recorder of Doom episodes, played by scripted players and human action streams in worker processes.

An episode is a pure function of its level, player, seed and the settings: its files are identical byte for byte for any
number of workers, interrupted or not. Frame i is the observation on which the player chose action i.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.envs import RecordError
from vpt_jax.envs.players import HumanStreamPlayer, Player, RandomPlayer
from vpt_jax.recording import RecordingWriter
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.resumable_folder import resumable_folder
from vpt_jax.system.workers import progress_bar, task_result, worker_pool
from vpt_jax.video import FRAME_RATE

try:
    from vpt_jax.envs.doom.bot.player import DoomPlayer, DoomRunner
    from vpt_jax.envs.doom.env import DoomEnv
    from vpt_jax.envs.doom.level import level_file
except ModuleNotFoundError as error:
    raise RecordError(f"{error}. Install the game: pip install -c constraints.txt -e '.[doom]'") from error

PLAYERS: dict[str, Callable[[DoomEnv, int], Player]] = {
    "scripted": DoomPlayer,
    "runner": DoomRunner,
    "human": lambda _, seed: HumanStreamPlayer(seed),
    "random": lambda _, seed: RandomPlayer(seed),
}
SCRIPTED = ("scripted", "runner")  # these read the objects of the game's state


@dataclass(frozen=True)
class Settings:
    """Settings common to all episodes of a folder (fields: configs/record.py)."""

    height: int
    width: int
    seconds: float
    skill: int
    captions: bool = False

    def stored(self) -> dict[str, Any]:
        """JSON values for the folder; folders of earlier versions do not state `captions`."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("captions", False)}


class EpisodePlan(NamedTuple):
    """One episode to record; `path` is that of the recording, without suffix."""

    path: Path
    level: str
    player: str
    seed: int


def record(config: ConfigDict) -> Path:
    """Record every episode that `config.out` lacks, and return that folder (fields: configs/record.py).

    Splits are its subfolders. Raises `RecordError`, and `FolderInUseError` while another run records into it.
    """
    refuse_remote_paths(config)
    if not config.out:
        raise RecordError("config.out is empty: set the folder of the recordings, --config.out=FOLDER")
    out = Path(config.out)
    settings = Settings(config.height, config.width, config.seconds, config.skill, config.captions)
    episodes = plan_episodes(config)
    _check_plan(settings, episodes)
    with resumable_folder(out, settings.stored(), RecordError):
        _refuse_strays(out, episodes)
        _remove_unfinished(episodes)
        try:
            _record_all(episodes, settings, config.workers)
        except BaseException:  # workers were killed during their episodes
            _remove_unfinished(episodes)
            raise
    print(f"recordings {out}: {len(episodes)} episodes", flush=True)
    return out


def plan_episodes(config: ConfigDict) -> list[EpisodePlan]:
    """Plan all episodes of all splits: levels alternate, and the seed of an episode selects its player at random.

    Raises:
        RecordError: an unknown player, a split without levels, or two splits with common seeds.
    """
    weights = config.players.to_dict()
    if set(weights) - set(PLAYERS) or not sum(weights.values()) > 0 or min(weights.values()) < 0:
        raise RecordError(f"config.players {weights} must weigh some of {', '.join(PLAYERS)}, with no less than 0 each")
    for (name, split), (other_name, other) in combinations(config.splits.items(), 2):
        if split.seed < other.seed + other.episodes and other.seed < split.seed + split.episodes:
            raise RecordError(f"the splits {name} and {other_name} share seeds: set their `seed` further apart")
    episodes = []
    for name, split in config.splits.items():
        if split.episodes and not split.levels:
            raise RecordError(f"config.splits.{name}.levels is empty")
        for number in range(split.episodes):
            level, seed = split.levels[number % len(split.levels)], split.seed + number
            player = _draw(weights, seed)
            episodes.append(EpisodePlan(Path(config.out, name, f"{level}-{player}-{seed:06}"), level, player, seed))
    return episodes


def _draw(weights: dict[str, float], seed: int) -> str:
    names, values = sorted(weights), np.array([weights[name] for name in sorted(weights)], float)
    return names[np.random.default_rng(seed).choice(len(names), p=values / values.sum())]


def record_episode(episode: EpisodePlan, settings: Settings) -> int:
    """Play and record one episode, to its end or for `settings.seconds`; returns the number of frames."""
    frames = 0
    env = DoomEnv(episode.level, settings.height, settings.width, settings.skill, objects=episode.player in SCRIPTED)
    with closing(env), RecordingWriter(episode.path, settings.height, settings.width) as recording:
        observation, info = env.reset(seed=episode.seed)
        player = PLAYERS[episode.player](env, episode.seed)
        over = False
        while not over and frames < settings.seconds * FRAME_RATE:
            action = player.act(observation, info)
            recording.write(observation["pov"], action, text=player.caption if settings.captions else "")
            observation, _, over, _, info = env.step(action)
            frames += 1
    return frames


def _check_plan(settings: Settings, episodes: Sequence[EpisodePlan]) -> None:
    """Check the plan before starting workers, which would all fail otherwise."""
    if not episodes:
        raise RecordError("no split has episodes to record: set config.splits.train.episodes")
    if settings.seconds * FRAME_RATE < 1 or settings.height % 2 or settings.width % 2:
        raise RecordError(f"{settings}: episodes need at least one frame, frames need an even height and width")
    try:
        for level in {episode.level for episode in episodes}:
            level_file(level)
        DoomEnv(episodes[0].level, settings.height, settings.width, settings.skill)
    except ValueError as error:
        raise RecordError(str(error)) from error


def _refuse_strays(out: Path, episodes: Sequence[EpisodePlan]) -> None:
    """Raise if the folder holds recordings that are not in the plan: a dataset would include them."""
    planned = {episode.path.name for episode in episodes}
    if strays := sorted(path for path in out.glob("*/*.jsonl") if path.stem not in planned):
        raise RecordError(
            f"{out} holds {len(strays)} recordings that these settings do not plan, such as {strays[0]}: remove "
            "them, or choose another --config.out"
        )


def _remove_unfinished(episodes: Sequence[EpisodePlan]) -> None:
    """Remove the files of interrupted recordings; a complete one has its `.jsonl`, which appears last."""
    for folder in {episode.path.parent for episode in episodes}:
        for partial in folder.glob("*.partial"):
            partial.unlink(missing_ok=True)
    for episode in episodes:
        if not episode.path.with_name(f"{episode.path.name}.jsonl").exists():
            episode.path.with_name(f"{episode.path.name}.mp4").unlink(missing_ok=True)


def _record_all(episodes: Sequence[EpisodePlan], settings: Settings, workers: int) -> None:
    remaining = [episode for episode in episodes if not episode.path.with_name(episode.path.name + ".jsonl").exists()]
    if len(remaining) < len(episodes):
        print(f"{len(episodes) - len(remaining)} of {len(episodes)} episodes are recorded already", flush=True)
    if not remaining:
        return
    for folder in {episode.path.parent for episode in remaining}:
        folder.mkdir(exist_ok=True)
    frames, start = 0, time.monotonic()
    bar = progress_bar(len(remaining), desc="recording", unit="episode")
    with bar, worker_pool(workers) as pool:
        futures = {pool.submit(record_episode, episode, settings): episode for episode in remaining}
        for future in as_completed(futures):
            frames += task_result(future, futures[future].path, RecordError)
            bar.set_postfix_str(f"{frames / (time.monotonic() - start):,.0f} frames/s", refresh=False)
            bar.update()
