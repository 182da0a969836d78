"""Games on other machines, by Ray: the same as a `pool.Pool`, whose rows live in pools on several machines.

A machine that is lost, with its network or its power, costs the episodes that it was playing; another one takes its
rows as soon as Ray has one. Needs the extra `ray`, and vpt_jax on all machines.
"""

import itertools
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np
import ray
from jaxtyping import Float, UInt8

from vpt_jax.envs.vector.client import Game, GameLostError
from vpt_jax.envs.vector.pool import Episode, Pool, Turn
from vpt_jax.system.signals import keep_signal_handlers

_NETWORK = 60.0  # seconds that a machine may take longer than its games
_TRIES = 3
_FRESH_SEEDS = 1_000_000  # between those of a machine and of the one that takes its place

Seeds = tuple[int, int]  # of a row's episodes: the first, and how far apart they are


def join_cluster(address: str) -> None:
    """Join Ray's cluster at an address: "auto" for the one that this machine is part of, "local" for a new one here.

    Ray's own SIGTERM handler ends the process at once, with status 15 and nothing saved: the handlers that there were
    are kept.

    Raises:
        ConnectionError: there is no cluster.
    """
    with keep_signal_handlers(signal.SIGTERM, signal.SIGINT):
        ray.init(address, ignore_reinit_error=True)


class Report(NamedTuple):
    """A machine's turn, and what has ended in it."""

    turn: Turn
    episodes: list[Episode]
    lost: int  # games, so far
    waited: float  # seconds for games, in this turn


