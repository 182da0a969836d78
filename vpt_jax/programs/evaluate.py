"""Evaluate policies in an environment: mean return, items and milestones (fields: configs/evaluate.py)."""

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.envs.games import GAMES, make_env_spec
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import EnvSpec
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.evaluation.episode_files import EpisodeActions
from vpt_jax.evaluation.replay import film_spec, replay
from vpt_jax.evaluation.rollouts import (
    RANDOM,
    SCRIPTED,
    EpisodeResult,
    EvaluatedPolicy,
    IdleAgent,
    RandomAgent,
    VectorAgent,
    recording_path,
    run_episodes,
    summarize,
)
from vpt_jax.report.playing import Replay, checkpoints_section, write_playing_report
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.renamed_fields import refuse_renamed_fields
from vpt_jax.system.seeds import episode_seed
from vpt_jax.system.workers import locked
from vpt_jax.training.checkpoints import TrainedPolicy, checkpoint_steps, jsonable, load_policy, split_step
from vpt_jax.training.digests import params_digest
from vpt_jax.training.setup import check_choices
from vpt_jax.video import Frame

ALL = "@all"  # after a work directory: all checkpoints that it keeps
PART_SECONDS = 60_000  # of play, of all episodes of a part: 100 of ten minutes
CHOSEN_BY = "chosen_by"  # in the metadata of a checkpoint that was chosen by play: game, seed and episodes


def evaluate(config: ConfigDict) -> Path:
    """Evaluates the agents that have no stored results, and writes the report; returns its path."""
    refuse_renamed_fields(config)
    workdirs = check(config)
    out = Path(config.out)
    with locked(out):
        policies = {name: _on_host(load_policy(workdir)) for name, workdir in workdirs.items()}
        refuse_choosing_seeds(config, policies)
        reference = policies[config.reference or next(iter(policies))]
        agents = {name: policy_agent(config, policy, reference) for name, policy in policies.items()}
        space = common_space(policies)
        agents |= {RANDOM: partial(RandomAgent, space)}
        if GAMES[config.game.name].scripted:
            agents[SCRIPTED] = lambda seed: IdleAgent(MINERL)  # the script's own space: its actions are played instead
        size, *other_sizes = {policy.frame_shape[:2] for policy in policies.values()}
        if other_sizes:
            raise ConfigError(
                f"the policies take frames of different sizes, {size} and {other_sizes[0]}: evaluate them apart"
            )
        digests = {name: [policy_digest(policy), policy_digest(reference)] for name, policy in policies.items()}
        results = {
            name: evaluate_agent(
                config, name, agent, size, MINERL if name == SCRIPTED else space, digests.get(name, [])
            )
            for name, agent in agents.items()
        }
        figures = {name: summarize(episodes) for name, episodes in results.items()}
        for name, policy in policies.items():
            figures[name] |= {"step": policy.step, "epoch": policy.epoch}
        finite = {name: {k: v for k, v in metrics.items() if v == v} for name, metrics in figures.items()}  # not NaN
        write_text(out / "figures.json", json.dumps(finite, indent=1) + "\n")
        title, replay = f"Playing {config.game.name}", make_replay(config, space)
        after = checkpoint_charts(workdirs, policies, results)
        page = write_playing_report(out, title, results, out / "recordings", (), after, replay, space)
    for name, metrics in figures.items():
        print(f"{name:<24} return {metrics['return']:7.2f} ± {metrics['return_error']:.2f}", flush=True)
    print(f"figures and films: {page}", flush=True)
    return page


def common_space(policies: Mapping[str, TrainedPolicy]) -> ActionSpace:
    """Action space of all policies; raises `ActionSpaceError` if they differ."""
    (name, first), *others = policies.items()
    for other, policy in others:
        first.module.space.require_equal(policy.module.space, f"the policy {name}", f"the policy {other}")
    return first.module.space


def refuse_choosing_seeds(config: ConfigDict, policies: Mapping[str, TrainedPolicy]) -> None:
    """Raises `ConfigError` if a policy was chosen by episodes that are to be reported: its figures would be biased."""
    for name, policy in policies.items():
        chosen = (policy.metadata or {}).get(CHOSEN_BY)
        if chosen and chosen["game"] == config.game.name:
            choosing = episode_seeds(chosen["seed"], chosen["episodes"])
            if overlap(choosing, episode_seeds(config.seed, config.episodes)):
                raise ConfigError(
                    f"config.seed: the policy {name} was chosen by its play of the seeds {choosing[0]} to "
                    f"{choosing[-1]}, some of which are among those to report. Set another, such as 5000000"
                )


