"""One process of a pool, with the games of some of its rows: requests, answers, and recovery when it is lost."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.envs.vector.client import EnvClient, EnvLostError
from vpt_jax.envs.vector.episode_stream import BUSY, EpisodeStream, StreamState
from vpt_jax.video import Frame

# Retry with exponential backoff: seconds before each retry of a process that is lost again before a step
_RETRY_PAUSES = (0.0, 0.5, 2.0, 8.0)


class GameProcess:
    """The games of `rows`, in one process, which is started when an episode begins and again when it is lost.

    Args:
        rows: whose episodes it plays.
        start: starts the process, and returns its client.
        fit_frame: resizes a frame of the game.
        episodes_per_game: number of episodes after which a game is made anew, which bounds leaks: by another process
            if it is the only game in it.
    """

    def __init__(
        self,
        rows: Sequence[EpisodeStream],
        start: Callable[[int], EnvClient],
        fit_frame: Callable[[Frame], Frame],
        episodes_per_game: int,
    ):
        self.rows, self._start_client = rows, start
        self._fit_frame, self._episodes_per_game = fit_frame, episodes_per_game
        self.client: EnvClient | None = None
        self.restart_time = 0.0  # `time.monotonic` at which a missing process is started again
        self.lost = 0  # number of games lost so far
        self._starts, self._last_error = 0, EnvLostError()
        self._pending = False  # an answer is awaited

    @property
    def busy(self) -> bool:
        """True if a row waits for the process."""
        return any(row.state in BUSY for row in self.rows)

    def send(self, buttons: UInt8[np.ndarray, "n keys"], camera: Float[np.ndarray, "n axes"]) -> None:
        """Send the actions to the games that wait for one, and begin the episodes that are due."""
        for game, row in enumerate(self.rows):
            row.begin_step()
            if row.state is StreamState.OVER:
                row.begin_episode()
            elif self.client and row.state is StreamState.WAITING:
                row.state = StreamState.STEPPING
                self.client.step(game, buttons[game], camera[game])
        if all(row.state is StreamState.DONE for row in self.rows):
            self.close()
        else:
            self._send_requests()

    def poll(self) -> None:
        """Receive the answer if it has come; start a missing process once its retry is due."""
        if self.client is None:
            self._send_requests()
            return
        try:
            self._receive(self.client)
        except EnvLostError as error:
            self._handle_lost(self.client, error)
        self._check_failures()

    def close(self) -> None:
        """End the games."""
        if self.client:
            self.client.close()
            self.client = None

    def _send_requests(self) -> None:
        """Send what the rows need, unless an answer is awaited, or the process is missing and not due."""
        starting = [game for game, row in enumerate(self.rows) if row.state is StreamState.STARTING]
        if self._is_worn_out(starting):
            self.close()
        if self.client is None:
            if starting and time.monotonic() >= self.restart_time:
                self._start()
        elif not self._pending:
            self._request(self.client, starting)

    def _is_worn_out(self, starting: Sequence[int]) -> bool:
        """Return True if the only game is due to be made anew."""
        return len(self.rows) == len(starting) == 1 and self.rows[0].played >= self._episodes_per_game

    def _request(self, client: EnvClient, starting: Sequence[int]) -> None:
        for game in starting:
            row = self.rows[game]
            renew = row.played >= self._episodes_per_game
            row.state, row.played = StreamState.RESETTING, 0 if renew else row.played
            client.reset(game, row.seed, renew)
        if self.busy:
            client.send()
            self._pending = True

    def _start(self) -> None:
        self._starts += 1
        self.client, self._pending = self._start_client(self._starts), True
        for row in self.rows:
            row.played = 0

    def _receive(self, client: EnvClient) -> None:
        if (results := client.poll()) is None:
            return
        self._pending = False
        for row, result, frame in zip(self.rows, results, client.frames, strict=False):  # none, once it has started
            if isinstance(result, EnvLostError):
                self._lose(row, result)
                row.played = self._episodes_per_game  # the game is made anew
            elif result is not None:
                row.receive(result, self._fit_frame(frame))
        self._send_requests()

    def _handle_lost(self, client: EnvClient, error: EnvLostError) -> None:
        """Crash recovery: kill the process; its restart is at once, or later (with backoff) if it keeps failing."""
        client.kill()
        self.client, self._pending = None, False
        for row in self.rows:
            if row.state is not StreamState.DONE:
                self._lose(row, error)
        failures = max(row.failures for row in self.rows)
        if self.busy and failures <= len(_RETRY_PAUSES):
            self.restart_time = time.monotonic() + _RETRY_PAUSES[failures - 1]

    def _lose(self, row: EpisodeStream, error: EnvLostError) -> None:
        row.lose(str(error))
        self.lost += 1
        self._last_error = error

    def _check_failures(self) -> None:
        if any(row.failures > len(_RETRY_PAUSES) for row in self.rows):
            tries = len(_RETRY_PAUSES) + 1
            raise EnvLostError(f"a game could not play a step in {tries} tries: {self._last_error}")
