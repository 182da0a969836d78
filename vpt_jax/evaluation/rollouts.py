"""Rollouts of agents in environments: recorded episodes of fixed seeds, and metrics such as return and milestones."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.envs.players import random_actions
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.envs.vector.pool import Pool, TimeStep
from vpt_jax.evaluation.behaviour import BehaviourTracker
from vpt_jax.evaluation.episode_files import episode_writer
from vpt_jax.evaluation.resampling import Figure, mean_figure, wilson_figure
from vpt_jax.keys import seed_key
from vpt_jax.models.policy import Policy, apply_guided_step, apply_single_step
from vpt_jax.system.workers import progress_bar
from vpt_jax.video import Frame

RANDOM, SCRIPTED = "random", "scripted"  # names of the agents that are not trained


class AgentActions(NamedTuple):
    """Actions of an agent in `n` environments, with its KL to a reference policy."""

    buttons: UInt8[np.ndarray, "n keys"]
    camera: Float[np.ndarray, "n axes"]  # movement per step, in the axes' units
    drift: Float[np.ndarray, " n"]  # KL(reference, agent) in nats; NaN without a policy, or with another head


class VectorAgent(Protocol):
    """Agent that acts in `n` environments at once."""

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns the next action of every environment."""
        ...


class EvaluatedPolicy:
    """Samples its actions from a policy, and computes the KL from a reference policy to it (drift)."""

    def __init__(self, policy: tuple[Policy, Any], reference: tuple[Policy, Any] | None, rows: int, seed: int):
        """Compiles the step of both policies.

        Args:
            policy: with its parameters.
            reference: policy to compare with, and its parameters; None: no drift is computed.
            rows: number of environments.
            seed: of the sampled actions.
        """
        modules, self._params = zip(*([policy] if reference is None else [policy, reference]), strict=True)
        self._act = jax.jit(partial(_act, modules), donate_argnums=1)
        self._rings = tuple(module.initial_ring_memory(rows) for module in modules)
        self._rng, self._steps = seed_key(seed), 0

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns sampled actions; the same seed and the same time steps give the same actions."""
        rng = jax.random.fold_in(self._rng, self._steps)
        actions, self._rings = self._act(self._params, self._rings, time_step.frames, time_step.first, rng)
        self._steps += 1
        return jax.device_get(actions)


def _act(
    modules: tuple[Policy, ...], params: Any, rings: Any, frames: Array, first: Array, rng: jax.Array
) -> tuple[AgentActions, Any]:
    output, *references = outputs = [
        apply_single_step(module, of_module, frames, first, ring)
        for module, of_module, ring in zip(modules, params, rings, strict=True)
    ]
    distribution = modules[0].distribution
    drift: Any = jnp.full(len(frames), jnp.nan)
    for reference, module in zip(references, modules[1:], strict=True):
        if modules[0].head == module.head:
            drift = distribution.kl(reference.logits, output.logits)
    action = distribution.decode(distribution.sample(rng, output.logits))
    return AgentActions(*action, drift), tuple(one.memory for one in outputs)


class AskedPolicy:
    """Samples its actions from a policy that is asked for a text, by classifier-free guidance."""

    def __init__(
        self, policy: tuple[Policy, Any], text: Float[np.ndarray, " e"], guidance: float, rows: int, seed: int
    ):
        """Compiles the step.

        Args:
            policy: with its parameters.
            text: embedding of what all environments are asked for.
            guidance: weight of the text, as of `apply_guided_step`.
            rows: number of environments.
            seed: of the sampled actions.
        """
        module, self._params = policy
        self._act = jax.jit(partial(_act_as_asked, module), donate_argnums=1)
        self._ring = module.initial_ring_memory(2 * rows)
        self._text, self._guidance = np.tile(text, (rows, 1)), guidance
        self._rng, self._steps = seed_key(seed), 0

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns sampled actions; the same seed and the same time steps give the same actions."""
        rng = jax.random.fold_in(self._rng, self._steps)
        frames = time_step.frames, time_step.first
        actions, self._ring = self._act(self._params, self._ring, *frames, self._text, self._guidance, rng)
        self._steps += 1
        return jax.device_get(actions)


