"""How well policies play a game (fields: configs/evaluate.py)."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.envs.games import GAMES, make_game
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import GameLostError
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.evaluation.rollouts import Agent, IdleAgent, Played, PolicyAgent, RandomAgent, play, summarise
from vpt_jax.report.playing import write_playing_report
from vpt_jax.system import command_line
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.seeds import episode_seed
from vpt_jax.system.workers import locked
from vpt_jax.training.checkpoints import CheckpointError, TrainedPolicy, jsonable, load_policy
from vpt_jax.training.digests import params_digest
from vpt_jax.training.setup import ConfigError, check_choices

RANDOM, SCRIPTED = "random", "scripted"


def evaluate(config: ConfigDict) -> Path:
    """Evaluate what is missing, and write the page."""
    workdirs = check(config)
    out = Path(config.out)
    with locked(out):
        policies = {name: load_policy(workdir) for name, workdir in workdirs.items()}
        reference = policies[config.reference or next(iter(policies))]
        agents = {name: policy_agent(config, policy, reference) for name, policy in policies.items()}
        agents |= {RANDOM: lambda: RandomAgent(config.seed)}
        if GAMES[config.game.name].scripted:
            agents[SCRIPTED] = IdleAgent
        size, *others = {policy.frame_shape[:2] for policy in policies.values()}
        if others:
            raise ConfigError(
                f"the policies see frames of different sizes, {size} and {others[0]}: evaluate them apart"
            )
        who = {name: [identity(policy), identity(reference)] for name, policy in policies.items()}
        played = {name: evaluate_agent(config, name, agent, size, who.get(name, [])) for name, agent in agents.items()}
        figures = {name: summarise(episodes) for name, episodes in played.items()}
        known = {name: {k: v for k, v in of_agent.items() if v == v} for name, of_agent in figures.items()}  # not NaN
        write_text(out / "figures.json", json.dumps(known, indent=1) + "\n")
        page = write_playing_report(out, f"Playing {config.game.name}", played, out / "recordings")
    for name, of_agent in figures.items():
        print(f"{name:<24} return {of_agent['return']:7.2f} ± {of_agent['return_error']:.2f}", flush=True)
    print(f"figures and films: {page}", flush=True)
    return page


def identity(policy: TrainedPolicy) -> str:
    """The identity of a policy by its parameters and settings, wherever its work directory lies."""
    arrays = policy.params, policy.normalizer, policy.aux_normalizer
    return params_digest(arrays, policy.module, tuple(policy.frame_shape))


def check(config: ConfigDict) -> dict[str, str]:
    """Find what would fail later; returns the policies' work directories by name."""
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not config.out:
        raise ConfigError("say where results go: --config.out=FOLDER")
    workdirs = {}
    for policy in config.policies:
        name, _, workdir = policy.rpartition("=")
        workdirs[name or Path(workdir).name] = workdir
    if not workdirs or {RANDOM, SCRIPTED} & workdirs.keys() or len(workdirs) < len(config.policies):
        raise ConfigError(
            f"config.policies is {tuple(config.policies)}: name one or more work directories, by different names, "
            f"other than {RANDOM} and {SCRIPTED}; NAME=FOLDER gives one a name"
        )
    if config.reference and config.reference not in workdirs:
        raise ConfigError(f"config.reference is {config.reference!r}; choose one of {', '.join(workdirs)}")
    for field in ("episodes", "games"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    return workdirs


def policy_agent(config: ConfigDict, policy: TrainedPolicy, reference: TrainedPolicy) -> Callable[[], Agent]:
    """Makes the agent once its turn comes."""
    return lambda: PolicyAgent(
        (policy.module, policy.params), (reference.module, reference.params), rows_of(config), config.seed
    )


def evaluate_agent(
    config: ConfigDict, name: str, agent: Callable[[], Agent], size: tuple[int, ...], who: list[Any]
) -> list[Played]:
    """Plays all episodes, unless that has been done by the same checkpoints (`who`) with the same settings."""
    out = Path(config.out)
    file, recordings = out / "agents" / f"{name}.json", out / "recordings" / name
    settings = jsonable(config) | {"policies": who, "size": list(size)}
    if (there := read_json(file) or {}).get("settings") == settings:
        return [Played(**one) for one in there["episodes"]]
    shutil.rmtree(recordings, ignore_errors=True)  # left by a run that was stopped
    for folder in (file.parent, recordings):
        folder.mkdir(parents=True, exist_ok=True)
    with make_pool(config, size, name == SCRIPTED) as pool:
        played = play(agent(), pool, recordings, config.episodes)
    write_text(file, json.dumps({"settings": settings, "episodes": [one._asdict() for one in played]}) + "\n")
    return played


def rows_of(config: ConfigDict) -> int:
    """Games side by side: no more than there are episodes."""
    return min(config.games, config.episodes)


def make_pool(config: ConfigDict, size: tuple[int, ...], scripted: bool) -> Pool:
    """Games that end with the last episode."""
    seeds = itertools.islice(itertools.count(episode_seed(config.seed)), config.episodes)
    game = make_game(config.game.name, config.game.arguments.to_dict(), config.game.python, scripted)
    height, width = size
    rewards = REWARDS[config.rewards]
    return Pool(game, [seeds] * rows_of(config), (height, width), rewards, config.game.episodes_per_process)


if __name__ == "__main__":
    command_line.run(evaluate, "configs/evaluate.py", (ConfigError, CheckpointError, FileNotFoundError, GameLostError))
