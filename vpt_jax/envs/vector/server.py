"""Environment server: runs the games of one process for the client in `client.py`.

    python server.py CHANNEL BLOCK

Arguments are two inherited file descriptors: a socket, and a file, the block, which the server memory-maps and the
client reads and writes. A message is a line: JSON, or a number alone. Every message has a number, that of the request,
which its answer repeats, so that answers cannot be confused:

    {"make": "module:function", "arguments": {...}, "games": n, "keys": [...], "unpredicted": [...], "axes": n,
     "core": number or null}
                               -> {"shape": [height, width, 3]}, and the block has its size
    NUMBER                     -> NUMBER: the requests in the block are carried out, and the answers are in it
                               -> {"names": [[name, ...] for each game], "failed": {game: text}}: the same, with new
                                  names of the values, and the games that failed in their step: they must be made anew
    anything that fails        -> {"error": text}, and the process ends

The block holds the arrays of `request_type`, at `ANSWERS` those of `answer_type`, and after them the numbers of every
game's `info` as float64, game after game, in the order of the last names. So a step of all games costs two short
messages, and a frame is written once.

`{}` is the heartbeat: it is sent every second, whatever the games do. When the socket is closed, the games end. The
function makes a Gymnasium environment whose actions are a dict of all `keys` and `unpredicted` keys, 0 or 1, and
`camera`. This file runs under any Python from 3.8 that has NumPy, since a game may need an old interpreter, as MineRL
does.
"""

import importlib
import json
import mmap
import os
import socket
import sys
import threading
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HEARTBEAT_SECONDS = 1.0
ANSWERS = 1 << 16  # offset of the answers in the block
MAX_VALUES = 10_000  # of a game's `info`

# What a game is to do. RENEW makes it anew before the reset, which bounds its leaks.
NOTHING, STEP, RESET, RENEW = range(4)
# Bits of the ending of a step.
TERMINATED, TRUNCATED = 1, 2


def request_type(games, keys, axes):
    """NumPy type of the requests of all games: operation, seed of a reset, keys and movement of a step."""
    fields = ("operation", "u1", (games,)), ("seed", "i8", (games,)), ("keys", "u1", (games, keys))
    return np.dtype([*fields, ("camera", "f4", (games, axes))])


def answer_type(games, shape):
    """NumPy type of the answers of all games: ending of the step, and frame; its size is a multiple of 8 bytes."""
    padding = -games * (1 + int(np.prod(shape))) % 8
    return np.dtype([("ending", "u1", (games,)), ("frame", "u1", (games, *shape)), ("padding", "u1", (padding,))])


class Channel:
    """Lines to and from the client; a thread of its own sends the heartbeat."""

    def __init__(self, connection):
        self._connection, self._lines, self._lock = connection, connection.makefile("rb"), threading.Lock()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()

    def __iter__(self):
        return self._lines

    def send(self, line):
        """Send one line. Raises OSError when the client has closed the connection."""
        with self._lock:
            self._connection.sendall(line + b"\n")

    def _send_heartbeats(self):
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_SECONDS):
            try:
                self.send(b"{}")
            except OSError:
                return


class EnvServer:
    """The environments of a process, and its answers to messages; `file` is the block."""

    def __init__(self, file):
        self._file = file
        self._envs: Any = []
        self._names: Any = []

    def answer(self, line):
        """Returns the answer to a message."""
        if line.strip().isdigit():
            return self._carry_out(int(line))
        message = json.loads(line)
        return encode({"shape": self._make(message), "number": message["number"]})

    def close(self):
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _make(self, message):
        module, _, function = message["make"].partition(":")
        self._make_env = partial(getattr(importlib.import_module(module), function), **message["arguments"])
        self._keys, self._unpredicted = message["keys"], dict.fromkeys(message["unpredicted"], 0)
        games = message["games"]
        if message["core"] is not None:
            os.sched_setaffinity(0, {message["core"]})  # of the processes that the games start as well
        for _ in range(games):
            self._envs.append(self._make_env())
        shape = list(self._envs[0].observation_space["pov"].shape)
        requests, answers = request_type(games, len(self._keys), message["axes"]), answer_type(games, shape)
        os.ftruncate(self._file, ANSWERS + answers.itemsize + 8 * games * MAX_VALUES)
        block = mmap.mmap(self._file, 0)
        self._requests = np.ndarray((), requests, block)
        self._answers = np.ndarray((), answers, block, ANSWERS)
        self._values = np.ndarray(games * MAX_VALUES, np.float64, block, ANSWERS + answers.itemsize)
        self._infos: Any = [{}] * games
        return shape

    def _carry_out(self, number):
        """Carry out the requests, and write their results; returns the answer."""
        failed = {}
        for game, operation in enumerate(self._requests["operation"].tolist()):
            if operation == STEP:
                failed.update(self._try_step(game))
            elif operation != NOTHING:
                self._reset(game, operation)
        names = [list(info) for info in self._infos]
        values = [value for info in self._infos for value in info.values()]
        self._values[: len(values)] = values
        if names == self._names and not failed:
            return b"%d" % number
        self._names = names
        return encode({"names": names, "failed": failed, "number": number})

    def _try_step(self, game):
        """Carry out a step; returns the failure by game, if others share the process: they go on."""
        try:
            self._step(game)
        except Exception:
            if len(self._envs) == 1:
                raise
            self._infos[game] = {}
            return {str(game): traceback.format_exc()}
        return {}

    def _step(self, game):
        held, camera = self._requests["keys"][game].tolist(), self._requests["camera"][game].copy()
        action = action_dict(self._keys, held, self._unpredicted, camera)
        observation, _, terminated, truncated, info = self._envs[game].step(action)
        self._write(game, observation, info, TERMINATED * bool(terminated) + TRUNCATED * bool(truncated))

    def _reset(self, game, operation):
        if operation == RENEW:
            self._envs[game].close()
            self._envs[game] = self._make_env()
        observation, info = self._envs[game].reset(seed=int(self._requests["seed"][game]))
        self._write(game, observation, info, 0)

    def _write(self, game, observation, info, ending):
        self._answers["frame"][game] = observation["pov"]
        self._answers["ending"][game] = ending
        self._infos[game] = numeric_info(info)


def action_dict(keys, held, unpredicted, camera):
    """Action dict: 1 for held keys, 0 for the others, and the movement of the axes."""
    return {**unpredicted, **dict(zip(keys, held)), "camera": camera}  # noqa: B905 - Python 3.8 has no `strict`


def numeric_info(info):
    """The entries of `info` that are numbers, as float."""
    return {name: float(value) for name, value in info.items() if isinstance(value, (int, float, np.number))}


def encode(message):
    """JSON line of a message."""
    return json.dumps(message).encode()


def serve(channel, server):
    """Answer messages until the client closes the connection."""
    try:
        for line in channel:
            channel.send(server.answer(line))
    except (BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        channel.send(encode({"error": traceback.format_exc()}))
        raise
    finally:
        server.close()


if __name__ == "__main__":
    # The folder of this file would shadow packages that a game needs; the library's comes last, for the same reason.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    for descriptor in sys.argv[1:]:
        os.set_inheritable(int(descriptor), False)  # or child processes of the games would keep the socket open
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), EnvServer(int(sys.argv[2])))
