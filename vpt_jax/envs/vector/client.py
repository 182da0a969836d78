"""Client of the games of one subprocess: requests, timeouts, heartbeat, and validation of every message.

No message can end the calling program: one that does not answer the current request, is too long, nested too deeply or
out of range raises `EnvLostError`. Results are copied out of a file, the block, that the games may write, shrink or
grow at any time; it is never memory-mapped here, since reading a mapped page that was truncated kills the reader
(SIGBUS).
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
from collections.abc import Mapping, Sequence
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
from vpt_jax.envs.vector import server
from vpt_jax.system.errors import MissingFileError, UserError
from vpt_jax.system.printable import printable

_SERVER = Path(server.__file__)
_MAX_MESSAGE_BYTES = 1 << 20
_MAX_FRAME_BYTES = 1 << 26
_MAX_SIDE_PIXELS = 1 << 13
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MAX_NAME_LENGTH = 200  # of a number in `info`, in characters
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
    games_per_process: int = 1  # at most, in a pool; one after the other carries out its action
    one_core: bool = False  # a process of a pool that uses all cores stays on one: for games that need no more


class StepResult(NamedTuple):
    """Answer of a game to a reset or a step."""

    info: dict[str, float]
    terminated: bool = False
    truncated: bool = False


Results = Sequence[StepResult | EnvLostError | None]  # by game; an error: the game is to be made anew


class EnvClient:
    """Client of one process with `games` games. `send` one request at a time, then `poll` until its answer has come.

    Before `send`, `reset` and `step` add what single games are to do. After `poll` has raised `EnvLostError`, call
    `kill`: no other method may be used.
    """

    def __init__(self, spec: EnvSpec, mark: str, games: int = 1, core: int | None = None):
        """Starts the process; its games can be reset once `poll` has returned an answer.

        Args:
            spec: of the games.
            mark: tags the process and its children for clean-up (`reaper.py`).
            games: their number.
            core: on which the process and its children run; None: on any.
        """
        self._timeouts, self._buffer, self._last_received = spec.timeouts, b"", 0.0
        self._number = 0  # of the request; its answer repeats it
        self._answers: np.ndarray | None = None  # of `server.answer_type`; None until the games are made
        self._names: list[list[str]] = [[]] * games
        self._values = np.zeros(0)
        self._socket, server_socket = socket.socketpair()
        self._block, self._output = _memory_file(), tempfile.TemporaryFile()  # noqa: SIM115 - see `kill`
        self.mark = mark
        self._process = self._start(spec.python or sys.executable, server_socket.fileno(), self._block.fileno())
        server_socket.close()
        self._socket.setblocking(False)
        space = spec.space
        self._requests = np.zeros((), server.request_type(games, len(space.keys), len(space.axes)))
        self._seconds = 0.0  # that the requests may take
        message = {
            "make": spec.make, "arguments": dict(spec.arguments), "games": games, "keys": space.keys,
            "unpredicted": space.unpredicted, "axes": len(space.axes), "core": core, "number": 1,
        }  # fmt: skip
        self._send(json.dumps(message).encode(), games * spec.timeouts.start)

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

    def reset(self, game: int, seed: int, renew: bool = False) -> None:
        """Add to the next request: a new episode of a game (0 to 2**63 - 1); `renew` makes the game anew before it."""
        self._add(game, server.RENEW if renew else server.RESET, self._timeouts.reset + renew * self._timeouts.start)
        self._requests["seed"][game] = seed

    def step(self, game: int, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        """Add to the next request: a step with these keys held and movements of the axes (MineRL: pitch, yaw)."""
        self._add(game, server.STEP, self._timeouts.step)
        self._requests["keys"][game], self._requests["camera"][game] = buttons, camera

    def send(self) -> None:
        """Send the request with what has been added since the last one."""
        self._requested = self._requests["operation"].tolist()
        with suppress(OSError):  # no space, or flags that a game has set on the file: it does not answer
            os.pwrite(self._block.fileno(), self._requests.tobytes(), 0)
        self._send(b"%d" % (self._number + 1), self._seconds)
        self._requests["operation"], self._seconds = server.NOTHING, 0.0

    def poll(self) -> Results | None:
        """Returns the results by game if the answer has come, else None; a game without a request has none.

        The answer to construction has no results.

        Raises:
            EnvLostError: the games hung, died or sent an invalid message.
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

    @property
    def frames(self) -> UInt8[np.ndarray, "games h w 3"]:
        """The current frames; the next `poll` overwrites them."""
        if self._answers is None:
            raise EnvLostError("the game has sent no frame yet")
        return self._answers["frame"]

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
        for resource in (self._socket, self._block, self._output):
            resource.close()

    def _add(self, game: int, operation: int, seconds: float) -> None:
        self._requests["operation"][game] = operation
        self._seconds += seconds

    def _send(self, line: bytes, seconds: float) -> None:
        self._sent_at, self._number = time.monotonic(), self._number + 1
        self._last_received = self._last_received and self._sent_at  # the heartbeat is due from the first message on
        self._answer_due = self._sent_at + seconds
        with suppress(OSError):  # the process has ended: `poll` raises
            self._socket.sendall(line + b"\n")

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

    def _parse(self, line: bytes) -> Results:
        """Parse and validate the answer to the last request."""
        if self._answers is not None and line == b"%d" % self._number:
            return self._results()
        quoted = f"{line[:200]!r}"
        if line.isdigit():
            raise EnvLostError(f"invalid message from the game process: {quoted} answers no request")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise EnvLostError(f"invalid message from the game process: {quoted} is not JSON") from None
        if not isinstance(message, dict):
            raise EnvLostError(f"invalid message from the game process: {quoted} is not a JSON object")
        if isinstance(text := message.get("error"), str):
            raise _failure(text)
        if type(number := message.get("number")) is not int or number != self._number:
            raise EnvLostError(f"invalid message from the game process: {quoted} answers no request")
        games = len(self._names)
        if self._answers is None:
            self._answers = np.zeros((), server.answer_type(games, _shape(message.get("shape"), games, quoted)))
            return []
        self._names = _names(message.get("names"), games, quoted)
        self._values = np.zeros(sum(map(len, self._names)))
        failed = _failures(message.get("failed", {}), quoted)
        return [failed.get(str(game), result) for game, result in enumerate(self._results())]

    def _results(self) -> Results:
        """Copies the results out of the block, and validates them."""
        self._copy_block()
        if not (np.abs(self._values) <= _FLOAT32_MAX).all():
            raise EnvLostError("invalid values from the game process: its info has numbers beyond float32")
        values, results = iter(self._values.tolist()), []
        endings = self._answers["ending"].tolist()  # type: ignore[index]
        for operation, names, ending in zip(self._requested, self._names, endings, strict=True):
            info = dict(zip(names, values))  # noqa: B905 - the values of the other games follow
            terminated, truncated = bool(ending & server.TERMINATED), bool(ending & server.TRUNCATED)
            results.append(StepResult(info, terminated, truncated) if operation else None)
        return results

    def _copy_block(self) -> None:
        """Reads endings, frames and values."""
        buffers, offset = [_bytes_of(self._answers), _bytes_of(self._values)], server.ANSWERS
        left = sum(map(len, buffers))
        try:
            while left:
                count = os.preadv(self._block.fileno(), buffers, offset)
                if not count:
                    raise EnvLostError("the file of the game's frame is shorter than the frame")
                offset, left = offset + count, left - count
                buffers = [buffers[0][count:], buffers[1][max(count - len(buffers[0]), 0) :]]
        except OSError as error:  # from flags that the game has set on the file
            raise EnvLostError(f"the game's frame cannot be read: {error}") from error

    def _limit_output(self) -> None:
        """Truncate the game's output file if it has grown too large: only its end is used."""
        if os.fstat(self._output.fileno()).st_blocks * 512 > _MAX_OUTPUT_BYTES:
            os.ftruncate(self._output.fileno(), 0)  # the game continues writing at its offset, which leaves a hole

    def _output_tail(self) -> str:
        start = max(os.fstat(self._output.fileno()).st_size - _OUTPUT_TAIL_BYTES, 0)
        output = os.pread(self._output.fileno(), _OUTPUT_TAIL_BYTES, start).decode(errors="replace")
        tail = printable(output.strip("\0 \n\t\r"), lines=True)
        return f"; the end of its output: {tail}" if tail else ""


