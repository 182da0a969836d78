"""Benchmark of rollouts: a policy in the embedded game, and the game's engine alone, in turns."""

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from benches.measuring import SECONDS, Row

from vpt_jax.configs import rl_doom
from vpt_jax.envs.doom.engine import Engine
from vpt_jax.envs.doom.env import TICS_PER_STEP, doom_buttons, screen_mode
from vpt_jax.envs.games import make_env_spec
from vpt_jax.envs.processes.supervisor import descendants
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import EnvLostError
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import POLICIES
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.parallel import make_mesh
from vpt_jax.system.cores import available_cores
from vpt_jax.training.ppg.rollout import RolloutCollector

_GAMES = flags.DEFINE_list("games", ["8", "16", "32"], "Numbers of parallel games.")
_PER_PROCESS = flags.DEFINE_list("games_per_process", ["1", "16"], "Largest numbers of games that share a process.")
_PARTS = flags.DEFINE_list("parts", ["1", "2"], "2: one half of the games plays while the policy acts in the other.")

ERRORS: tuple[type[Exception], ...] = (EnvLostError,)
ARGUMENTS: dict[str, Any] = rl_doom.LEVEL
FRAME = 16, 16
_STEPS = 32  # of a rollout
_ENGINE_SECONDS = 0.5  # of a turn of bare engines
_ENGINE = "vizdoom"  # name of its processes


class _Rollouts:
    """Rollouts in one arrangement of games, and what they cost so far."""

    def __init__(self, stack: ExitStack, games: int, per_process: int, parts: int):
        spec = replace(make_env_spec("doom", ARGUMENTS), games_per_process=per_process)
        rows = [itertools.count()] * (games // parts)
        self._pools = [stack.enter_context(Pool(spec, rows, FRAME, REWARDS["explore"])) for _ in range(parts)]
        for pool in self._pools:
            pool.start()
        policy, normalizer = Policy(**POLICIES["tiny"]), ValueNormalizer.create()
        params = jax.jit(partial(init_params, policy, (*FRAME, 3)))(jax.random.key(0))
        mesh, rng = make_mesh(devices=jax.devices()[:1]), jax.random.PRNGKey(0)
        self._collector = RolloutCollector(policy, self._pools, mesh, games, _STEPS, rng)
        self._collect = partial(self._collector.collect, params, normalizer, _STEPS)
        self._names = {"games": str(games), "a process": str(per_process), "parts": str(parts)}
        self.decisions, self.seconds, self._processor = 0, 0.0, dict.fromkeys(processor_seconds(), 0.0)
        self._collect()  # compiles
        self._waited, self._acted = self._main_seconds()

    def collect(self) -> None:
        """Collect one rollout."""
        before, start_time = processor_seconds(), time.monotonic()
        rollout = self._collect()
        self.seconds += time.monotonic() - start_time
        self.decisions += int(np.asarray(rollout.valid).sum()) if rollout else 0
        for kind, seconds in processor_seconds().items():
            self._processor[kind] += seconds - before[kind]

    def row(self, engine: float) -> Row:
        """Row of the table; `engine`: steps per second and core of bare engines."""
        rate = self.decisions / self.seconds / available_cores()
        shares = [seconds / self.seconds for seconds in np.subtract(self._main_seconds(), (self._waited, self._acted))]
        names = "waiting for games", "policy", "copying and rest"
        return (
            self._names
            | {"decisions/s a core": f"{rate:,.0f}", "of bare engines": f"{rate / engine:.0%}"}
            | {name: f"{share:.0%}" for name, share in zip(names, [*shares, 1 - sum(shares)], strict=True)}
            | {f"{name}, us": f"{1e6 * s / self.decisions:.0f}" for name, s in sorted(self._processor.items())}
        )

    def _main_seconds(self) -> tuple[float, float]:
        return sum(pool.wait_seconds for pool in self._pools), self._collector.acting_seconds


def rollout() -> list[Row]:
    """Decisions per second and core, as a share of what bare engines reach, and where the time of one goes.

    Shares are of the main program's time; the last three columns are processor time of a decision by kind of process.
    """
    cores = available_cores()
    choices = [[int(number) for number in flag.value] for flag in (_GAMES, _PER_PROCESS, _PARTS)]
    with ExitStack() as stack:
        workers = stack.enter_context(ProcessPoolExecutor(cores, mp_context=get_context("spawn")))
        run_engines: Callable[[], float] = partial(_engine_rate, workers, cores)
        run_engines()  # starts the workers
        arrangements = [_Rollouts(stack, *chosen) for chosen in itertools.product(*choices)]
        engine_rates = []
        while min(one.seconds for one in arrangements) < SECONDS.value:
            engine_rates.append(run_engines())
            for one in arrangements:
                one.collect()
        engine = float(np.median(engine_rates))
        print(f"bare engines: {engine:,.0f} steps/s a core")
        return [one.row(engine) for one in arrangements]


def processor_seconds() -> dict[str, float]:
    """Processor time so far of this process and its descendants, by kind."""
    seconds, tick = {"main": time.process_time(), "engine": 0.0, "game process": 0.0}, os.sysconf("SC_CLK_TCK")
    for process in descendants(os.getpid()):
        try:
            name, _, fields = Path(f"/proc/{process}/stat").read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        kind = "engine" if name.startswith(_ENGINE) else "game process"
        seconds[kind] += sum(map(int, fields.split()[11:13])) / tick
    return seconds


def _engine_rate(workers: ProcessPoolExecutor, cores: int) -> float:
    """Steps per second and core of engines that do nothing but carry out actions and draw, one per core."""
    return sum(workers.map(_engine_steps, range(cores))) / cores


def _engine_steps(seed: int) -> float:
    """Steps per second of one engine."""
    mode = screen_mode(ARGUMENTS["height"], ARGUMENTS["width"])
    engine = Engine(ARGUMENTS["level"], seed + 1, ARGUMENTS["skill"], mode, objects=False)
    action = {"forward": 1, "camera": (0.0, 5.0)}
    try:
        steps, start_time = 0, time.monotonic()
        while (seconds := time.monotonic() - start_time) < _ENGINE_SECONDS:
            tics = TICS_PER_STEP[steps % len(TICS_PER_STEP)]
            engine.game.make_action(doom_buttons(action, tics), tics)
            steps += 1
            if engine.game.is_episode_finished():
                engine.restart(seed + 1)
        return steps / seconds
    finally:
        engine.close()
