"""Vectorized environment: a pool of games in subprocesses, stepped together, with one frame and one action for each.

A row is one stream of episodes. After the end of an episode its row keeps the last frame for one step that takes no
action, as Gymnasium's `AutoresetMode.NEXT_STEP`; so the value of the last frame of a truncated episode is available. A
game that is lost (it crashes, hangs or sends invalid messages) is killed with its child processes, and a new one takes
its row: its episode is cut at its last step, with no reward invented, and recorded as lost.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from multiprocessing.connection import wait
from typing import NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from vpt_jax.envs.processes.reaper import start_reaper
from vpt_jax.envs.rewards import RewardTable, RewardTracker, tracked_names
from vpt_jax.envs.vector.client import EnvClient, EnvLostError, EnvSpec, StepResult
from vpt_jax.video import Frame, resize

# Retry with exponential backoff: seconds before each retry of a row that keeps losing its game before the first step
_RETRY_PAUSES = (0.0, 0.5, 2.0, 8.0)
_MAX_COUNT = 1e9  # of an item that rewards depend on: squared sums of such rewards stay far within float32


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


class FinishedEpisode(NamedTuple):
    """Record of a finished episode."""

    row: int  # of the pool
    seed: int
    steps: int
    reward: float  # the return: sum over all steps
    ending: str  # "terminated", "truncated", "lost", or "shortened" by the pool (`first_limits`)
    info: dict[str, float]  # of the last step
    obtained: dict[str, float]  # count of every rewarded item
    reason: str = ""  # why it was lost


class VectorEnv(Protocol):
    """Interface of a vectorized environment: of `Pool`, and of `RemotePool` on other machines."""

    wait_seconds: float  # spent waiting for games, so far
    lost: int  # number of games lost so far

    def begin(self) -> TimeStep:
        """Returns the first time step."""
        ...

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> TimeStep:
        """Carry out an action in every row that plays, and return the next time step."""
        ...

    def episodes(self) -> list[FinishedEpisode]:
        """Returns the episodes that have ended since the last call."""
        ...


class _State(Enum):
    STARTING = "the process starts"
    RESETTING = "an episode begins"
    WAITING = "waits for an action"
    STEPPING = "carries out an action"
    OVER = "holds the last frame of an episode"
    DONE = "no seeds are left"


class _Row:
    """One stream of episodes, and the client of the game that plays them."""

    def __init__(self, pool: "Pool", number: int, seeds: Iterator[int], first_limit: int | None):
        self._pool, self._number, self._seeds = pool, number, seeds
        self._next_limit = first_limit  # steps after which the next episode is cut
        self._limit: int | None = None  # the same of the current one
        self._starts, self._failures = 0, 0  # failures since the last step
        self.restart_time = 0.0  # `time.monotonic` at which a missing game is started again
        self.frame: Frame = np.zeros((*(pool.size or (0, 0)), 3), np.uint8)
        self.episodes: list[FinishedEpisode] = []
        self.state, self.seed = _State.OVER, 0
        self.client: EnvClient | None = None
        self._played = 0  # episodes of this process
        self.begin_step()

    def begin_step(self) -> None:
        """Clear the outcome of the last action."""
        self.first = self.acted = self.terminated = self.truncated = False
        self.reward = 0.0

    def step(self, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        """Send the action to the game, or begin the next episode."""
        if self.state is _State.OVER:
            self._begin_next()
        elif self.client and self.state is _State.WAITING:
            self.state = _State.STEPPING
            self.client.step(buttons, camera)

    def poll(self) -> None:
        """Receive the game's answer if it has come; start a missing game once its retry is due."""
        if self.client is None:
            if self.state is _State.STARTING and time.monotonic() >= self.restart_time:
                self._start()
            return
        try:
            if (answer := self.client.poll()) is not None:
                self._receive(self.client, answer)
        except EnvLostError as error:
            self._handle_lost(self.client, error)

    def close(self) -> None:
        """End the game."""
        if self.client:
            self.client.close()
            self.client = None

    def _begin_next(self) -> None:
        if (seed := next(self._seeds, None)) is None:
            self.state = _State.DONE
            self.close()
            return
        self.seed = seed
        if self.client and self._played >= self._pool.episodes_per_process:
            self.close()
        if self.client:
            self._reset(self.client)
        else:
            self._start()

    def _start(self) -> None:
        self.state, self._played, self._starts = _State.STARTING, 0, self._starts + 1
        self.client = EnvClient(self._pool.env_spec, f"{self._pool.mark}{self._number}.{self._starts}.")

    def _reset(self, client: EnvClient) -> None:
        self.state = _State.RESETTING
        client.reset(self.seed)

    def _receive(self, client: EnvClient, answer: StepResult) -> None:
        if self.state is _State.STARTING:
            self._reset(client)
            return
        _check_counts(answer.info, self._pool.rewards)
        self.frame = self._resize_frame(client.frame())
        if self.state is _State.RESETTING:
            self._reward_tracker, self._steps, self._return = RewardTracker(self._pool.rewards, answer.info), 0, 0.0
            self.state, self.first, self._info = _State.WAITING, True, answer.info
            self._limit, self._next_limit = self._next_limit, None
        else:
            self._record_step(answer)

    def _resize_frame(self, frame: Frame) -> Frame:
        """Returns the frame at the pool's size (default: that of the first frame)."""
        rows, columns, _ = frame.shape
        height, width = self._pool.size = self._pool.size or (rows, columns)  # of the first frame, for all
        if rows < height or columns < width:
            raise EnvLostError(
                f"the game renders {rows}x{columns} pixels, and {height}x{width} are needed: set its size by "
                "config.game.arguments"
            )
        return resize(frame, height, width)

    def _record_step(self, answer: StepResult) -> None:
        self.acted, self.terminated, self._info = True, answer.terminated, answer.info
        self.truncated = answer.truncated and not answer.terminated
        self._failures = 0
        self.reward = self._reward_tracker.update(answer.info)
        self._steps, self._return = self._steps + 1, self._return + self.reward
        self.state = _State.WAITING
        if ending := self._ending():
            self.state, self._played = _State.OVER, self._played + 1
            self._record_episode(ending)

    def _ending(self) -> str:
        """Returns how the episode ended; empty: it continues."""
        if self.terminated or self.truncated:
            return "terminated" if self.terminated else "truncated"
        return "shortened" if self._steps == self._limit else ""

    def _record_episode(self, ending: str, reason: str = "") -> None:
        obtained = self._reward_tracker.obtained
        self.episodes.append(
            FinishedEpisode(self._number, self.seed, self._steps, self._return, ending, self._info, obtained, reason)
        )

    def _handle_lost(self, client: EnvClient, error: EnvLostError) -> None:
        """Crash recovery: kill the game; its episode ends, or is tried again (with backoff) if it had not started."""
        client.kill()
        self.client, self._pool.lost = None, self._pool.lost + 1
        if self._failures == len(_RETRY_PAUSES):
            raise EnvLostError(f"a game could not play a step in {len(_RETRY_PAUSES) + 1} tries: {error}") from error
        if self.state is _State.STEPPING:
            self._record_episode("lost", str(error))
            self.state = _State.OVER
        else:
            self.state, self.restart_time = _State.STARTING, time.monotonic() + _RETRY_PAUSES[self._failures]
        self._failures += 1