def _act_as_asked(
    module: Policy, params: Any, ring: Any, frames: Array, first: Array, text: Array, guidance: Any, rng: jax.Array
) -> tuple[AgentActions, Any]:
    output = apply_guided_step(module, params, frames, first, ring, text, guidance)
    distribution = module.distribution
    action = distribution.decode(distribution.sample(rng, output.logits))
    unknown: Any = jnp.full(len(frames), jnp.nan)
    return AgentActions(*action, unknown), output.memory


class RandomAgent:
    """Takes a new random action in every step (`players.random_actions`)."""

    def __init__(self, space: ActionSpace, seed: int):
        self._space, self._rng = space, np.random.default_rng(seed)

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns random actions, whatever the frames."""
        n = len(time_step.first)
        return AgentActions(*random_actions(self._space, self._rng, n), np.full(n, np.nan))


class IdleAgent:
    """Does nothing: for environments in which a scripted player acts."""

    def __init__(self, space: ActionSpace):
        self._shapes = len(space.keys), len(space.axes)

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns null actions: no key, no camera movement."""
        n, (keys, axes) = len(time_step.first), self._shapes
        return AgentActions(np.zeros((n, keys), np.uint8), np.zeros((n, axes), np.float32), np.full(n, np.nan))


class EpisodeResult(NamedTuple):
    """Result of an evaluated episode."""

    seed: int
    steps: int
    reward: float
    ending: str  # "terminated", "truncated" or "lost"
    obtained: dict[str, float]
    drift: float  # mean over its steps, in nats
    # Results that earlier versions stored have none of these.
    idle: float = math.nan  # share of the steps with a null action
    stuck: float = math.nan  # share of the seconds in which actions do not change the picture (`BehaviourTracker`)
    counts: dict[str, float] = {}  # noqa: RUF012 - of `info` after the last step, such as kills


def run_episodes(
    agent: VectorAgent,
    pool: Pool,
    folder: Path | None,
    total: int,
    name: str = "",
    counts: Sequence[str] = (),
    first_unrecorded: float = math.inf,
) -> list[EpisodeResult]:
    """Plays all episodes of the pool; returns results by seed.

    Args:
        agent: acts in all environments.
        pool: new, not started.
        folder: in which every episode is recorded (`recording_path`); None: in none.
        total: number of episodes, for the progress display.
        name: for the progress display; empty: that of the folder.
        counts: names in `info` that are added to the results.
        first_unrecorded: seed from which on episodes are not recorded.
    """
    results: list[EpisodeResult] = []
    name = name or (folder.name if folder else "")
    with ExitStack() as stack, progress_bar(total, desc=name, unit="episode") as bar:
        recorders: dict[int, _EpisodeRecorder] = {}
        time_step = pool.begin()
        while not pool.done:
            actions = agent.act(time_step)
            for row in np.flatnonzero(time_step.playing).tolist():
                if time_step.first[row]:
                    seed = time_step.seed[row]
                    path = recording_path(folder, seed) if folder and seed < first_unrecorded else None
                    recorders[row] = _EpisodeRecorder(stack, path, time_step.frames.shape[1:3], pool.env_spec.space)
                recorders[row].add(time_step.frames[row], actions.buttons[row], actions.camera[row], actions.drift[row])
            time_step = pool.step(actions.buttons, actions.camera)
            for episode in pool.episodes():
                results.append(recorders.pop(episode.row).finish(episode, counts))
                bar.update()
    return sorted(results)


def recording_path(folder: Path, seed: int) -> Path:
    """Path of a seed's recording, without suffix."""
    return folder / f"{seed:09}"


