"""Stream of episodes in one row of a pool: seeds, rewards, endings, and the record of every finished episode."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from vpt_jax.envs.rewards import RewardTable, RewardTracker, tracked_names
from vpt_jax.envs.vector.client import EnvLostError, StepResult
from vpt_jax.video import Frame

_MAX_COUNT = 1e9  # of an item that rewards depend on: squared sums of such rewards stay far within float32


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


class StreamState(Enum):
    """State of a row."""

    STARTING = "an episode begins, once its process has started"
    RESETTING = "an episode begins"
    WAITING = "waits for an action"
    STEPPING = "carries out an action"
    OVER = "holds the last frame of an episode"
    DONE = "no seeds are left"


BUSY = {StreamState.STARTING, StreamState.RESETTING, StreamState.STEPPING}


class EpisodeStream:
    """One stream of episodes; `GameProcess` has the game that plays them.

    Args:
        number: of the row in the pool.
        seeds: of the episodes.
        rewards: the reward table.
        first_limit: number of steps after which the first episode is cut; None: it is not.
    """

    def __init__(self, number: int, seeds: Iterator[int], rewards: RewardTable, first_limit: int | None):
        self._number, self._seeds, self._rewards = number, seeds, rewards
        self._next_limit = first_limit  # steps after which the next episode is cut
        self._limit: int | None = None  # the same of the current one
        self.frame: Frame | None = None  # None: there has been none
        self.episodes: list[FinishedEpisode] = []
        self.state, self.seed = StreamState.OVER, 0
        self.played = 0  # episodes since the game was made
        self.failures = 0  # losses since the last step
        self.begin_step()

    def begin_step(self) -> None:
        """Clear the outcome of the last action."""
        self.first = self.acted = self.terminated = self.truncated = False
        self.reward = 0.0

    def begin_episode(self) -> None:
        """Begin the next episode, if there is one."""
        seed = next(self._seeds, None)
        self.state = StreamState.DONE if seed is None else StreamState.STARTING
        self.seed = self.seed if seed is None else seed

    def receive(self, result: StepResult, frame: Frame) -> None:
        """Record the result of a reset or a step.

        Raises:
            EnvLostError: the game counts what no game has.
        """
        check_counts(result.info, self._rewards)
        self.frame = frame
        if self.state is StreamState.RESETTING:
            self._reward_tracker, self._steps, self._return = RewardTracker(self._rewards, result.info), 0, 0.0
            self.state, self.first, self._info = StreamState.WAITING, True, result.info
            self._limit, self._next_limit = self._next_limit, None
        else:
            self._record_step(result)

    def lose(self, reason: str) -> None:
        """Record that the game is lost: its episode ends, or is tried again if it had not started."""
        self.failures += self.state is not StreamState.OVER
        if self.state in (StreamState.STEPPING, StreamState.WAITING):
            self._record_episode("lost", reason)
            self.state = StreamState.OVER
        elif self.state is StreamState.RESETTING:
            self.state = StreamState.STARTING

    def _record_step(self, result: StepResult) -> None:
        self.acted, self.failures = True, 0
        self.terminated, self._info = result.terminated, result.info
        self.truncated = result.truncated and not result.terminated
        self.reward = self._reward_tracker.update(result.info)
        self._steps, self._return = self._steps + 1, self._return + self.reward
        self.state = StreamState.WAITING
        if ending := self._ending():
            self.state, self.played = StreamState.OVER, self.played + 1
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


def check_counts(info: Mapping[str, float], rewards: RewardTable) -> None:
    """Refuse counts that no game has: rewards for them would make losses infinite, which ends the training."""
    for item in tracked_names(rewards):
        if not abs(count := info.get(item, 0.0)) <= _MAX_COUNT:
            raise EnvLostError(f"the game counts {count:g} of {item!r}, beyond {_MAX_COUNT:g}")
