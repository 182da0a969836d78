"""Starting and ending Luanti on a screen of its own, and talking with our mod inside it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from vpt_jax.envs import RecordError
from vpt_jax.envs.luanti.screen import Screen
from vpt_jax.envs.processes import watchdog

HEIGHT, WIDTH = 360, 640  # of the window: what people record, and what two cores can draw in time
DEGREES_PER_PIXEL = 0.15  # the view turns by this for each pixel of the mouse, as in Minecraft
KEYS = {  # ours, X's, Luanti's, and what Luanti does with it
    "forward": ("w", "KEY_KEY_W", "forward"), "back": ("s", "KEY_KEY_S", "backward"),
    "left": ("a", "KEY_KEY_A", "left"), "right": ("d", "KEY_KEY_D", "right"),
    "jump": ("space", "KEY_SPACE", "jump"), "sneak": ("Shift_L", "KEY_LSHIFT", "sneak"),
    "sprint": ("Control_L", "KEY_LCONTROL", "aux1"), "drop": ("q", "KEY_KEY_Q", "drop"),
    "inventory": ("e", "KEY_KEY_E", "inventory"),
} | {f"hotbar.{slot}": (str(slot), f"KEY_KEY_{slot}", f"slot{slot}") for slot in range(1, 10)}  # fmt: skip

_PATIENCE, _ATTEMPTS = 60.0, 3  # seconds to start, or to reset
_DRAWING_SECONDS, _CALM = 5.0, 0.5  # how long to wait for a picture that changes by less than this, on average
_MOD = resources.files("vpt_jax.envs.luanti") / "mod"
_SETTINGS = {
    "bind_address": "127.0.0.1",
    "server_announce": False,
    "enable_remote_media_server": False,
    "dedicated_server_step": 0.025,  # seconds between two reports of our mod
    "max_block_send_distance": 4,  # map blocks of 16 nodes
    "max_block_generate_distance": 4,
    "fixed_map_seed": 1,  # one world for all: where in it an episode plays is what differs
    "mapgen_limit": 31000,
    "screen_w": WIDTH,
    "screen_h": HEIGHT,
    "fps_max": 50,  # an action waits for one frame and is seen in the next, both within a step
    "viewing_range": 42,
    "enable_shaders": False,
    "enable_sound": False,
    "pause_on_lost_focus": False,
    "mouse_sensitivity": DEGREES_PER_PIXEL,
} | {f"keymap_{does}": key for _, key, does in KEYS.values()}
_WORLD = {  # kept in memory
    "gameid": "minetest", "backend": "dummy", "player_backend": "dummy", "mod_storage_backend": "dummy",
    "auth_backend": "sqlite3",
}  # fmt: skip


class GameError(RuntimeError):
    """Luanti did not start, or ended, or does not answer; the message holds the end of its log."""


def check_installed() -> None:
    """Raise a RecordError that says what to install, where Luanti or Xvfb is missing."""
    missing = [name for name, path in {"minetest": _program(), "xvfb": shutil.which("Xvfb")}.items() if not path]
    if missing:
        raise RecordError(f"Luanti needs programs that are not here: apt-get install {' '.join(missing)}")


def _program() -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/games"])  # where Debian has it
    return shutil.which("minetest", path=path)


class Game:
    """A running Luanti; `screen` is its screen, keyboard and mouse. Close it after use.

    Raises:
        GameError: it does not start.
    """

    def __init__(self):
        self._scratch = Path(tempfile.mkdtemp(prefix="vpt_luanti_"))
        self._watchdog = watchdog.watch(self._scratch.name, self._scratch)  # before there is anything to end
        self._episode = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.screen = Screen(HEIGHT, WIDTH, self._scratch.name)
        try:
            self._start()
            self._wake_mouse()
        except BaseException:
            self.close()
            raise

    def state(self) -> dict[str, float]:
        """What our mod reported last: the player's position, view, health, items and counters."""
        self.check()
        return json.loads(self._state_file.read_text())

    def reset(self, seed: int, inventory: Mapping[str, int]) -> None:
        """Move the player to the open ground that belongs to `seed`, with these items and nothing else.

        Raises:
            GameError: it takes too long, or the game has ended.
        """
        self._episode += 1
        items = [f"{name} {number}" for name, number in inventory.items()]
        command = {"episode": self._episode, "seed": seed, "inventory": items}
        _replace(self._world / "reset.json", json.dumps(command))
        self._wait(lambda: self.state()["episode"] == self._episode, "the reset")

    def wait_for_picture(self) -> None:
        """Wait until the picture hardly changes: the world around the player is there and drawn."""
        deadline = time.monotonic() + _DRAWING_SECONDS
        calm, before = 0, self.screen.picture().astype(np.int16)
        while calm < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.screen.picture().astype(np.int16)
            calm = calm + 1 if np.abs(now - before).mean() < _CALM else 0
            before = now

    def check(self) -> None:
        """Raise a GameError if the game has ended."""
        if self._process is None or self._process.poll() is not None:
            raise GameError(f"Luanti has ended; the last it said:\n{self._last_words()}")

    def close(self) -> None:
        """End the game and remove what it leaves behind."""
        self.screen.disconnect()
        self._watchdog.communicate()
        for process in (self._process, self.screen.server):
            if process is not None:
                process.wait()

    @property
    def _world(self) -> Path:
        return self._scratch / "world"

    @property
    def _state_file(self) -> Path:
        return self._world / "state.json"

    def _start(self) -> None:
        for attempt in range(_ATTEMPTS):
            process = self._launch()
            try:
                self._wait(self._state_file.exists, "a player in the world")
                break
            except GameError:  # another program took the port in between, perhaps
                if process.poll() is None or attempt + 1 == _ATTEMPTS:
                    raise

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = _SETTINGS | {"port": _free_port()}
        (self._scratch / "minetest.conf").write_text(_lines(settings))
        shutil.rmtree(self._world, ignore_errors=True)
        shutil.copytree(str(_MOD), self._world / "worldmods/vpt_jax")
        (self._world / "world.mt").write_text(_lines(_WORLD))
        self._process = subprocess.Popen(  # noqa: S603
            [str(_program()), "--go", "--config", str(self._scratch / "minetest.conf"), "--world", str(self._world),
             "--logfile", str(self._log), "--name", "player", "--port", str(settings["port"])],
            env=os.environ | {"DISPLAY": self.screen.name, "HOME": str(self._scratch), "LP_NUM_THREADS": "2"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return self._process

    @property
    def _log(self) -> Path:
        return self._scratch / "minetest.log"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return "(nothing)"

    def _wait(self, happened: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not happened():
            self.check()
            if time.monotonic() > deadline:
                raise GameError(f"Luanti did not come to {what} in {_PATIENCE:.0f} s:\n{self._last_words()}")
            time.sleep(0.02)

    def _wake_mouse(self) -> None:
        """Give the window the keyboard, and move the mouse until the game heeds it: what comes before is lost."""
        self._wait(self.screen.focus_window, "a window")
        yaw = self.state()["yaw"]

        def turned() -> bool:
            self.screen.move(10, 0)
            time.sleep(0.1)
            return self.state()["yaw"] != yaw

        self._wait(turned, "a picture")


def _free_port() -> int:
    """A port that nothing uses now; something may by the time Luanti wants it, so starting is tried again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _lines(settings: Mapping[str, object]) -> str:
    """A settings file of Luanti's."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return "".join(f"{name} = {text}\n" for name, text in texts.items())


def _replace(file: Path, text: str) -> None:
    """Write the file as a whole: who reads it sees all or nothing."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)