def _memory_file() -> Any:
    """An unnamed file in memory; where there is none (other systems than Linux), on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("vpt_jax"), "r+b")
    return tempfile.TemporaryFile()


def _bytes_of(array: Any) -> memoryview:
    """View of an array's bytes."""
    return memoryview(array.reshape(-1).view(np.uint8))


def _shape(shape: Any, games: int, quoted: str) -> list[int]:
    """Validates the frame shape `[height, width, 3]`."""
    valid = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not valid or shape[2] != 3 or max(shape) > _MAX_SIDE_PIXELS or games * math.prod(shape) > _MAX_FRAME_BYTES:
        raise EnvLostError(f"the shape of the game's frames is not [height, width, 3]: {quoted}")
    return shape


def _failure(text: str) -> EnvLostError:
    return EnvLostError(f"the game failed: {printable(text[-_OUTPUT_TAIL_BYTES:], lines=True)}")


def _failures(failed: Any, quoted: str) -> dict[str, EnvLostError]:
    """Validates the failures of single games, by their number as text."""
    if not isinstance(failed, dict) or not all(isinstance(text, str) for text in failed.values()):
        raise EnvLostError(f"invalid message from the game process: {quoted}")
    return {game: _failure(text) for game, text in failed.items()}


def _names(names: Any, games: int, quoted: str) -> list[list[str]]:
    """Validates the names of the numbers in `info`, by game: printable, and each once."""
    valid = isinstance(names, list) and len(names) == games and all(isinstance(of_game, list) for of_game in names)
    if not valid or not all(_are_valid_names(of_game) for of_game in names):
        raise EnvLostError(f"invalid message from the game process: its info does not map names to numbers: {quoted}")
    return names


def _are_valid_names(names: list[Any]) -> bool:
    valid = all(isinstance(name, str) and len(name) <= _MAX_NAME_LENGTH and name.isprintable() for name in names)
    return valid and len(names) <= server.MAX_VALUES and len({*names}) == len(names)
