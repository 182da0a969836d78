"""How well an agent plays: many episodes of fixed seeds, recorded, and the figures that follow."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from vpt_jax.actions import NUM_BUTTON_CLASSES, NUM_CAMERA_CLASSES, JointAction, env_from_raw, raw_from_joint
from vpt_jax.envs.vector.pool import Episode, Pool, Turn
from vpt_jax.keys import seed_key
from vpt_jax.models.heads import draw_joint, joint_kl
from vpt_jax.models.policy import Policy, look_once
from vpt_jax.recording import RecordingWriter
from vpt_jax.system.workers import progress_bar
from vpt_jax.video import Frame


class Move(NamedTuple):
    """What an agent does in `n` games."""

    buttons: UInt8[np.ndarray, "n 20"]
    camera: Float[np.ndarray, "n 2"]  # degrees
    drift: Float[np.ndarray, " n"]  # KL(reference, agent) in nats


class Agent(Protocol):
    """Something that plays `n` games at once."""

    def act(self, turn: Turn) -> Move:
        """What to do next in every game."""
        ...


class PolicyAgent:
    """Draws its actions from a policy, and measures how far it has drifted from a reference policy."""

    def __init__(self, policy: tuple[Policy, Any], reference: tuple[Policy, Any], rows: int, seed: int):
        """The policy and the one to compare with, each with its parameters."""
        modules, self._params = zip(policy, reference, strict=True)
        self._act = jax.jit(partial(_act, modules), donate_argnums=1)
        self._rings = tuple(module.initial_ring(rows) for module in modules)
        self._rng, self._turns = seed_key(seed), 0

    def act(self, turn: Turn) -> Move:
        """The same seed and the same turns give the same actions."""
        rng = jax.random.fold_in(self._rng, self._turns)
        move, self._rings = self._act(self._params, self._rings, turn.frames, turn.first, rng)
        self._turns += 1
        return jax.device_get(move)


def _act(
    modules: tuple[Policy, Policy], params: Any, rings: Any, frames: Array, first: Array, rng: jax.Array
) -> tuple[Move, Any]:
    said, reference = (
        look_once(module, of, frames, first, ring) for module, of, ring in zip(modules, params, rings, strict=True)
    )
    drift = joint_kl(reference.logits, said.logits)
    return Move(*raw_from_joint(draw_joint(rng, said.logits)), drift), (said.memory, reference.memory)


class RandomAgent:
    """Draws evenly from all joint actions."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def act(self, turn: Turn) -> Move:
        """Whatever the games show."""
        classes = (NUM_BUTTON_CLASSES, NUM_CAMERA_CLASSES)
        action = JointAction(*(self._rng.integers(number, size=len(turn.first)) for number in classes))
        return Move(*raw_from_joint(action), np.full(len(turn.first), np.nan))


class IdleAgent:
    """Does nothing: for games that a script plays."""

    def act(self, turn: Turn) -> Move:
        """No key, no turn."""
        n = len(turn.first)
        return Move(np.zeros((n, 20), np.uint8), np.zeros((n, 2), np.float32), np.full(n, np.nan))


class Played(NamedTuple):
    """An episode that was evaluated."""

    seed: int
    steps: int
    reward: float
    ending: str
    obtained: dict[str, float]
    drift: float  # mean over its steps, in nats


def play(agent: Agent, pool: Pool, folder: Path, total: int) -> list[Played]:
    """Plays all episodes of the pool, by seed; each is recorded in `folder` under its seed (`recording`)."""
    played: list[Played] = []
    with ExitStack() as stack, progress_bar(total, desc=folder.name, unit="episode") as bar:
        takes: dict[int, _Take] = {}
        turn = pool.begin()
        while not pool.done:
            move = agent.act(turn)
            for row in np.flatnonzero(turn.playing).tolist():
                if turn.first[row]:
                    takes[row] = _Take(stack, recording(folder, turn.seed[row]), turn.frames.shape[1:3])
                takes[row].add(turn.frames[row], move.buttons[row], move.camera[row], move.drift[row])
            turn = pool.act(move.buttons, move.camera)
            for episode in pool.episodes():
                played.append(takes.pop(episode.row).finish(episode))
                bar.update()
    return sorted(played)


def recording(folder: Path, seed: int) -> Path:
    """Where the episode of a seed lies, without suffix."""
    return folder / f"{seed:09}"


class _Take:
    """An episode that is being played."""

    def __init__(self, stack: ExitStack, path: Path, size: tuple[int, ...]):
        """`stack` gives up what is not finished."""
        self._writer = RecordingWriter(path, *size)
        self._drifts: list[float] = []
        self._open = stack.enter_context(ExitStack())
        self._open.enter_context(self._writer)

    def add(self, frame: Frame, buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"], drift: float) -> None:
        self._writer.write(frame, env_from_raw(buttons, camera))
        self._drifts.append(drift)

    def finish(self, episode: Episode) -> Played:
        self._open.close()
        figures = episode.seed, episode.steps, episode.reward, episode.ending, episode.obtained
        return Played(*figures, float(np.mean(self._drifts)))


def summarise(played: Sequence[Played]) -> dict[str, float]:
    """The figures of an agent; lost episodes are counted, and left out of everything else (NaN, if there is no other).

    - `return`, `steps`: means over episodes; `return_error`: the mean's standard error.
    - `obtained/ITEM`, `obtained_error/ITEM`: of what is rewarded; `milestone/ITEM`: share of episodes with any.
    - `drift`: mean KL to the reference policy, in nats a step.
    - `episodes`, `lost`; `terminated`: share of episodes that the game itself ended.
    """
    whole = [one for one in played if one.ending != "lost"]
    figures: dict[str, float] = {"episodes": len(whole), "lost": len(played) - len(whole)}
    figures["return"], figures["return_error"] = _mean([one.reward for one in whole])
    figures["steps"], _ = _mean([one.steps for one in whole])
    figures["terminated"], _ = _mean([one.ending == "terminated" for one in whole])
    figures["drift"], _ = _mean([one.drift for one in whole])
    for item in played[0].obtained:
        counts = [one.obtained[item] for one in whole]
        figures[f"obtained/{item}"], figures[f"obtained_error/{item}"] = _mean(counts)
        figures[f"milestone/{item}"], _ = _mean([count > 0 for count in counts])
    return figures


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    array = np.asarray(values, float)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return float(array.mean()) if len(array) else math.nan, float(error)


def ranked(played: Sequence[Played]) -> dict[str, Played]:
    """The best, the median and the worst of the episodes that were not lost."""
    whole = sorted((one for one in played if one.ending != "lost"), key=lambda one: one.reward)
    return {"best": whole[-1], "median": whole[len(whole) // 2], "worst": whole[0]} if whole else {}
