"""One supervised game: a process that plays, and what is done when it hangs, dies or talks nonsense."""

import json
import math
import mmap
import os
import signal
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

from vpt_jax.actions import BUTTONS
from vpt_jax.envs.reaper import MARK, end_marked

_SERVER = Path(__file__).with_name("game_server.py")
_LONGEST_ANSWER = 1 << 20  # bytes
_LARGEST_PICTURE = 1 << 26
_LAST_WORDS = 2000  # bytes of what a dead game printed
_FAREWELL = 5.0  # seconds for a game to end by itself


class GameLostError(Exception):
    """A game hung, died or answered nonsense; the message says which, and has its last words."""


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
        self._picture: UInt8[np.ndarray, "h w 3"] | None = None
        self._socket, theirs = socket.socketpair()
        self._picture_file, self._output = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - see `kill`
        self.mark = mark
        descriptors = theirs.fileno(), self._picture_file.fileno()
        self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the config names
            [game.python or sys.executable, str(_SERVER), *map(str, descriptors)],
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, pass_fds=descriptors,
            start_new_session=True, env=os.environ | {MARK: mark},
        )  # fmt: skip
        theirs.close()
        self._socket.setblocking(False)
        self._ask({"make": game.make, "arguments": dict(game.arguments)}, game.patience.start)

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
        while b"\n" in self._buffer:
            line, self._buffer = self._buffer.split(b"\n", 1)
            if (message := self._read(line)) != {}:
                return self._take(message)
        if len(self._buffer) > _LONGEST_ANSWER:
            raise GameLostError(f"the game's answer is longer than {_LONGEST_ANSWER} bytes")
        if time.monotonic() > self.deadline:
            raise GameLostError(f"the game did not answer for {time.monotonic() - self._asked:.1f} s")
        return None

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """What the game shows: a view of memory that it writes to in the next step."""
        if self._picture is None:
            raise GameLostError("the game has shown nothing yet")
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
        """End the game and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        end_marked(self.mark)
        self._picture = None
        for held in (self._socket, self._picture_file, self._output):
            held.close()

    def _ask(self, message: dict[str, Any], seconds: float) -> None:
        self._asked = time.monotonic()
        self._heard = self._heard and self._asked  # hearts beat from the first sign of life on
        self._due = self._asked + seconds
        with suppress(OSError):  # the game is gone, as `poll` will find
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self) -> None:
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

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            message = json.loads(line)
        except ValueError:
            raise GameLostError(f"the game answered {line[:200]!r}, which is no JSON") from None
        if not isinstance(message, dict):
            raise GameLostError(f"the game answered {line[:200]!r}, which is no JSON object")
        if "error" in message:
            raise GameLostError(f"the game failed: {str(message['error'])[-_LAST_WORDS:]}")
        return message

    def _take(self, message: dict[str, Any]) -> Answer:
        if "shape" in message:
            self._map_picture(message["shape"])
            return Answer({})
        info: Any = message.get("info")
        endings = [message.get(name, False) for name in ("terminated", "truncated")]
        if not _is_info(info) or not all(isinstance(ending, bool) for ending in endings):
            raise GameLostError(f"the game answered nonsense: {str(message)[:200]}")
        return Answer(info, *endings)

    def _map_picture(self, shape: Any) -> None:
        whole = isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
        if not whole or shape[2] != 3 or math.prod(shape) > _LARGEST_PICTURE:
            raise GameLostError(f"the game's pictures have the shape {str(shape)[:200]}, not [height, width, 3]")
        if os.fstat(self._picture_file.fileno()).st_size < math.prod(shape):
            raise GameLostError("the game left no room for its picture")
        pixels = mmap.mmap(self._picture_file.fileno(), math.prod(shape), prot=mmap.PROT_READ)
        self._picture = np.frombuffer(pixels, np.uint8).reshape(shape)

    def _last_words(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        words = os.pread(self._output.fileno(), _LAST_WORDS, max(size - _LAST_WORDS, 0)).decode(errors="replace")
        return f"; its last words: {words.strip()}" if words.strip() else ""


def _is_info(info: Any) -> bool:
    """Names with finite numbers."""
    return isinstance(info, dict) and all(isinstance(x, int | float) and abs(x) < math.inf for x in info.values())
