"""Vectorized environment: a pool of games in subprocesses, stepped together, with one frame and one action for each.

A row is one stream of episodes. After the end of an episode its row keeps the last frame for one step that takes no
action, as Gymnasium's `AutoresetMode.NEXT_STEP`; so the value of the last frame of a truncated episode is available. A
game that is lost (it crashes, hangs or sends invalid messages) is killed with its child processes, and a new one takes
its row: its episode is cut at its last step, with no reward invented, and recorded as lost.
"""

import os
import select
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import ceil
from typing import NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from vpt_jax.envs.processes.reaper import start_reaper
from vpt_jax.envs.rewards import RewardTable
from vpt_jax.envs.vector.client import EnvClient, EnvLostError, EnvSpec
from vpt_jax.envs.vector.episode_stream import BUSY, EpisodeStream, FinishedEpisode, StreamState
from vpt_jax.envs.vector.game_process import GameProcess
from vpt_jax.system.cores import available_cores
from vpt_jax.video import Frame, resize


class TimeStep(NamedTuple):
    """Observations of `n` environments, and the outcome of the last actions (cf. `dm_env.TimeStep`)."""

    frames: UInt8[np.ndarray, "n h w 3"]
    seed: Int[np.ndarray, " n"]  # of the episode
    first: Bool[np.ndarray, " n"]  # the frame is the first of an episode
    playing: Bool[np.ndarray, " n"]  # waits for an action; else the frame is the last of an episode, or an old one
    acted: Bool[np.ndarray, " n"]  # the last action was carried out; the fields below are its outcome
    reward: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]  # the game itself ended the episode
    truncated: Bool[np.ndarray, " n"]  # the game's time limit cut the episode


