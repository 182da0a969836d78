"""Measure how far text steers a policy: episodes of the same seeds for every caption (fields: configs/steer.py)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from vpt_jax.agent import embed_request
from vpt_jax.envs.games import GAMES
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.evaluation.rollouts import AskedPolicy, EpisodeResult
from vpt_jax.evaluation.steering import Effect, text_effect
from vpt_jax.programs.evaluate import count_envs, evaluate_agent, policy_digest
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, write_experiment
from vpt_jax.system.errors import ConfigError, UserError
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import locked
from vpt_jax.training.checkpoints import TrainedPolicy, load_policy
from vpt_jax.training.setup import check_choices

REQUIRED_ERRORS, REQUIRED_CAPTIONS = 3, 2  # of the expectation, stated before the measurement


class LostEpisodesError(UserError, RuntimeError):
    """Too few episodes were played to the end."""


def steer(config: ConfigDict) -> Path:
    """Plays the episodes of all captions that are not stored, and writes OUT/steer.json; returns its path."""
    counts = check(config)
    policy = load_policy(config.policy)
    out, size, space = Path(config.out), policy.frame_shape[:2], policy.module.space
    digests = [policy_digest(policy), list(policy.embedder or ())]
    # Captions may be added later, and the policy is known by its content.
    played = ConfigDict({name: value for name, value in config.items() if name not in ("captions", "policy")})
    results = {}
    with locked(out):
        for number, caption in enumerate(counts):
            name, agent = f"{number}-{_file_name(caption)}", asked_agent(config, policy, caption)
            results[caption] = evaluate_agent(played, name, agent, size, space, [*digests, caption])
        effects, pairs = effects_of(results, counts)
        file = out / "steer.json"
        write_experiment(file, describe(config, counts, effects, pairs))
    for caption, effect in effects.items():
        print(f"{printable(caption)}: {_in_words(counts[caption], effect)}", flush=True)
    print(f"result: {file}", flush=True)
    return file


def check(config: ConfigDict) -> dict[str, str]:
    """Checks the config, and raises `ConfigError`; returns the count of each caption."""
    check_choices(config, {"game.name": GAMES, "rewards": REWARDS})
    if not (config.policy and config.out):
        raise ConfigError("set the policy and the folder of the results: --config.policy=FOLDER --config.out=FOLDER")
    counts = {caption: count for caption, _, count in (entry.rpartition("=") for entry in config.captions)}
    if len(counts) < max(2, len(config.captions)) or "" in counts:
        raise ConfigError(
            f"config.captions is {tuple(config.captions)}: give two or more different captions, each as CAPTION=COUNT"
        )
    if unknown := sorted(set(counts.values()) - REWARDS[config.rewards].keys()):
        raise ConfigError(
            f"config.captions has the count {unknown[0]!r}; config.rewards={config.rewards!r} counts "
            f"{', '.join(REWARDS[config.rewards])}"
        )
    for field, least in {"episodes": 2, "num_envs": 1}.items():
        if config[field] < least:
            raise ConfigError(f"config.{field} must be {least} or more")
    return counts


def asked_agent(config: ConfigDict, policy: TrainedPolicy, caption: str) -> Callable[[int], AskedPolicy]:
    """Returns a function that makes the agent, asked for a caption, when it is needed, for a seed."""
    text, envs = embed_request(policy, caption, config.text_embedder), count_envs(config, config.episodes)
    return lambda seed: AskedPolicy((policy.module, policy.params), text, config.guidance, envs, seed)


def effects_of(
    results: Mapping[str, Sequence[EpisodeResult]], counts: Mapping[str, str]
) -> tuple[dict[str, Effect], int]:
    """Effect of every caption on its count, and the number of seeds that are compared.

    Raises:
        LostEpisodesError: fewer than two seeds have an episode of every caption.
    """
    paired = {caption: paired_counts(results, count) for caption, count in counts.items()}
    pairs = min(len(values) for of_caption in paired.values() for values in of_caption.values())
    if pairs < 2:
        raise LostEpisodesError(
            f"{pairs} seeds have an episode of every caption, and two are needed: the others lost their game. Play "
            "again in another folder, or more episodes"
        )
    return {caption: text_effect(values, caption) for caption, values in paired.items()}, pairs


def paired_counts(
    results: Mapping[str, Sequence[EpisodeResult]], count: str
) -> dict[str, Float[np.ndarray, " episodes"]]:
    """A count in the episodes of every caption, by seed; seeds of which an episode was lost are left out."""
    by_seed = {
        caption: {result.seed: result.obtained[count] for result in episodes if result.ending != "lost"}
        for caption, episodes in results.items()
    }
    seeds = sorted(set.intersection(*(set(values) for values in by_seed.values())))
    return {caption: np.array([values[seed] for seed in seeds], float) for caption, values in by_seed.items()}


def describe(config: ConfigDict, counts: Mapping[str, str], effects: Mapping[str, Effect], pairs: int) -> Experiment:
    """The experiment: a point for each caption, and the verdict; `pairs` is the number of seeds that were compared."""
    clear = [caption for caption, one in effects.items() if one.difference.value > REQUIRED_ERRORS * one.error > 0]
    points = tuple(Point(f"{caption} ({counts[caption]})", *one.difference) for caption, one in effects.items())
    return Experiment(
        title=f"Steering by text in {config.game.name}",
        claim="A policy that is conditioned on text is steered somewhat by 'explore', 'dig' and 'seed', not reliably.",
        source="appendix I, from memory; not verified",
        x_label="caption (what is counted)",
        y_label="count in an episode: asked for it, minus asked for the others",
        series=(Series(f"guidance {config.guidance:g}", points),),
        baselines={"text without effect": 0.0},
        verdicts=(
            Verdict(
                f"at least {REQUIRED_CAPTIONS} captions have a difference above {REQUIRED_ERRORS} standard errors",
                "; ".join(f"{caption}: {_in_words(counts[caption], one)}" for caption, one in effects.items()),
                len(clear) >= REQUIRED_CAPTIONS,
            ),
        ),
        notes=(
            f"{pairs} episodes of equal seeds for every caption, guidance {config.guidance:g}; intervals of "
            "95% by bootstrap over episodes; p by a one-sided permutation of the captions of each seed.",
            "A difference may come from captions at which the player stands still; means of each count by caption:",
            *(f"{counts[asked]}: {_means(one.by_caption)}" for asked, one in effects.items()),
        ),
    )


def _means(by_caption: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} {caption}" for caption, value in by_caption.items())


def _in_words(count: str, effect: Effect) -> str:
    return (
        f"{count} {effect.asked:.2f} when asked, {effect.others:.2f} when not: {effect.difference.value:+.2f} "
        f"[{effect.difference.low:+.2f}, {effect.difference.high:+.2f}], standard error {effect.error:.2f}, "
        f"p {effect.p_value:.4f}"
    )


def _file_name(caption: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in caption)[:40]
