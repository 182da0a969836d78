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

from vpt_jax.actions.joint import MAX_CLASSES, JointAction, num_classes, raw_from_joint
from vpt_jax.actions.space import ActionSpace
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.envs.vector.pool import Pool, TimeStep
from vpt_jax.evaluation.episode_files import episode_writer
from vpt_jax.keys import seed_key
from vpt_jax.models.policy import Policy, apply_guided_step, apply_single_step
from vpt_jax.system.workers import progress_bar
from vpt_jax.video import Frame


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

    def __init__(self, policy: tuple[Policy, Any], reference: tuple[Policy, Any], rows: int, seed: int):
        """Compiles the step of both policies.

        Args:
            policy: with its parameters.
            reference: policy to compare with, and its parameters.
            rows: number of environments.
            seed: of the sampled actions.
        """
        modules, self._params = zip(policy, reference, strict=True)
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
    modules: tuple[Policy, Policy], params: Any, rings: Any, frames: Array, first: Array, rng: jax.Array
) -> tuple[AgentActions, Any]:
    output, reference = (
        apply_single_step(module, of_module, frames, first, ring)
        for module, of_module, ring in zip(modules, params, rings, strict=True)
    )
    distribution = modules[0].distribution
    drift: Any = jnp.full(len(frames), jnp.nan)
    if modules[0].head == modules[1].head:
        drift = distribution.kl(reference.logits, output.logits)
    action = distribution.decode(distribution.sample(rng, output.logits))
    return AgentActions(*action, drift), (output.memory, reference.memory)


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
    """Samples uniformly from all joint actions, or from all factored ones where a space has too many joint classes."""

    def __init__(self, space: ActionSpace, seed: int):
        self._space, self._rng = space, np.random.default_rng(seed)

    def act(self, time_step: TimeStep) -> AgentActions:
        """Returns random actions, whatever the frames."""
        space, n, classes = self._space, len(time_step.first), num_classes(self._space)
        if max(classes) <= MAX_CLASSES:
            action = raw_from_joint(space, JointAction(*(self._rng.integers(number, size=n) for number in classes)))
        else:
            buttons = self._rng.integers(2, size=(n, len(space.keys))).astype(np.uint8)
            action = buttons, space.to_movement(self._rng.integers(space.num_bins, size=(n, len(space.axes))))
        return AgentActions(*action, np.full(n, np.nan))


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


def run_episodes(agent: VectorAgent, pool: Pool, folder: Path, total: int) -> list[EpisodeResult]:
    """Plays all episodes of the pool, and records each in `folder` (`recording_path`); returns results by seed."""
    results: list[EpisodeResult] = []
    with ExitStack() as stack, progress_bar(total, desc=folder.name, unit="episode") as bar:
        recorders: dict[int, _EpisodeRecorder] = {}
        time_step = pool.begin()
        while not pool.done:
            actions = agent.act(time_step)
            for row in np.flatnonzero(time_step.playing).tolist():
                if time_step.first[row]:
                    path = recording_path(folder, time_step.seed[row])
                    recorders[row] = _EpisodeRecorder(stack, path, time_step.frames.shape[1:3], pool.env_spec.space)
                recorders[row].add(time_step.frames[row], actions.buttons[row], actions.camera[row], actions.drift[row])
            time_step = pool.step(actions.buttons, actions.camera)
            for episode in pool.episodes():
                results.append(recorders.pop(episode.row).finish(episode))
                bar.update()
    return sorted(results)


def recording_path(folder: Path, seed: int) -> Path:
    """Path of a seed's recording, without suffix."""
    return folder / f"{seed:09}"


class _EpisodeRecorder:
    """Recorder of an episode in progress."""

    def __init__(self, stack: ExitStack, path: Path, size: tuple[int, ...], space: ActionSpace):
        """Opens the recording; on exit, `stack` discards it if it is not finished."""
        self._drifts: list[float] = []
        self._exit_stack = stack.enter_context(ExitStack())
        self._writer = self._exit_stack.enter_context(episode_writer(path, size[0], size[1], space))

    def add(
        self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"], drift: float
    ) -> None:
        self._writer.write(frame, buttons, camera)
        self._drifts.append(drift)

    def finish(self, episode: FinishedEpisode) -> EpisodeResult:
        self._exit_stack.close()
        figures = episode.seed, episode.steps, episode.reward, episode.ending, episode.obtained
        return EpisodeResult(*figures, float(np.mean(self._drifts)))


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


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; NaN where undefined."""
    array = np.asarray(values, float)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()) if len(array) else math.nan, float(error)


def best_median_worst(results: Sequence[EpisodeResult]) -> dict[str, EpisodeResult]:
    """Best, median and worst episode by reward, of those that were not lost."""
    completed = sorted((result for result in results if result.ending != "lost"), key=lambda result: result.reward)
    return {"best": completed[-1], "median": completed[len(completed) // 2], "worst": completed[0]} if completed else {}
