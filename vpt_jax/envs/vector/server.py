"""Environment server: runs one game in its own process for the client in `client.py`.

    python server.py CHANNEL FRAME

Arguments are two inherited file descriptors: a socket, and a file for the frame, which the server memory-maps and the
client reads. A message is a line of JSON, and the frame is in the file before the answer is sent. Every message has a
"number" that its answer repeats, so that answers cannot be confused:

    {"make": "module:function", "arguments": {...}, "keys": [name, ...]}    -> {"shape": [height, width, 3]}
    {"reset": seed}                                            -> {"info": {name: number}}
    {"step": {"keys": [held, ...], "camera": [pitch, yaw]}}    -> {"info": ..., "terminated": ..., "truncated": ...}
    anything that fails                                        -> {"error": text}, and the process ends

`{}` is the heartbeat: it is sent every second, whatever the game does. When the socket is closed, the game ends. The
function makes a Gymnasium environment whose actions are a dict of all `keys`, 0 or 1, and `camera`. This file runs
under any Python from 3.8 that has NumPy, since a game may need an old interpreter, as MineRL does.
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

HEARTBEAT_SECONDS = 1.0


class Channel:
    """JSON lines to and from the client; a thread of its own sends the heartbeat."""

    def __init__(self, connection):
        self._connection, self._lines, self._lock = connection, connection.makefile("rb"), threading.Lock()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()

    def __iter__(self):
        return (json.loads(line) for line in self._lines)

    def send(self, message):
        """Send one message. Raises OSError when the client has closed the connection."""
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _send_heartbeats(self):
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_SECONDS):
            try:
                self.send({})
            except OSError:
                return


class EnvServer:
    """One environment, and its answers to messages; the frame goes to `frame_file`."""

    def __init__(self, frame_file):
        self._file = frame_file
        self._env: Any = None
        self._keys: Any = ()

    def answer(self, message):
        """Returns the answer to a message."""
        if "make" in message:
            self._keys = message["keys"]
            return self._make(message["make"], message["arguments"])
        if "reset" in message:
            observation, info = self._env.reset(seed=message["reset"])
            self._write_frame(observation)
            return {"info": numeric_info(info)}
        observation, _, terminated, truncated, info = self._env.step(action_dict(self._keys, message["step"]))
        self._write_frame(observation)
        return {"info": numeric_info(info), "terminated": bool(terminated), "truncated": bool(truncated)}

    def close(self):
        """Close the environment."""
        if self._env is not None:
            self._env.close()

    def _make(self, name, arguments):
        module, _, function = name.partition(":")
        self._env = getattr(importlib.import_module(module), function)(**arguments)
        shape = self._env.observation_space["pov"].shape
        os.ftruncate(self._file, int(np.prod(shape)))
        self._frame = np.frombuffer(mmap.mmap(self._file, 0), np.uint8).reshape(shape)
        return {"shape": list(shape)}

    def _write_frame(self, observation):
        self._frame[:] = observation["pov"]


def action_dict(keys, step):
    """Action dict of a step message: 1 for held keys, 0 for the others, and the movement of the axes."""
    held = dict.fromkeys(step["keys"], 1)
    return {**dict.fromkeys(keys, 0), **held, "camera": np.array(step["camera"], np.float32)}


def numeric_info(info):
    """The entries of `info` that are numbers, as float."""
    return {name: float(value) for name, value in info.items() if isinstance(value, (int, float, np.number))}


def serve(channel, server):
    """Answer messages until the client closes the connection."""
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
    # The folder of this file would shadow packages that a game needs; the library's comes last, for the same reason.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    for descriptor in sys.argv[1:]:
        os.set_inheritable(int(descriptor), False)  # or child processes of the game would keep the socket open
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), EnvServer(int(sys.argv[2])))
