"""Many games side by side, each in its own process, with one picture and one action for each at every turn.

A row is one stream of episodes. When an episode is over, its row shows the last picture for one turn in which no action
is asked for, as Gymnasium's `AutoresetMode.NEXT_STEP` has it; so the value of where an episode was cut can be had. A
game that is lost (it hangs, dies or sends invalid messages) is killed with all that it started, and another one takes
its row: its episode is cut where it was, with no reward made up, and noted as lost.
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
from vpt_jax.envs.rewards import RewardTable, Tally, counted
from vpt_jax.envs.vector.client import Answer, Game, GameClient, GameLostError
from vpt_jax.video import Frame, resize

_PAUSES = (
    0.0,
    0.5,
    2.0,
    8.0,
)  # seconds before a row tries again, whose games are lost one after the other, without a step

_LARGEST_COUNT = 1e9  # of what rewards depend on; squares of sums of such rewards are far within float32


class Turn(NamedTuple):
    """What `n` games show, and what came of the last actions."""

    frames: UInt8[np.ndarray, "n h w 3"]
    seed: Int[np.ndarray, " n"]  # of the episode
    first: Bool[np.ndarray, " n"]  # the first picture of an episode
    playing: Bool[np.ndarray, " n"]  # waits for an action; else the picture is the last of an episode, or an old one
    acted: Bool[np.ndarray, " n"]  # the last action was carried out; what follows is of it
    reward: Float32[np.ndarray, " n"]
    terminated: Bool[np.ndarray, " n"]  # the game itself came to an end, and was not just cut
    truncated: Bool[np.ndarray, " n"]  # the game's own time limit cut the episode


class Episode(NamedTuple):
    """One that is over."""

    row: int  # of the pool
    seed: int
    steps: int
    reward: float  # of all steps
    ending: str  # "terminated", "truncated", "lost", or "shortened" by the pool (`first_limits`)
    info: dict[str, float]  # the last
    obtained: dict[str, float]  # of what is rewarded, how much
    reason: str = ""  # why it was lost


class Games(Protocol):
    """Many games side by side, wherever they are: what a player needs of a `Pool`, or of one on other machines."""

    waited: float  # seconds
    lost: int  # games, so far

    def begin(self) -> Turn:
        """The first turn."""
        ...

    def act(self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> Turn:
        """The next one, once an action has been carried out in each game that plays."""
        ...

    def episodes(self) -> list[Episode]:
        """Those that have ended since the last call."""
        ...


class _State(Enum):
    STARTING = "the process starts"
    RESETTING = "an episode begins"
    WAITING = "waits for an action"
    STEPPING = "carries one out"
    OVER = "shows the end of an episode"
    DONE = "there is no further episode to play"


class _Row:
    """One stream of episodes, and the game that plays them."""

    def __init__(self, pool: "Pool", number: int, seeds: Iterator[int], first_limit: int | None):
        self._pool, self._number, self._seeds = pool, number, seeds
        self._next_limit = first_limit  # steps after which the next episode is cut
        self._limit: int | None = None  # the same of this one
        self._starts, self._failures = 0, 0  # since the last step
        self.resumes = 0.0  # when, by `time.monotonic`, a game is started that is not there
        self.frame: Frame = np.zeros((*(pool.size or (0, 0)), 3), np.uint8)
        self.episodes: list[Episode] = []
        self.state, self.seed = _State.OVER, 0
        self.client: GameClient | None = None
        self._played = 0  # episodes of this process
        self.begin_turn()

    def begin_turn(self) -> None:
        """Nothing has come of the next action yet."""
        self.first = self.acted = self.terminated = self.truncated = False
        self.reward = 0.0

    def act(self, buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"]) -> None:
        """Pass the action on, or begin the next episode."""
        if self.state is _State.OVER:
            self._begin_next()
        elif self.client and self.state is _State.WAITING:
            self.state = _State.STEPPING
            self.client.step(buttons, camera)

    def poll(self) -> None:
        """Take the game's answer, if it is there."""
        if self.client is None:
            if self.state is _State.STARTING and time.monotonic() >= self.resumes:
                self._start()
            return
        try:
            if (answer := self.client.poll()) is not None:
                self._take(self.client, answer)
        except GameLostError as error:
            self._lost(self.client, error)

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
        self.client = GameClient(self._pool.game, f"{self._pool.mark}{self._number}.{self._starts}.")

    def _reset(self, client: GameClient) -> None:
        self.state = _State.RESETTING
        client.reset(self.seed)

    def _take(self, client: GameClient, answer: Answer) -> None:
        if self.state is _State.STARTING:
            self._reset(client)
            return
        _check_counts(answer.info, self._pool.rewards)
        self.frame = self._look(client.picture())
        if self.state is _State.RESETTING:
            self._tally, self._steps, self._sum = Tally(self._pool.rewards, answer.info), 0, 0.0
            self.state, self.first, self._info = _State.WAITING, True, answer.info
            self._limit, self._next_limit = self._next_limit, None
        else:
            self._count_step(answer)

    def _look(self, picture: Frame) -> Frame:
        """The picture at the size that is asked for."""
        rows, columns, _ = picture.shape
        height, width = self._pool.size = self._pool.size or (rows, columns)  # those of the first, for all
        if rows < height or columns < width:
            raise GameLostError(
                f"the game shows {rows}x{columns} pixels, and {height}x{width} are to be seen: set its size by "
                "config.game.arguments"
            )
        return resize(picture, height, width)

    def _count_step(self, answer: Answer) -> None:
        self.acted, self.terminated, self._info = True, answer.terminated, answer.info
        self.truncated = answer.truncated and not answer.terminated
        self._failures = 0
        self.reward = self._tally.pay(answer.info)
        self._steps, self._sum = self._steps + 1, self._sum + self.reward
        self.state = _State.WAITING
        if ending := self._ending():
            self.state, self._played = _State.OVER, self._played + 1
            self._note(ending)

    def _ending(self) -> str:
        """The way the episode ended; empty: it goes on."""
        if self.terminated or self.truncated:
            return "terminated" if self.terminated else "truncated"
        return "shortened" if self._steps == self._limit else ""

    def _note(self, ending: str, reason: str = "") -> None:
        figures = self.seed, self._steps, self._sum, ending, self._info, self._tally.obtained, reason
        self.episodes.append(Episode(self._number, *figures))

    def _lost(self, client: GameClient, error: GameLostError) -> None:
        """Kill the game; its episode is over, or tried again if it had not begun."""
        client.kill()
        self.client, self._pool.lost = None, self._pool.lost + 1
        if self._failures == len(_PAUSES):
            raise GameLostError(f"a game could not play a step in {len(_PAUSES) + 1} tries: {error}") from error
        if self.state is _State.STEPPING:
            self._note("lost", str(error))
            self.state = _State.OVER
        else:
            self.state, self.resumes = _State.STARTING, time.monotonic() + _PAUSES[self._failures]
        self._failures += 1


