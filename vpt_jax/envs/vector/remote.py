"""Remote vectorized environment on a Ray cluster: the interface of `pool.Pool`, with one pool actor per machine.

When a machine is lost (network, power), the episodes that it was playing are lost, and another machine takes its rows
as soon as Ray has one. Needs the extra `ray`, and vpt_jax on all machines.
"""

import itertools
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
import ray
from jaxtyping import Float, UInt8

from vpt_jax.envs.vector.client import EnvLostError, EnvSpec
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.envs.vector.pool import Pool, TimeStep
from vpt_jax.system.signals import keep_signal_handlers

_NETWORK_SECONDS = 60.0  # that a machine may take longer than its games
_MAX_FAILURES = 3  # of machines to start, in succession
_SEED_STRIDE = 1_000_000  # between the seeds of a machine and of its replacement

SeedRange = tuple[int, int]  # start and stride of the seeds of a row's episodes


def join_cluster(address: str) -> None:
    """Join Ray's cluster at an address: "auto" for the one of this machine, "local" for a new one here.

    Ray's own SIGTERM handler ends the process at once, with status 15 and nothing saved: the previous handlers are
    kept.

    Raises:
        ConnectionError: there is no cluster.
    """
    with keep_signal_handlers(signal.SIGTERM, signal.SIGINT):
        ray.init(address, ignore_reinit_error=True)


class StepReport(NamedTuple):
    """Time step of one machine, with the episodes that have ended in it."""

    time_step: TimeStep
    episodes: list[FinishedEpisode]
    lost: int  # number of games lost so far
    wait_seconds: float  # spent waiting for games in this step


class PoolActor:
    """Ray actor that runs a `Pool` on another machine."""

    def __init__(self, seeds: Sequence[SeedRange], first_limits: Sequence[int | None], arguments: dict[str, Any]):
        """`arguments` are the remaining arguments of `Pool`."""
        streams = [itertools.count(start, stride) for start, stride in seeds]
        self._pool = Pool(seeds=streams, first_limits=first_limits, **arguments)

    def begin(self) -> StepReport:
        """As `Pool.begin`."""
        return self._report(self._pool.begin())

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> StepReport:
        """As `Pool.step`."""
        return self._report(self._pool.step(buttons, camera))

    def close(self) -> None:
        """End all games."""
        self._pool.__exit__()

    def _report(self, time_step: TimeStep) -> StepReport:
        wait_seconds, self._pool.wait_seconds = self._pool.wait_seconds, 0.0
        return StepReport(time_step, self._pool.episodes(), self._pool.lost, wait_seconds)