def _check_counts(info: Mapping[str, float], rewards: RewardTable) -> None:
    """Refuse counts that no game has: rewards for them would make losses infinite, which ends the training."""
    for item in tracked_names(rewards):
        if not abs(count := info.get(item, 0.0)) <= _MAX_COUNT:
            raise EnvLostError(f"the game counts {count:g} of {item!r}, beyond {_MAX_COUNT:g}")


class Pool:
    """Pool of environments, one subprocess for every row; a context manager. Call `begin` once, then `step` repeatedly.

    Equal seeds and actions give equal time steps if the games are deterministic, none is lost, and `wait_for_resets`.

    Args:
        env_spec: how each environment is made.
        seeds: of the episodes, for each row; rows that share an iterator draw from it in their order. The pool is
            `done` when they are exhausted.
        size: height and width of the frames, resized as in the reference (bilinear); None: that of the game.
        rewards: the reward table.
        episodes_per_process: number of episodes after which a game is restarted, which bounds leaks.
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
        self.env_spec, self.size, self.rewards = env_spec, size, rewards
        self.episodes_per_process, self.lost = episodes_per_process, 0
        self.wait_seconds = 0.0  # spent waiting for games
        self._awaited = {_State.STEPPING} | ({_State.STARTING, _State.RESETTING} if wait_for_resets else set())
        self.mark = f"{uuid.uuid4().hex}."
        self._reaper = start_reaper(self.mark)
        limits = [None] * len(seeds) if first_limits is None else first_limits
        self._rows = [
            _Row(self, number, *arguments) for number, arguments in enumerate(zip(seeds, limits, strict=True))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for row in self._rows:
            if row.client:
                row.client.request_exit()  # to all, before waiting for the first
        for row in self._rows:
            row.close()
        self._reaper.communicate()

    @property
    def done(self) -> bool:
        """True when all episodes have been played."""
        return all(row.state is _State.DONE for row in self._rows)

    def begin(self) -> TimeStep:
        """Start all games, wait for their first frames, and return the first time step. To be called once."""
        rows, space = len(self._rows), self.env_spec.space
        null_actions = np.zeros((rows, len(space.keys)), np.uint8), np.zeros((rows, len(space.axes)), np.float32)
        return self._step(*null_actions, {_State.STARTING, _State.RESETTING})

    def step(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> TimeStep:
        """Carry out an action in every row that plays, for one step of the games (camera: movement of the axes).

        Raises:
            EnvLostError: a row has lost its game several times without a step; the message has the last reason.
        """
        return self._step(buttons, camera, self._awaited)

    def episodes(self) -> list[FinishedEpisode]:
        """Returns the episodes that have ended since the last call."""
        ended = [episode for row in self._rows for episode in row.episodes]
        for row in self._rows:
            row.episodes.clear()
        return ended

    def _step(
        self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"], awaited: set[_State]
    ) -> TimeStep:
        for row, keys, degrees in zip(self._rows, buttons, camera, strict=True):
            row.begin_step()
            row.step(keys, degrees)
        start_time = time.monotonic()
        self._collect(awaited)
        self.wait_seconds += time.monotonic() - start_time
        return TimeStep(
            frames=np.stack([row.frame for row in self._rows]),
            seed=np.array([row.seed for row in self._rows]),
            first=np.array([row.first for row in self._rows]),
            playing=np.array([row.state is _State.WAITING for row in self._rows]),
            acted=np.array([row.acted for row in self._rows]),
            reward=np.array([row.reward for row in self._rows], np.float32),
            terminated=np.array([row.terminated for row in self._rows]),
            truncated=np.array([row.truncated for row in self._rows]),
        )

    def _collect(self, awaited: set[_State]) -> None:
        """Receive answers until no row is in one of the `awaited` states."""
        while True:
            busy = [row for row in self._rows if row.state in _BUSY]
            if not busy:
                return
            none_playing = all(row.state in _BUSY | {_State.DONE} for row in self._rows)
            waiting = none_playing or any(row.state in awaited for row in busy)
            clients = [row.client for row in busy if row.client]
            deadlines = [client.deadline for client in clients] + [row.restart_time for row in busy if not row.client]
            seconds = min(deadlines) - time.monotonic()
            wait([client.fileno() for client in clients], max(seconds, 0.0) + 0.001 if waiting else 0.0)
            for row in busy:
                row.poll()
            if not waiting:
                return


_BUSY = {_State.STARTING, _State.RESETTING, _State.STEPPING}