class _EpisodeRecorder:
    """Recorder of an episode in progress."""

    def __init__(self, stack: ExitStack, path: Path | None, size: tuple[int, ...], space: ActionSpace):
        """Opens the recording, if it has a path; on exit, `stack` discards it if it is not finished."""
        self._drifts: list[float] = []
        self._behaviour = BehaviourTracker(space)
        self._exit_stack = stack.enter_context(ExitStack())
        self._writer = path and self._exit_stack.enter_context(episode_writer(path, size[0], size[1], space))

    def add(
        self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"], drift: float
    ) -> None:
        if self._writer:
            self._writer.write(frame, buttons, camera)
        self._behaviour.add(frame, buttons, camera)
        self._drifts.append(drift)

    def finish(self, episode: FinishedEpisode, counts: Sequence[str]) -> EpisodeResult:
        self._exit_stack.close()
        figures = episode.seed, episode.steps, episode.reward, episode.ending, episode.obtained
        held = {name: episode.info[name] for name in counts if name in episode.info}
        return EpisodeResult(*figures, float(np.mean(self._drifts)), self._behaviour.idle, self._behaviour.stuck, held)


def summarize(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Metrics of an agent; lost episodes are counted, and left out of everything else (NaN if none remains).

    - `return`, `steps`: means over episodes; `return_error`: the mean's standard error.
    - `obtained/ITEM`, `obtained_error/ITEM`: mean number of a rewarded item, and its standard error; `milestone/ITEM`:
      share of episodes with at least one.
    - `drift`: mean KL from the reference policy, in nats per step.
    - `episodes`, `lost`; `terminated`: share of episodes that the environment itself ended.
    """
    completed = [result for result in results if result.ending != "lost"]
    figures: dict[str, float] = {"episodes": len(completed), "lost": len(results) - len(completed)}
    figures["return"], figures["return_error"] = _mean([result.reward for result in completed])
    figures["steps"], _ = _mean([result.steps for result in completed])
    figures["terminated"], _ = _mean([result.ending == "terminated" for result in completed])
    figures["drift"], _ = _mean([result.drift for result in completed])
    for item in results[0].obtained:
        counts = [result.obtained[item] for result in completed]
        figures[f"obtained/{item}"], figures[f"obtained_error/{item}"] = _mean(counts)
        figures[f"milestone/{item}"], _ = _mean([count > 0 for count in counts])
    return figures


def play_figures(results: Sequence[EpisodeResult]) -> dict[str, Figure]:
    """Figures of an agent's play with 95% intervals, of the episodes that were not lost.

    Means over episodes have bootstrap intervals: `return`, `steps`, `idle`, `stuck`, `obtained/ITEM` and `counts/NAME`.
    Shares of episodes have Wilson's: `terminated`, and `milestone/ITEM`, of those with at least one. Undefined figures
    are left out.
    """
    completed = [result for result in results if result.ending != "lost"]
    means: dict[str, list[float]] = {
        "return": [result.reward for result in completed],
        "steps": [result.steps for result in completed],
        "idle": [result.idle for result in completed],
        "stuck": [result.stuck for result in completed],
    }
    shares = {"terminated": [result.ending == "terminated" for result in completed]}
    for item in results[0].obtained:
        means[f"obtained/{item}"] = [result.obtained[item] for result in completed]
        shares[f"milestone/{item}"] = [result.obtained[item] > 0 for result in completed]
    for name in results[0].counts:
        means[f"counts/{name}"] = [result.counts.get(name, math.nan) for result in completed]
    figures = {name: mean_figure(np.asarray(values, float)) for name, values in means.items()}
    figures |= {name: wilson_figure(sum(values), len(values)) for name, values in shares.items()}
    return {name: figure for name, figure in figures.items() if not math.isnan(figure.value)}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; NaN where undefined."""
    array = np.asarray(values, float)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()) if len(array) else math.nan, float(error)


def best_median_worst(results: Sequence[EpisodeResult]) -> dict[str, EpisodeResult]:
    """Best, median and worst episode by reward, of those that were not lost."""
    completed = sorted((result for result in results if result.ending != "lost"), key=lambda result: result.reward)
    return {"best": completed[-1], "median": completed[len(completed) // 2], "worst": completed[0]} if completed else {}