class _Shard:
    """Group of rows on one machine, which is replaced when it is lost."""

    def __init__(self, pool: "RemotePool", number: int):
        self._pool, self._number, self._starts = pool, number, 0
        self.episodes: list[FinishedEpisode] = []
        self.lost, self._lost_before = 0, 0  # number of games; the same of earlier machines
        self.wait_seconds = 0.0  # in the last step
        self.started = False  # True once the machine has returned a time step
        self._failures = 0  # of machines to start, in succession
        rows = pool.rows_per_machine
        frames, false = np.zeros((rows, *pool.size, 3), np.uint8), np.zeros(rows, bool)
        seeds, reward = np.zeros(rows, int), np.zeros(rows, np.float32)
        self._time_step = TimeStep(frames, seeds, false, false, false, reward, false, false)
        self._steps, self._returns = np.zeros(rows, int), np.zeros(rows)
        self._start()

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> None:
        """Send the actions to the machine, if it has started."""
        if self.started:
            self._pending = self._actor.step.remote(buttons, camera)

    def receive(self, wait: bool) -> TimeStep:
        """Returns the machine's time step, or one in which no row plays if there is none.

        A machine that has not started is waited for only if `wait`.

        Raises:
            EnvLostError: several machines have failed to start, in succession.
        """
        try:
            report = ray.get(self._pending, timeout=self._pool.timeout if wait or self.started else 0)
        except ray.exceptions.GetTimeoutError as error:
            if self.started or wait:
                self._replace(error)
        except ray.exceptions.RayTaskError:  # raised by the pool on that machine
            raise
        except ray.exceptions.RayError as error:  # the machine, or its network
            self._replace(error)
        else:
            return self._record(report)
        return self._idle_step()

    def close(self) -> None:
        """End the machine's games, and release the actor."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._actor.close.remote(), timeout=_NETWORK_SECONDS)
        ray.kill(self._actor)

    def _start(self) -> None:
        rows = slice(self._first_row, self._first_row + self._pool.rows_per_machine)
        seeds = [(start + self._starts * _SEED_STRIDE, stride) for start, stride in self._pool.seeds[rows]]
        actor: Any = ray.remote(num_cpus=self._pool.cpus)(PoolActor)
        self._actor = actor.remote(seeds, self._pool.first_limits[rows], self._pool.arguments)
        self._pending, self.started, self._starts = self._actor.begin.remote(), False, self._starts + 1

    def _replace(self, error: Exception) -> None:
        """Replace the machine; the episodes that it was playing are recorded as lost."""
        ray.kill(self._actor)
        self._failures = 0 if self.started else self._failures + 1
        if self._failures == _MAX_FAILURES:
            raise EnvLostError(f"{_MAX_FAILURES} machines of the cluster could not begin: {error}") from error
        if self.started:
            for row in np.flatnonzero(self._time_step.playing).tolist():
                seed, steps = int(self._time_step.seed[row]), int(self._steps[row])
                total = float(self._returns[row])
                self.episodes.append(
                    FinishedEpisode(self._first_row + row, seed, steps, total, "lost", {}, {}, str(error))
                )
        self._lost_before = self.lost = self.lost + self._pool.rows_per_machine
        self._time_step = self._idle_step()
        self._start()

    @property
    def _first_row(self) -> int:
        return self._number * self._pool.rows_per_machine

    def _idle_step(self) -> TimeStep:
        """The last time step, with no row that plays."""
        false = np.zeros(self._pool.rows_per_machine, bool)
        return self._time_step._replace(
            first=false, playing=false, acted=false, reward=np.zeros(len(false), np.float32), terminated=false,
            truncated=false,
        )  # fmt: skip

    def _record(self, report: StepReport) -> TimeStep:
        time_step, self.started = report.time_step, True
        self._steps = np.where(time_step.first, 0, self._steps + time_step.acted)
        self._returns = np.where(time_step.first, 0, self._returns + time_step.reward)
        self.episodes += [episode._replace(row=self._first_row + episode.row) for episode in report.episodes]
        self.lost, self.wait_seconds = self._lost_before + report.lost, report.wait_seconds
        self._time_step = time_step
        return time_step


class RemotePool:
    """Vectorized environment of `machines` pool actors in the Ray cluster of `join_cluster`; same interface as `Pool`.

    Args:
        machines: number of actors, each with an equal share of the rows.
        cpus: processor cores that each actor takes of the cluster.
        env_spec, size: as in `Pool`, like the `pool_arguments`.
        seeds: for each row.
        first_limits: for each row, as in `Pool`.
    """

    def __init__(
        self, machines: int, cpus: float, env_spec: EnvSpec, seeds: Sequence[SeedRange], size: tuple[int, int],
        first_limits: Sequence[int | None] | None = None, **pool_arguments: Any,
    ):  # fmt: skip
        self.machines, self.cpus, self.rows_per_machine, self.size = machines, cpus, len(seeds) // machines, size
        self.seeds, self.arguments = seeds, {"env_spec": env_spec, "size": size, **pool_arguments}
        self.first_limits = [None] * len(seeds) if first_limits is None else first_limits
        of_game = env_spec.timeouts.start + env_spec.timeouts.reset + env_spec.timeouts.step
        self.timeout = env_spec.games_per_process * of_game + _NETWORK_SECONDS  # they take turns in a process
        self.wait_seconds, self.lost = 0.0, 0  # the loss of a machine counts all its games
        self._begun = False  # the first time step has been received
        self._shards = [_Shard(self, number) for number in range(machines)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._shards:
            shard.close()

    def begin(self) -> TimeStep:
        """As `Pool.begin`."""
        return self.receive()

    def start(self) -> None:
        """As `Pool.start`; the machines have begun to start the games when they were asked for."""

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> TimeStep:
        """As `Pool.step`."""
        self.send(buttons, camera)
        return self.receive()

    def send(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> None:
        """As `Pool.send`."""
        split = (np.split(actions, self.machines) for actions in (buttons, camera))
        for shard, keys, degrees in zip(self._shards, *split, strict=True):
            shard.step(keys, degrees)

    def receive(self) -> TimeStep:
        """As `Pool.receive`."""
        wait, self._begun = not self._begun, True
        return self._collect(wait)

    def episodes(self) -> list[FinishedEpisode]:
        """As `Pool.episodes`."""
        ended = [episode for shard in self._shards for episode in shard.episodes]
        for shard in self._shards:
            shard.episodes.clear()
        return ended

    def _collect(self, wait: bool) -> TimeStep:
        wait = wait or not any(shard.started for shard in self._shards)  # or steps would pass in which no row plays
        time_steps = [shard.receive(wait) for shard in self._shards]
        self.wait_seconds += max(shard.wait_seconds for shard in self._shards)
        self.lost = sum(shard.lost for shard in self._shards)
        return TimeStep(*map(np.concatenate, zip(*time_steps, strict=True)))
