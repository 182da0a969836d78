"""Client of one environment in a subprocess: requests, timeouts, heartbeat, and validation of every message.

No message can end the calling program: one that does not answer the current request, is too long, nested too deeply or
out of range raises `EnvLostError`. The frame is copied out of a file that the game may write, shrink or grow at any
time; it is never memory-mapped, since reading a mapped page that was truncated kills the reader (SIGBUS).
"""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.envs.processes import supervisor
from vpt_jax.envs.processes.reaper import MARK, kill_marked
from vpt_jax.system.errors import MissingFileError, UserError
from vpt_jax.system.printable import printable

_SERVER = Path(__file__).with_name("server.py")
_MAX_MESSAGE_BYTES = 1 << 20
_MAX_FRAME_BYTES = 1 << 26
_MAX_SIDE_PIXELS = 1 << 13
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_INFO_ENTRIES, _MAX_NAME_LENGTH = 10_000, 200  # of an info dict; in characters
_MAX_OUTPUT_BYTES = 1 << 26  # of a game's stdout and stderr that are kept on disk
_OUTPUT_TAIL_BYTES = 2000  # of a dead game's output that are quoted
_HEARTBEAT = b"{}"  # shows that the process is alive; answers no request
_EXIT_SECONDS = 5.0  # that a game has to exit by itself


class EnvLostError(UserError):
    """A game hung, died or sent an invalid message; the error text names which, with the end of the game's output."""


@dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds, after which a game that does not answer counts as lost."""

    start: float = 60.0
    reset: float = 60.0
    step: float = 10.0
    heartbeat: float = 15.0  # since the last message of its process, of any kind


@dataclass(frozen=True)
class EnvSpec:
    """Specification of an environment: `make` is "module:function", imported and called by the interpreter `python`."""

    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # JSON-serializable
    python: str = ""  # with packages of its own; empty: the one of this program, on whichever machine
    timeouts: Timeouts = Timeouts()
    space: ActionSpace = MINERL  # of the actions


class StepResult(NamedTuple):
    """Answer of a game to a reset or a step."""

    info: dict[str, float]
    terminated: bool = False
    truncated: bool = False


class EnvClient:
    """Client of one game process. Send one request at a time, then `poll` until its answer has come.

    After `poll` has raised `EnvLostError`, call `kill`: no other method may be used.
    """

    def __init__(self, spec: EnvSpec, mark: str):
        """Starts the process; it can be reset once `poll` has returned an answer.

        `mark` tags the process and its children for clean-up (`reaper.py`).
        """
        self._timeouts, self._buffer, self._last_received = spec.timeouts, b"", 0.0
        self._number = 0  # of the request; its answer repeats it
        self._frame: UInt8[np.ndarray, "h w 3"] | None = None
        self._socket, server_socket = socket.socketpair()
        self._frame_file, self._output = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - see `kill`
        self.mark = mark
        self._process = self._start(spec.python or sys.executable, server_socket.fileno(), self._frame_file.fileno())
        server_socket.close()
        self._socket.setblocking(False)
        self._space = spec.space
        request = {"make": spec.make, "arguments": dict(spec.arguments), "keys": list(spec.space.env_keys)}
        self._send(request, spec.timeouts.start)

    def _start(self, python: str, *descriptors: int) -> subprocess.Popen[bytes]:
        """Starts the supervisor process, which starts the game."""
        if shutil.which(python) is None:
            raise MissingFileError(f"the game's Python interpreter (config.game.python): there is no program {python}")
        request = {
            "command": [python, str(_SERVER), *map(str, descriptors)],
            "descriptors": descriptors,
            "environment": {MARK: self.mark},
        }
        process = subprocess.Popen(  # noqa: S603 - a program of this library
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, pass_fds=descriptors,
            start_new_session=True,
        )  # fmt: skip
        with suppress(OSError):  # it has ended: `poll` raises
            process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return process

    def fileno(self) -> int:
        """File descriptor for `select`: readable when there is something to poll."""
        return self._socket.fileno()

    @property
    def deadline(self) -> float:
        """Time (`time.monotonic`) at which the game counts as lost if no further message comes."""
        if not self._last_received:
            return self._answer_due
        return min(self._answer_due, self._last_received + self._timeouts.heartbeat)

    def reset(self, seed: int) -> None:
        """Request a new episode."""
        self._send({"reset": seed}, self._timeouts.reset)

    def step(self, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        """Request one step with these keys held and these movements of the axes (MineRL: pitch, yaw in degrees)."""
        keys = [name for name, held in zip(self._space.keys, buttons, strict=True) if held]
        self._send({"step": {"keys": keys, "camera": [float(moved) for moved in camera]}}, self._timeouts.step)

    def poll(self) -> StepResult | None:
        """Returns the answer if it has come, else None; the answer to construction has an empty `info`.

        Raises:
            EnvLostError: the game hung, died or sent an invalid message.
        """
        self._receive()
        *lines, self._buffer = self._buffer.split(b"\n")
        answer = None
        for line in lines:
            if line == _HEARTBEAT:
                continue
            if answer is not None:
                raise EnvLostError(f"invalid message from the game process: {line[:200]!r} is a second answer")
            answer = self._parse(line)
        if answer is not None:
            return answer
        if len(self._buffer) > _MAX_MESSAGE_BYTES:
            raise EnvLostError(f"the game's answer is longer than {_MAX_MESSAGE_BYTES} bytes")
        if time.monotonic() > self.deadline:
            raise EnvLostError(f"the game did not answer for {time.monotonic() - self._sent_at:.1f} s")
        return None

    def frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the current frame: a copy, which the next call overwrites.

        Raises:
            EnvLostError: there is no frame yet, or the game has truncated or locked its file.
        """
        if self._frame is None:
            raise EnvLostError("the game has sent no frame yet")
        pixels, done = self._frame.data.cast("B"), 0
        try:
            while done < len(pixels):
                more = os.preadv(self._frame_file.fileno(), [pixels[done:]], done)
                if not more:
                    raise EnvLostError("the file of the game's frame is shorter than the frame")
                done += more
        except OSError as error:  # from flags that the game has set on the file
            raise EnvLostError(f"the game's frame cannot be read: {error}") from error
        return self._frame

    def request_exit(self) -> None:
        """Request that the game exits by itself."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the game exit by itself, and kill it if it does not."""
        self.request_exit()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Kill the game with all its child processes (`supervisor.py` defines which those are)."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(2 * supervisor.GRACE_SECONDS + supervisor.KILL_SECONDS)
        except subprocess.TimeoutExpired:  # the game has stopped the supervisor (SIGSTOP)
            self._process.kill()
            self._process.wait()
        kill_marked(self.mark)
        self._frame = None
        for resource in (self._socket, self._frame_file, self._output):
            resource.close()

    def _send(self, message: dict[str, Any], seconds: float) -> None:
        self._sent_at, self._number = time.monotonic(), self._number + 1
        self._last_received = self._last_received and self._sent_at  # the heartbeat is due from the first message on
        self._answer_due = self._sent_at + seconds
        with suppress(OSError):  # the game has ended: `poll` raises
            self._socket.sendall(json.dumps({**message, "number": self._number}).encode() + b"\n")

    def _receive(self) -> None:
        self._limit_output()
        try:
            received = self._socket.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise EnvLostError(f"the connection to the game was lost: {error}{self._output_tail()}") from error
        if not received:
            raise EnvLostError(f"the game's process ended{self._output_tail()}")
        self._last_received = time.monotonic()
        self._buffer += received

    def _parse(self, line: bytes) -> StepResult:
        """Parse and validate the answer to the last request."""
        quoted = f"{line[:200]!r}"
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise EnvLostError(f"invalid message from the game process: {quoted} is not JSON") from None
        if not isinstance(message, dict):
            raise EnvLostError(f"invalid message from the game process: {quoted} is not a JSON object")
        if isinstance(text := message.get("error"), str):
            raise EnvLostError(f"the game failed: {printable(text[-_OUTPUT_TAIL_BYTES:], lines=True)}")
        if type(number := message.get("number")) is not int or number != self._number:
            raise EnvLostError(f"invalid message from the game process: {quoted} answers no request")
        if self._frame is None:
            self._frame = np.zeros(_shape(message.get("shape"), quoted), np.uint8)
            return StepResult({})
        endings = [message.get(name, False) for name in ("terminated", "truncated")]
        if not all(isinstance(ending, bool) for ending in endings):
            raise EnvLostError(f"invalid message from the game process: {quoted}")
        return StepResult(_info(message.get("info"), quoted), *endings)

    def _limit_output(self) -> None:
        """Truncate the game's output file if it has grown too large: only its end is used."""
        if os.fstat(self._output.fileno()).st_blocks * 512 > _MAX_OUTPUT_BYTES:
            os.ftruncate(self._output.fileno(), 0)  # the game continues writing at its offset, which leaves a hole

    def _output_tail(self) -> str:
        start = max(os.fstat(self._output.fileno()).st_size - _OUTPUT_TAIL_BYTES, 0)
        output = os.pread(self._output.fileno(), _OUTPUT_TAIL_BYTES, start).decode(errors="replace")
        tail = printable(output.strip("\0 \n\t\r"), lines=True)
        return f"; the end of its output: {tail}" if tail else ""


def _shape(shape: Any, quoted: str) -> list[int]:
    """Validates the frame shape `[height, width, 3]`."""
    valid = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not valid or shape[2] != 3 or max(shape) > _MAX_SIDE_PIXELS or math.prod(shape) > _MAX_FRAME_BYTES:
        raise EnvLostError(f"the shape of the game's frames is not [height, width, 3]: {quoted}")
    return shape


def _info(info: Any, quoted: str) -> dict[str, float]:
    """Validates `info`: printable names with numbers in the range of float32."""
    valid = isinstance(info, dict) and len(info) <= _MAX_INFO_ENTRIES
    if not valid or not all(_is_valid_name(name) and _is_valid_number(number) for name, number in info.items()):
        raise EnvLostError(f"invalid message from the game process: its info does not map names to numbers: {quoted}")
    return {name: float(number) for name, number in info.items()}


def _is_valid_name(name: str) -> bool:
    return len(name) <= _MAX_NAME_LENGTH and name.isprintable()


def _is_valid_number(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) <= _FLOAT32_MAX
