"""One supervised game: a process that plays, and what is done when it hangs, dies or sends invalid messages.

No message ends the program: what is no answer to the question that was asked, is too long, too deep or out of range, is
a `GameLostError`. The picture is copied out of a file that the game may write, shrink or grow at any time; it is never
mapped, since reading a mapped page that has been cut off kills the reader (SIGBUS).
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

from vpt_jax.actions import BUTTONS
from vpt_jax.envs.processes import supervisor
from vpt_jax.envs.processes.reaper import MARK, end_marked
from vpt_jax.system.printable import printable

_SERVER = Path(__file__).with_name("server.py")
_LONGEST_ANSWER = 1 << 20  # bytes
_LARGEST_PICTURE = 1 << 26
_LONGEST_SIDE = 1 << 13  # pixels
_LARGEST_NUMBER = float(np.finfo(np.float32).max)
_MOST_NUMBERS, _LONGEST_NAME = 10_000, 200  # of an info; characters
_LARGEST_OUTPUT = 1 << 26  # bytes of what a game prints that are kept on disk
_LAST_WORDS = 2000  # bytes of what a dead game printed
_BEAT = b"{}"  # a sign of life, and no answer
_FAREWELL = 5.0  # seconds for a game to end by itself


class GameLostError(Exception):
    """A game hung, died or sent an invalid message; the message says which, and has its last words."""


@dataclass(frozen=True)
class Patience:
    """Seconds until a game that does not answer counts as lost."""

    start: float = 60.0
    reset: float = 60.0
    step: float = 10.0
    beat: float = 15.0  # since its process last showed any sign of life


@dataclass(frozen=True)
class Game:
    """How a game is made: `make` is "module:function", which `python` (with its own packages) imports and calls."""

    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what JSON can hold
    python: str = ""  # empty: the one that runs this program, on whichever machine
    patience: Patience = Patience()


class Answer(NamedTuple):
    """What a game says of a reset or a step."""

    info: dict[str, float]
    terminated: bool = False
    truncated: bool = False


class GameClient:
    """A game's process. Ask it for one thing at a time, then `poll` until the answer is there.

    When `poll` raises `GameLostError`, `kill` is what is left to do.
    """

    def __init__(self, game: Game, mark: str):
        """Starts the process; it can be reset once `poll` has answered. `mark` says whose it is (`reaper.py`)."""
        self._patience, self._buffer, self._heard = game.patience, b"", 0.0
        self._number = 0  # of the question; its answer has the same
        self._picture: UInt8[np.ndarray, "h w 3"] | None = None
        self._socket, theirs = socket.socketpair()
        self._picture_file, self._output = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - see `kill`
        self.mark = mark
        self._process = self._start(game.python or sys.executable, theirs.fileno(), self._picture_file.fileno())
        theirs.close()
        self._socket.setblocking(False)
        self._ask({"make": game.make, "arguments": dict(game.arguments)}, game.patience.start)

    def _start(self, python: str, *descriptors: int) -> subprocess.Popen[bytes]:
        """Starts the game's supervisor, which starts the game."""
        if shutil.which(python) is None:
            raise FileNotFoundError(f"config.game.python: there is no program {python}")
        order = {
            "command": [python, str(_SERVER), *map(str, descriptors)],
            "descriptors": descriptors,
            "environment": {MARK: self.mark},
        }
        process = subprocess.Popen(  # noqa: S603 - a program of ours
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, pass_fds=descriptors,
            start_new_session=True,
        )  # fmt: skip
        with suppress(OSError):  # it is gone, as `poll` will find
            process.stdin.write(json.dumps(order).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        return process

    def fileno(self) -> int:
        """For `select`: readable when there is something to poll."""
        return self._socket.fileno()

    @property
    def deadline(self) -> float:
        """When, by `time.monotonic`, the game is lost if nothing more is heard of it."""
        return min(self._due, self._heard + self._patience.beat) if self._heard else self._due

    def reset(self, seed: int) -> None:
        """Ask for a new episode."""
        self._ask({"reset": seed}, self._patience.reset)

    def step(self, buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"]) -> None:
        """Ask to hold keys and turn by degrees for one step."""
        keys = [name for name, held in zip(BUTTONS, buttons, strict=True) if held]
        self._ask({"step": {"keys": keys, "camera": [float(degrees) for degrees in camera]}}, self._patience.step)

    def poll(self) -> Answer | None:
        """The answer, if it has come; that of a game that has just been made is empty."""
        self._receive()
        *lines, self._buffer = self._buffer.split(b"\n")
        answer = None
        for line in lines:
            if line == _BEAT:
                continue
            if answer is not None:
                raise GameLostError(f"invalid message from the game process: {line[:200]!r} is a second answer")
            answer = self._take(line)
        if answer is not None:
            return answer
        if len(self._buffer) > _LONGEST_ANSWER:
            raise GameLostError(f"the game's answer is longer than {_LONGEST_ANSWER} bytes")
        if time.monotonic() > self.deadline:
            raise GameLostError(f"the game did not answer for {time.monotonic() - self._asked:.1f} s")
        return None

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The game's picture: a copy, which the next call overwrites."""
        if self._picture is None:
            raise GameLostError("the game has shown nothing yet")
        pixels, done = self._picture.data.cast("B"), 0
        try:
            while done < len(pixels):
                more = os.preadv(self._picture_file.fileno(), [pixels[done:]], done)
                if not more:
                    raise GameLostError("the game left no room for its picture")
                done += more
        except OSError as error:  # of flags that the game has set on the file
            raise GameLostError(f"the game's picture cannot be read: {error}") from error
        return self._picture

    def say_farewell(self) -> None:
        """Ask the game to end by itself."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the game end by itself, and kill it if it does not."""
        self.say_farewell()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        self.kill()

    def kill(self) -> None:
        """End the game and all that it has started (`supervisor.py` says what that holds)."""
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(2 * supervisor.GRACE + supervisor.LONGEST)
        except subprocess.TimeoutExpired:  # the game has stopped it
            self._process.kill()
            self._process.wait()
        end_marked(self.mark)
        self._picture = None
        for held in (self._socket, self._picture_file, self._output):
            held.close()

    def _ask(self, message: dict[str, Any], seconds: float) -> None:
        self._asked, self._number = time.monotonic(), self._number + 1
        self._heard = self._heard and self._asked  # hearts beat from the first sign of life on
        self._due = self._asked + seconds
        with suppress(OSError):  # the game is gone, as `poll` will find
            self._socket.sendall(json.dumps({**message, "number": self._number}).encode() + b"\n")

    def _receive(self) -> None:
        self._limit_output()
        try:
            received = self._socket.recv(_LONGEST_ANSWER)
        except BlockingIOError:
            return
        except OSError as error:
            raise GameLostError(f"the game is gone: {error}{self._last_words()}") from error
        if not received:
            raise GameLostError(f"the game's process ended{self._last_words()}")
        self._heard = time.monotonic()
        self._buffer += received

    def _take(self, line: bytes) -> Answer:
        """The answer to what was asked last."""
        quoted = f"{line[:200]!r}"
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise GameLostError(f"invalid message from the game process: {quoted} is no JSON") from None
        if not isinstance(message, dict):
            raise GameLostError(f"invalid message from the game process: {quoted} is no JSON object")
        if isinstance(text := message.get("error"), str):
            raise GameLostError(f"the game failed: {printable(text[-_LAST_WORDS:], lines=True)}")
        if type(number := message.get("number")) is not int or number != self._number:
            raise GameLostError(f"invalid message from the game process: nobody asked for {quoted}")
        if self._picture is None:
            self._picture = np.zeros(_shape(message.get("shape"), quoted), np.uint8)
            return Answer({})
        endings = [message.get(name, False) for name in ("terminated", "truncated")]
        if not all(isinstance(ending, bool) for ending in endings):
            raise GameLostError(f"invalid message from the game process: {quoted}")
        return Answer(_info(message.get("info"), quoted), *endings)

    def _limit_output(self) -> None:
        """Forget what the game has printed if it has become too much: it is kept for its end only."""
        if os.fstat(self._output.fileno()).st_blocks * 512 > _LARGEST_OUTPUT:
            os.ftruncate(self._output.fileno(), 0)  # the game goes on writing at its place, which leaves a hole

    def _last_words(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        words = os.pread(self._output.fileno(), _LAST_WORDS, max(size - _LAST_WORDS, 0)).decode(errors="replace")
        words = printable(words.strip("\0 \n\t\r"), lines=True)
        return f"; its last words: {words}" if words else ""


def _shape(shape: Any, quoted: str) -> list[int]:
    """Of a picture: height, width, 3."""
    whole = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not whole or shape[2] != 3 or max(shape) > _LONGEST_SIDE or math.prod(shape) > _LARGEST_PICTURE:
        raise GameLostError(f"the shape of the game's pictures is not [height, width, 3]: {quoted}")
    return shape


def _info(info: Any, quoted: str) -> dict[str, float]:
    """Names with numbers that float32 holds."""
    whole = isinstance(info, dict) and len(info) <= _MOST_NUMBERS
    if not whole or not all(_is_named(name) and _is_number(number) for name, number in info.items()):
        raise GameLostError(f"invalid message from the game process: its info is not names with numbers: {quoted}")
    return {name: float(number) for name, number in info.items()}


def _is_named(name: str) -> bool:
    return len(name) <= _LONGEST_NAME and name.isprintable()


def _is_number(number: Any) -> bool:
    return type(number) in (int, float) and abs(number) <= _LARGEST_NUMBER
