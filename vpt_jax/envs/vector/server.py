"""Serves one game to `game_client.py`, in a process of its own.

    python game_server.py CHANNEL PICTURE

Arguments are two inherited descriptors: a socket, and a file for the picture, which this side maps and the other reads.
A message is a line of JSON, and the picture is in the file before the answer is sent. Every message has a "number" that
its answer repeats, so no answer is taken for another's:

    {"make": "module:function", "arguments": {...}}            -> {"shape": [height, width, 3]}
    {"reset": seed}                                            -> {"info": {name: number}}
    {"step": {"keys": [name, ...], "camera": [pitch, yaw]}}    -> {"info": ..., "terminated": ..., "truncated": ...}
    anything that fails                                        -> {"error": text}, and the process ends

`{}` comes every second, whatever the game does: the process is alive. The end of the socket ends the game. The function
makes a Gymnasium environment whose actions are MineRL's key dict. This file runs under any Python from 3.8 that has
NumPy, since a game may need an old one: MineRL does.
"""

import importlib
import json
import mmap
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np

BEAT = 1.0  # seconds
KEYS = (
    "ESC", "attack", "back", "drop", "forward", *(f"hotbar.{slot}" for slot in range(1, 10)), "inventory", "jump",
    "left", "pickItem", "right", "sneak", "sprint", "swapHands", "use",
)  # fmt: skip


class Channel:
    """Lines of JSON to and from the client; the heart beats in a thread of its own."""

    def __init__(self, connection):
        self._connection, self._lines, self._lock = connection, connection.makefile("rb"), threading.Lock()
        threading.Thread(target=self._beat, daemon=True).start()

    def __iter__(self):
        return (json.loads(line) for line in self._lines)

    def send(self, message):
        """Raises OSError when the client is gone."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _beat(self):
        pause = threading.Event()
        while not pause.wait(BEAT):
            try:
                self.send({})
            except OSError:
                return


class Server:
    """One environment, and what it answers."""

    def __init__(self, picture_file):
        self._file = picture_file
        self._env: Any = None

    def answer(self, message):
        """What to say to a message."""
        if "make" in message:
            return self._make(message["make"], message["arguments"])
        if "reset" in message:
            observation, info = self._env.reset(seed=message["reset"])
            self._show(observation)
            return {"info": numbers(info)}
        observation, _, terminated, truncated, info = self._env.step(action_of(message["step"]))
        self._show(observation)
        return {"info": numbers(info), "terminated": bool(terminated), "truncated": bool(truncated)}

    def close(self):
        """End the game."""
        if self._env is not None:
            self._env.close()

    def _make(self, name, arguments):
        module, _, function = name.partition(":")
        self._env = getattr(importlib.import_module(module), function)(**arguments)
        shape = self._env.observation_space["pov"].shape
        os.ftruncate(self._file, int(np.prod(shape)))
        self._picture = np.frombuffer(mmap.mmap(self._file, 0), np.uint8).reshape(shape)
        return {"shape": list(shape)}

    def _show(self, observation):
        self._picture[:] = observation["pov"]


def action_of(step):
    """The key dict: keys that are held, and the camera's degrees."""
    held = dict.fromkeys(step["keys"], 1)
    return {**dict.fromkeys(KEYS, 0), **held, "camera": np.array(step["camera"], np.float32)}


def numbers(info):
    """What of `info` is a number."""
    return {name: float(value) for name, value in info.items() if isinstance(value, (int, float, np.number))}


def serve(channel, server):
    """Answer until the client is gone."""
    try:
        for message in channel:
            channel.send({**server.answer(message), "number": message["number"]})
    except (BrokenPipeError, ConnectionResetError):
        pass
    except Exception:
        channel.send({"error": traceback.format_exc()})
        raise
    finally:
        server.close()


if __name__ == "__main__":
    # This file's own folder would hide packages that a game needs; the library's comes last, for the same reason.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    for descriptor in sys.argv[1:]:
        os.set_inheritable(int(descriptor), False)  # or the socket would stay open while what the game starts lives
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), Server(int(sys.argv[2])))