class Machine:
    """Runs on another machine."""

    def __init__(self, seeds: Sequence[Seeds], first_limits: Sequence[int | None], arguments: dict[str, Any]):
        """`arguments`: the others of a `Pool`."""
        streams = [itertools.count(*of_row) for of_row in seeds]
        self._pool = Pool(seeds=streams, first_limits=first_limits, **arguments)

    def begin(self) -> Report:
        """As `Pool.begin`."""
        return self._report(self._pool.begin())

    def act(self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> Report:
        """As `Pool.act`."""
        return self._report(self._pool.act(buttons, camera))

    def close(self) -> None:
        """End all games."""
        self._pool.__exit__()

    def _report(self, turn: Turn) -> Report:
        waited, self._pool.waited = self._pool.waited, 0.0
        return Report(turn, self._pool.episodes(), self._pool.lost, waited)


class _Part:
    """Some of the rows: a machine, or the next one, that plays them."""

    def __init__(self, pool: "RemotePool", number: int):
        self._pool, self._number, self._starts = pool, number, 0
        self.episodes: list[Episode] = []
        self.lost, self._lost_before = 0, 0  # games; those of earlier machines
        self.waited = 0.0  # in the last turn
        self.begun = False  # whether the machine has shown something
        self._failures = 0  # of machines, one after the other, to begin
        rows = pool.rows_each
        frames, nothing = np.zeros((rows, *pool.size, 3), np.uint8), np.zeros(rows, bool)
        seeds, reward = np.zeros(rows, int), np.zeros(rows, np.float32)
        self._turn = Turn(frames, seeds, nothing, nothing, nothing, reward, nothing, nothing)
        self._steps, self._sums = np.zeros(rows, int), np.zeros(rows)
        self._start()

    def act(self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> None:
        """Pass the actions on, if the machine has begun."""
        if self.begun:
            self._asked = self._machine.act.remote(buttons, camera)

    def take(self, wait: bool) -> Turn:
        """The machine's turn; one in which nobody plays, if there is none: it is not waited for before it has begun."""
        try:
            report = ray.get(self._asked, timeout=self._pool.patience if wait or self.begun else 0)
        except ray.exceptions.GetTimeoutError as error:
            if self.begun or wait:
                self._replace(error)
        except ray.exceptions.RayTaskError:  # what the pool there raised
            raise
        except ray.exceptions.RayError as error:  # the machine, or its network
            self._replace(error)
        else:
            return self._note(report)
        return self._away()

    def close(self) -> None:
        """End the machine's games, and give it back."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._machine.close.remote(), timeout=_NETWORK)
        ray.kill(self._machine)

    def _start(self) -> None:
        rows = slice(self._first_row, self._first_row + self._pool.rows_each)
        seeds = [(first + self._starts * _FRESH_SEEDS, apart) for first, apart in self._pool.seeds[rows]]
        actor: Any = ray.remote(num_cpus=self._pool.cpus)(Machine)
        self._machine = actor.remote(seeds, self._pool.first_limits[rows], self._pool.arguments)
        self._asked, self.begun, self._starts = self._machine.begin.remote(), False, self._starts + 1

    def _replace(self, error: Exception) -> None:
        """Give the machine up, with what it was playing."""
        ray.kill(self._machine)
        self._failures = 0 if self.begun else self._failures + 1
        if self._failures == _TRIES:
            raise GameLostError(f"{_TRIES} machines of the cluster could not begin: {error}") from error
        if self.begun:
            for row in np.flatnonzero(self._turn.playing).tolist():
                figures = int(self._turn.seed[row]), int(self._steps[row]), float(self._sums[row])
                self.episodes.append(Episode(self._first_row + row, *figures, "lost", {}, {}, str(error)))
        self._lost_before = self.lost = self.lost + self._pool.rows_each
        self._turn = self._away()
        self._start()

    @property
    def _first_row(self) -> int:
        return self._number * self._pool.rows_each

    def _away(self) -> Turn:
        nobody = np.zeros(self._pool.rows_each, bool)
        return self._turn._replace(
            first=nobody, playing=nobody, acted=nobody, reward=np.zeros(len(nobody), np.float32), terminated=nobody,
            truncated=nobody,
        )  # fmt: skip

    def _note(self, report: Report) -> Turn:
        turn, self.begun = report.turn, True
        self._steps = np.where(turn.first, 0, self._steps + turn.acted)
        self._sums = np.where(turn.first, 0, self._sums + turn.reward)
        self.episodes += [episode._replace(row=self._first_row + episode.row) for episode in report.episodes]
        self.lost, self.waited = self._lost_before + report.lost, report.waited
        self._turn = turn
        return turn


class RemotePool:
    """`machines` pools of Ray's cluster, which `join_cluster` has joined; to be used as a `Pool`.

    Args:
        machines: how many, each with as many of the rows.
        cpus: processor cores that each takes of the cluster.
        game, size: as of a `Pool`; so are the `others`.
        seeds: for each row.
        first_limits: for each row, as of a `Pool`.
    """

    def __init__(
        self, machines: int, cpus: float, game: Game, seeds: Sequence[Seeds], size: tuple[int, int],
        first_limits: Sequence[int | None] | None = None, **others: Any,
    ):  # fmt: skip
        self.machines, self.cpus, self.rows_each, self.size = machines, cpus, len(seeds) // machines, size
        self.seeds, self.arguments = seeds, {"game": game, "size": size, **others}
        self.first_limits = [None] * len(seeds) if first_limits is None else first_limits
        self.patience = game.patience.start + game.patience.reset + game.patience.step + _NETWORK
        self.waited, self.lost = 0.0, 0  # all games of a machine, when it is lost
        self._parts = [_Part(self, number) for number in range(machines)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts:
            part.close()

    def begin(self) -> Turn:
        """As `Pool.begin`."""
        return self._take(wait=True)

    def act(self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> Turn:
        """As `Pool.act`."""
        split = (np.split(actions, self.machines) for actions in (buttons, camera))
        for part, keys, degrees in zip(self._parts, *split, strict=True):
            part.act(keys, degrees)
        return self._take(wait=False)

    def episodes(self) -> list[Episode]:
        """As `Pool.episodes`."""
        ended = [episode for part in self._parts for episode in part.episodes]
        for part in self._parts:
            part.episodes.clear()
        return ended

    def _take(self, wait: bool) -> Turn:
        wait = wait or not any(part.begun for part in self._parts)  # or turns would pass in which nobody plays
        turns = [part.take(wait) for part in self._parts]
        self.waited += max(part.waited for part in self._parts)
        self.lost = sum(part.lost for part in self._parts)
        return Turn(*map(np.concatenate, zip(*turns, strict=True)))
