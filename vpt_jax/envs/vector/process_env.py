"""A single environment in a process of its own, for programs that step one game, such as one with another Python."""

import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from vpt_jax.envs.processes.reaper import start_reaper
from vpt_jax.envs.vector.client import EnvClient, EnvLostError, EnvSpec, Results, StepResult
from vpt_jax.video import Frame


class ProcessEnv:
    """Environment in a process of its own, with Gymnasium's `reset`, `step` and `close`; a lost game is not restarted.

    Keys that no model predicts (ESC, pickItem, swapHands) are not passed on. No process of the game outlives this
    program.

    Raises:
        EnvLostError: the game does not start; the message has its reason.
    """

    def __init__(self, spec: EnvSpec):
        mark = f"{uuid.uuid4().hex}."
        self._client: EnvClient | None = None
        self._space = spec.space
        self._reaper = start_reaper(mark)
        try:
            self._client = EnvClient(spec, f"{mark}0.")
        except BaseException:
            self._release()
            raise
        self._answer(self._client)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Frame], dict[str, float]]:
        """Start an episode from `seed` (0 to 2**63 - 1) or at random; returns the observation and `info`.

        Raises:
            EnvLostError: the game hung, died or sent an invalid message, or has been closed.
        """
        client = self._running()
        client.reset(0, secrets.randbits(31) if seed is None else seed)
        client.send()
        result = self._result(client)
        return {"pov": client.frames[0].copy()}, result.info

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, Frame], float, bool, bool, dict[str, float]]:
        """Carry out one step of the space's action dict. The reward is 0. Raises as `reset`."""
        client = self._running()
        client.step(0, *self._space.from_env(action))
        client.send()
        result = self._result(client)
        return {"pov": client.frames[0].copy()}, 0.0, result.terminated, result.truncated, result.info

    def close(self) -> None:
        """End the game."""
        if self._client:
            self._client.close()
            self._release()

    def _running(self) -> EnvClient:
        if self._client is None:
            raise EnvLostError("the game has been closed, or was lost: make it again")
        return self._client

    def _result(self, client: EnvClient) -> StepResult:
        (result,) = self._answer(client)
        return result if isinstance(result, StepResult) else StepResult({})  # there is one, since one was requested

    def _answer(self, client: EnvClient) -> Results:
        """Wait for the answer to the last request."""
        with self._killed_if_lost(client):
            while (results := client.poll()) is None:
                wait([client.fileno()], max(client.deadline - time.monotonic(), 0.0) + 0.001)
            return results

    @contextmanager
    def _killed_if_lost(self, client: EnvClient) -> Iterator[None]:
        try:
            yield
        except EnvLostError:
            client.kill()
            self._release()
            raise

    def _release(self) -> None:
        self._client = None
        self._reaper.communicate()