class VectorEnv(Protocol):
    """Interface of a vectorized environment: of `Pool`, and of `RemotePool` on other machines."""

    wait_seconds: float  # spent waiting for games, so far

    @property
    def lost(self) -> int:
        """Number of games lost so far."""
        ...

    def start(self) -> None:
        """Start all games; `receive` then returns the first time step."""
        ...

    def send(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> None:
        """Begin to carry out an action in every row that plays."""
        ...

    def receive(self) -> TimeStep:
        """Wait until the actions are carried out, and return the next time step."""
        ...

    def episodes(self) -> list[FinishedEpisode]:
        """Returns the episodes that have ended since the last call."""
        ...


class Pool:
    """Pool of environments in subprocesses; a context manager. Call `begin` once, then `step` repeatedly.

    `start` and `receive` do the same as `begin`, `send` and `receive` the same as `step`; between the two, the games
    play while the program does something else.

    Equal seeds and actions give equal time steps if the games are deterministic, none is lost, and `wait_for_resets`.

    Args:
        env_spec: how each environment is made, and how many share a process.
        seeds: of the episodes, for each row; rows that share an iterator draw from it in their order. The pool is
            `done` when they are exhausted.
        size: height and width of the frames, resized as in the reference (bilinear); None: that of the game.
        rewards: the reward table.
        episodes_per_process: number of episodes after which a game is made anew, which bounds leaks: by another
            process if it is the only game in it.
        wait_for_resets: True: a step waits for episodes that begin; False: their rows do not play meanwhile.
        first_limits: number of steps after which each row's first episode is cut, so that the rows are at different
            times of their episodes from then on (None: not cut). Such an episode is recorded as "shortened".
    """

    def __init__(
        self,
        env_spec: EnvSpec,
        seeds: Sequence[Iterator[int]],
        size: tuple[int, int] | None,
        rewards: RewardTable,
        episodes_per_process: int = 100,
        wait_for_resets: bool = True,
        first_limits: Sequence[int | None] | None = None,
    ):
        self.env_spec, self.size = env_spec, size
        self.wait_seconds = 0.0  # spent waiting for games
        self._awaited = {StreamState.STEPPING} | (
            {StreamState.STARTING, StreamState.RESETTING} if wait_for_resets else set()
        )
        self._next_awaited = self._awaited
        self.mark = f"{uuid.uuid4().hex}."
        self._reaper = start_reaper(self.mark)
        limits = [None] * len(seeds) if first_limits is None else first_limits
        self._rows = [
            EpisodeStream(number, of_row, rewards, limit)
            for number, (of_row, limit) in enumerate(zip(seeds, limits, strict=True))
        ]
        groups = split_rows(self._rows, env_spec.games_per_process, available_cores())
        self._cores = choose_cores(len(groups)) if env_spec.one_core else [None]
        self._processes = [
            GameProcess(rows, partial(self._start, number, len(rows)), self._fit_frame, episodes_per_process)
            for number, rows in enumerate(groups)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.client:
                process.client.request_exit()  # to all, before waiting for the first
        for process in self._processes:
            process.close()
        self._reaper.communicate()

    @property
    def done(self) -> bool:
        """True when all episodes have been played."""
        return all(row.state is StreamState.DONE for row in self._rows)

    @property
    def lost(self) -> int:
        """Number of games lost so far."""
        return sum(process.lost for process in self._processes)

    def begin(self) -> TimeStep:
        """Start all games, wait for their first frames, and return the first time step. To be called once."""
        self.start()
        return self.receive()

    def start(self) -> None:
        """Begin to start all games: `receive` then waits for their first frames. To be called once."""
        rows, space = len(self._rows), self.env_spec.space
        self.send(np.zeros((rows, len(space.keys)), np.uint8), np.zeros((rows, len(space.axes)), np.float32))
        self._next_awaited = {StreamState.STARTING, StreamState.RESETTING}

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> TimeStep:
        """Carry out an action in every row that plays, for one step of the games (camera: movement of the axes).

        Raises:
            EnvLostError: a process of games was lost several times without a step; the message has the last reason.
        """
        self.send(buttons, camera)
        return self.receive()

    def send(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> None:
        """Begin a step, which `receive` completes: meanwhile, the games play. Arguments as of `step`."""
        done = 0
        for process in self._processes:
            rows = slice(done, done + len(process.rows))
            process.send(buttons[rows], camera[rows])
            done = rows.stop

    def receive(self) -> TimeStep:
        """Wait until the step is complete, and return its time step. Raises as `step`."""
        start_time = time.monotonic()
        self._collect(self._next_awaited)
        self._next_awaited = self._awaited
        self.wait_seconds += time.monotonic() - start_time
        rows = self._rows
        blank = np.zeros((*(self.size or (0, 0)), 3), np.uint8)
        return TimeStep(
            frames=np.stack([blank if row.frame is None else row.frame for row in rows]),
            seed=np.array([row.seed for row in rows]),
            first=np.array([row.first for row in rows]),
            playing=np.array([row.state is StreamState.WAITING for row in rows]),
            acted=np.array([row.acted for row in rows]),
            reward=np.array([row.reward for row in rows], np.float32),
            terminated=np.array([row.terminated for row in rows]),
            truncated=np.array([row.truncated for row in rows]),
        )

    def episodes(self) -> list[FinishedEpisode]:
        """Returns the episodes that have ended since the last call."""
        ended = [episode for row in self._rows for episode in row.episodes]
        for row in self._rows:
            row.episodes.clear()
        return ended

    def _start(self, number: int, games: int, starts: int) -> EnvClient:
        core = self._cores[number % len(self._cores)]
        return EnvClient(self.env_spec, f"{self.mark}{number}.{starts}.", games, core)

    def _fit_frame(self, frame: Frame) -> Frame:
        """Returns the frame at the pool's size (default: that of the first frame)."""
        rows, columns, _ = frame.shape
        height, width = self.size = self.size or (rows, columns)  # of the first frame, for all
        if rows < height or columns < width:
            raise EnvLostError(
                f"the game renders {rows}x{columns} pixels, and {height}x{width} are needed: set its size by "
                "config.game.arguments"
            )
        return resize(frame, height, width)

    def _collect(self, awaited: set[StreamState]) -> None:
        """Receive answers until no row is in one of the `awaited` states."""
        while busy := [process for process in self._processes if process.busy]:
            none_playing = all(row.state in BUSY | {StreamState.DONE} for row in self._rows)
            waiting = none_playing or any(row.state in awaited for process in busy for row in process.rows)
            _wait(busy if waiting else [])
            for process in busy:
                process.poll()
            if not waiting:
                return


def _wait(processes: Sequence[GameProcess]) -> None:
    """Wait until one of the processes has sent something, or its time is over."""
    clients = [process.client for process in processes if process.client]
    deadlines = [client.deadline for client in clients]
    deadlines += [process.restart_time for process in processes if not process.client]
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLIN)
    if deadlines:
        poll.poll(1000 * max(min(deadlines) - time.monotonic(), 0.0) + 1)


def split_rows(rows: Sequence[EpisodeStream], most: int, cores: int) -> list[list[EpisodeStream]]:
    """Splits rows into as many groups for every core as keep them at `most` rows; sizes differ by one at most.

    More processes would cost more messages, and gain nothing.
    """
    count = min(len(rows), cores * ceil(len(rows) / (most * cores)))
    bounds = [len(rows) * group // count for group in range(count + 1)]
    return [list(rows[start:stop]) for start, stop in pairwise(bounds)]


def choose_cores(processes: int) -> Sequence[int | None]:
    """Cores that processes are bound to, in turn; [None]: to none, since the cores would not have equal shares.

    A game such as Doom is a program of its own, which waits for its process and the other way round: on two cores, each
    message wakes up an idle core.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return cores if cores and processes % len(cores) == 0 else [None]