def policy_digest(policy: TrainedPolicy) -> str:
    """Content hash of a policy's parameters and settings, wherever its work directory lies."""
    arrays = policy.params, policy.normalizer, policy.aux_normalizer
    module = policy.module  # its `repr` has no head and no space, which earlier versions did not have
    others = () if (module.head, module.space) == ("joint", MINERL) else (module.head, module.space)
    return params_digest(arrays, module, tuple(policy.frame_shape), *others)


def check(config: ConfigDict) -> dict[str, str]:
    """Checks the config, and raises `ConfigError`; returns the policies' work directories by name."""
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not config.out:
        raise ConfigError("config.out is empty: give a folder for the results, --config.out=FOLDER")
    given = [one for policy in config.policies for one in _checkpoints(policy)]
    workdirs = dict(given)
    if not workdirs or {RANDOM, SCRIPTED} & workdirs.keys() or len(workdirs) < len(given):
        raise ConfigError(
            f"config.policies is {tuple(config.policies)}: name one or more work directories, by different names, "
            f"other than {RANDOM} and {SCRIPTED}; NAME=FOLDER gives one a name"
        )
    if config.reference and config.reference not in workdirs:
        raise ConfigError(f"config.reference is {config.reference!r}; choose one of {', '.join(workdirs)}")
    for field, least in {"episodes": 1, "num_envs": 1, "recorded_episodes": 0}.items():
        if config[field] < least:
            raise ConfigError(f"config.{field} must be {least} or more")
    return workdirs


def _checkpoints(policy: str) -> Iterator[tuple[str, str]]:
    """Names and work directories, with their steps, of an entry of `config.policies`; FOLDER@all is several."""
    name, _, workdir = policy.rpartition("=")
    name = name or Path(workdir).name
    if not workdir.endswith(ALL):
        yield name, workdir
        return
    folder = workdir.removesuffix(ALL)
    steps = checkpoint_steps(folder)
    if not steps:
        raise ConfigError(f"config.policies: {folder} holds no checkpoint")
    for step in steps:
        yield f"{name.removesuffix(ALL)}@{step}", f"{folder}@{step}"


def _on_host(policy: TrainedPolicy) -> TrainedPolicy:
    """The policy with its parameters in host memory: many checkpoints of one run need not fit onto the device."""
    return policy._replace(params=jax.device_get(policy.params))


def checkpoint_charts(
    workdirs: Mapping[str, str],
    policies: Mapping[str, TrainedPolicy],
    results: Mapping[str, list[EpisodeResult]],
) -> list[str]:
    """Section with charts over the checkpoints of each work directory that has several; else none."""
    runs: dict[str, list[str]] = defaultdict(list)
    for name in policies:
        runs[str(split_step(workdirs[name])[0])].append(name)
    several = [names for names in runs.values() if len(names) > 1]
    epochs = not any(math.isnan(policies[name].epoch) for names in several for name in names)
    by_run = {
        _run_name(names[0]): {name: policies[name].epoch if epochs else policies[name].step for name in names}
        for names in several
    }
    return [checkpoints_section(by_run, "epoch" if epochs else "step", results)] if several else []


def _run_name(agent: str) -> str:
    return agent.rpartition("@")[0] or agent


def policy_agent(config: ConfigDict, policy: TrainedPolicy, reference: TrainedPolicy) -> Callable[[int], VectorAgent]:
    """Returns a function that makes the agent when it is needed, for a seed."""
    envs = count_envs(config, config.episodes)

    def make(seed: int) -> VectorAgent:
        params, of_reference = jax.device_put((policy.params, reference.params))
        return EvaluatedPolicy((policy.module, params), (reference.module, of_reference), envs, seed)

    return make