def _check_counts(info: Mapping[str, float], rewards: RewardTable) -> None:
    """Refuse counts that no game has: rewards of them would make losses infinite, and so end the training."""
    for item in counted(rewards):
        if not abs(count := info.get(item, 0.0)) <= _LARGEST_COUNT:
            raise GameLostError(f"the game counts {count:g} of {item!r}, beyond {_LARGEST_COUNT:g}")


class Pool:
    """A game for every row; a context manager. `begin`, then `act` as long as you like.

    Equal seeds and actions give equal turns, if the games do and none is lost, and if resets are waited for.

    Args:
        game: how each is made.
        seeds: of the episodes, for each row; rows that share an iterator take the next in their order. The pool ends
            with them.
        size: height and width of the pictures, resized as the reference does it (bilinear); None: as they are.
        rewards: what is paid for.
        episodes_per_process: after these a game is started anew, whatever it has leaked.
        wait_for_resets: whether a turn waits for episodes that begin; else their rows do not play meanwhile.
        first_limits: steps after which each row's first episode is cut, so that rows are out of step from then on
            (None: it is not). Such an episode is noted as "shortened".
    """

    def __init__(
        self,
        game: Game,
        seeds: Sequence[Iterator[int]],
        size: tuple[int, int] | None,
        rewards: RewardTable,
        episodes_per_process: int = 100,
        wait_for_resets: bool = True,
        first_limits: Sequence[int | None] | None = None,
    ):
        self.game, self.size, self.rewards = game, size, rewards
        self.episodes_per_process, self.lost = episodes_per_process, 0
        self.waited = 0.0  # seconds spent waiting for games
        self._waits_for = {_State.STEPPING} | ({_State.STARTING, _State.RESETTING} if wait_for_resets else set())
        self.mark = f"{uuid.uuid4().hex}."
        self._reaper = start_reaper(self.mark)
        limits = [None] * len(seeds) if first_limits is None else first_limits
        self._rows = [_Row(self, number, *of_row) for number, of_row in enumerate(zip(seeds, limits, strict=True))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for row in self._rows:
            if row.client:
                row.client.say_farewell()  # to all, before the first is waited for
        for row in self._rows:
            row.close()
        self._reaper.communicate()

    @property
    def done(self) -> bool:
        """Whether all episodes have been played."""
        return all(row.state is _State.DONE for row in self._rows)

    def begin(self) -> Turn:
        """The first turn of all; waits until every game shows its first picture."""
        nothing = np.zeros((len(self._rows), 20), np.uint8), np.zeros((len(self._rows), 2), np.float32)
        return self._play(*nothing, {_State.STARTING, _State.RESETTING})

    def act(self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> Turn:
        """Carry out an action in each row that plays, one step of the games (camera in degrees).

        Raises:
            GameLostError: a row lost its games several times without a step; the message has the last reason.
        """
        return self._play(buttons, camera, self._waits_for)

    def episodes(self) -> list[Episode]:
        """Those that have ended since the last call."""
        ended = [episode for row in self._rows for episode in row.episodes]
        for row in self._rows:
            row.episodes.clear()
        return ended

    def _play(
        self, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"], waits_for: set[_State]
    ) -> Turn:
        for row, keys, degrees in zip(self._rows, buttons, camera, strict=True):
            row.begin_turn()
            row.act(keys, degrees)
        began = time.monotonic()
        self._collect(waits_for)
        self.waited += time.monotonic() - began
        return Turn(
            frames=np.stack([row.frame for row in self._rows]),
            seed=np.array([row.seed for row in self._rows]),
            first=np.array([row.first for row in self._rows]),
            playing=np.array([row.state is _State.WAITING for row in self._rows]),
            acted=np.array([row.acted for row in self._rows]),
            reward=np.array([row.reward for row in self._rows], np.float32),
            terminated=np.array([row.terminated for row in self._rows]),
            truncated=np.array([row.truncated for row in self._rows]),
        )

    def _collect(self, waits_for: set[_State]) -> None:
        """Take answers until none is waited for."""
        while True:
            busy = [row for row in self._rows if row.state in _BUSY]
            if not busy:
                return
            nobody_plays = all(row.state in _BUSY | {_State.DONE} for row in self._rows)
            waiting = nobody_plays or any(row.state in waits_for for row in busy)
            clients = [row.client for row in busy if row.client]
            due = [client.deadline for client in clients] + [row.resumes for row in busy if not row.client]
            until = min(due) - time.monotonic()
            wait([client.fileno() for client in clients], max(until, 0.0) + 0.001 if waiting else 0.0)
            for row in busy:
                row.poll()
            if not waiting:
                return


_BUSY = {_State.STARTING, _State.RESETTING, _State.STEPPING}