def evaluate_agent(
    config: ConfigDict,
    name: str,
    agent: Callable[[int], VectorAgent],
    size: tuple[int, ...],
    space: ActionSpace,
    digests: list[Any],
) -> list[EpisodeResult]:
    """Plays all episodes but those whose results are stored, of the same checkpoints (`digests`) and settings.

    They are played and stored in parts of about `PART_SECONDS` of play, each with a seed of its own for the agent: so a
    run that was killed gives the same results as one that was not, and loses one part at most.
    """
    out = Path(config.out)
    file, recordings = out / "agents" / f"{name}.json", out / "recordings" / name
    fields = jsonable(config)
    del fields["recorded_episodes"]  # results do not depend on it
    fields["games"] = fields.pop("num_envs")  # its earlier name: results of earlier versions are still valid
    settings = fields | {"policies": digests, "size": list(size)}
    settings |= {} if space == MINERL else {"action_space": space.to_dict()}
    results: list[EpisodeResult] = []
    if (stored := read_json(file) or {}).get("settings") == settings:
        results = [EpisodeResult(**result) for result in stored["episodes"]]
    else:
        shutil.rmtree(recordings, ignore_errors=True)  # of other settings
    for folder in (file.parent, recordings):
        folder.mkdir(parents=True, exist_ok=True)
    seeds, envs = episode_seeds(config.seed, config.episodes), count_envs(config, config.episodes)
    first_unrecorded = seeds.start + (config.recorded_episodes or config.episodes)
    while (done := len(results)) < config.episodes:
        part = next_part(seeds[done:], part_episodes(config), envs)
        for seed in part:  # left by a run that was killed
            for left in recordings.glob(f"{recording_path(recordings, seed).name}.*"):
                left.unlink()
        make = partial(agent, config.seed + done)
        results += play_agent(config, name, make, part, size, space, recordings, first_unrecorded=first_unrecorded)
        episodes = [result._asdict() for result in results]
        write_text(file, json.dumps({"settings": settings, "episodes": episodes}) + "\n")
    return results


def make_replay(config: ConfigDict, space: ActionSpace) -> Replay | None:
    """Function that plays a recorded episode again at the size of films; None: the game is not deterministic."""
    if not GAMES[config.game.name].deterministic:
        return None

    def replay_episode(agent: str, seed: int, steps: EpisodeActions) -> Iterator[Frame]:
        scripted = agent == SCRIPTED
        return replay(film_spec(make_spec(config, scripted, MINERL if scripted else space)), seed, steps)

    return replay_episode


def make_spec(config: ConfigDict, scripted: bool, space: ActionSpace) -> EnvSpec:
    """Specification of the game."""
    game = config.game
    return make_env_spec(game.name, game.arguments.to_dict(), game.python, scripted, space, game.games_per_process)


def play_agent(
    config: ConfigDict,
    name: str,
    agent: Callable[[], VectorAgent],
    seeds: range,
    size: tuple[int, ...],
    space: ActionSpace,
    recordings: Path | None = None,
    title: str = "",
    first_unrecorded: float = math.inf,
) -> list[EpisodeResult]:
    """Plays the episodes of `seeds`; arguments as of `run_episodes`. Of the scripted player, no actions are known."""
    scripted, counts = name == SCRIPTED, GAMES[config.game.name].counts
    with make_pool(config, seeds, size, scripted, MINERL if scripted else space) as pool:
        results = run_episodes(agent(), pool, recordings, len(seeds), title, counts, first_unrecorded)
    return [result._replace(idle=math.nan, stuck=math.nan) for result in results] if scripted else results


def episode_seeds(seed: int, episodes: int) -> range:
    """Seeds of `episodes` episodes, of which `seed` gives the first."""
    first = episode_seed(seed)
    return range(first, first + episodes)


def overlap(one: range, other: range) -> bool:
    """True if two ranges of seeds share one."""
    return max(one.start, other.start) < min(one.stop, other.stop)


def next_part(seeds: range, episodes: int, envs: int) -> range:
    """The first of the remaining seeds: `episodes`, rounded up to a multiple of the environments.

    A last part would keep fewer than all environments busy, for which no agent is made: it joins the one before.
    """
    count = -(-episodes // envs) * envs
    return seeds if len(seeds) - count < envs else seeds[:count]


def part_episodes(config: ConfigDict) -> int:
    """Number of episodes that take `PART_SECONDS` of play together, at least one; of a game without a limit, 100."""
    return max(round(PART_SECONDS / config.game.arguments.get("seconds", PART_SECONDS / 100)), 1)


def count_envs(config: ConfigDict, episodes: int) -> int:
    """Number of parallel environments: at most the number of episodes."""
    return min(config.num_envs, episodes)


def make_pool(config: ConfigDict, seeds: range, size: tuple[int, ...], scripted: bool, space: ActionSpace) -> Pool:
    """Pool of environments for the episodes of `seeds`."""
    height, width = size
    return Pool(
        make_spec(config, scripted, space),
        [iter(seeds)] * count_envs(config, len(seeds)),
        (height, width),
        REWARDS[config.rewards],
        config.game.episodes_per_process,
    )
