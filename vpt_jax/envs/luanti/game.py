"""Life cycle of a Luanti process on its own virtual screen, and exchange of state with the mod inside it."""

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
from vpt_jax.system.errors import UserError

HEIGHT, WIDTH = 360, 640  # of the window: a common recording size, which two cores render in real time
DEGREES_PER_PIXEL = 0.15  # the view turns by this for each pixel of the mouse, as in Minecraft
KEYS = {  # name in actions: X keysym, Luanti's key, Luanti's function
    "forward": ("w", "KEY_KEY_W", "forward"), "back": ("s", "KEY_KEY_S", "backward"),
    "left": ("a", "KEY_KEY_A", "left"), "right": ("d", "KEY_KEY_D", "right"),
    "jump": ("space", "KEY_SPACE", "jump"), "sneak": ("Shift_L", "KEY_LSHIFT", "sneak"),
    "sprint": ("Control_L", "KEY_LCONTROL", "aux1"), "drop": ("q", "KEY_KEY_Q", "drop"),
    "inventory": ("e", "KEY_KEY_E", "inventory"),
} | {f"hotbar.{slot}": (str(slot), f"KEY_KEY_{slot}", f"slot{slot}") for slot in range(1, 10)}  # fmt: skip

_TIMEOUT, _MAX_ATTEMPTS = 60.0, 3  # seconds, of a start or a reset; starts
_RENDER_SECONDS, _STABLE_DIFFERENCE = 5.0, 0.5  # wait at most so long for a mean pixel change below this
_MOD = resources.files("vpt_jax.envs.luanti") / "mod"
_SETTINGS = {
    "bind_address": "127.0.0.1",
    "server_announce": False,
    "enable_remote_media_server": False,
    "dedicated_server_step": 0.025,  # seconds between two reports of the mod
    "max_block_send_distance": 4,  # map blocks of 16 nodes
    "max_block_generate_distance": 4,
    "fixed_map_seed": 1,  # one world for all; episodes differ in their place
    "mapgen_limit": 31000,
    "screen_w": WIDTH,
    "screen_h": HEIGHT,
    "fps_max": 50,  # an action waits for one frame and shows in the next, both within a step
    "viewing_range": 42,
    "enable_shaders": False,
    "enable_sound": False,
    "pause_on_lost_focus": False,
    "mouse_sensitivity": DEGREES_PER_PIXEL,
} | {f"keymap_{function}": key for _, key, function in KEYS.values()}
_WORLD = {  # kept in memory
    "gameid": "minetest", "backend": "dummy", "player_backend": "dummy", "mod_storage_backend": "dummy",
    "auth_backend": "sqlite3",
}  # fmt: skip


class LuantiError(UserError, RuntimeError):
    """Luanti did not start, has ended, or does not answer; the message holds the end of its log."""


def check_installed() -> None:
    """Raise a RecordError with the install command if Luanti or Xvfb is missing."""
    missing = [name for name, path in {"minetest": _program(), "xvfb": shutil.which("Xvfb")}.items() if not path]
    if missing:
        raise RecordError(f"Luanti needs programs that are not installed: apt-get install {' '.join(missing)}")


def _program() -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/games"])  # of Debian
    return shutil.which("minetest", path=path)


class LuantiProcess:
    """Running Luanti process; `screen` is its screen, keyboard and mouse. Close it after use.

    Raises:
        LuantiError: it does not start.
    """

    def __init__(self):
        self._scratch = Path(tempfile.mkdtemp(prefix="vpt_luanti_"))
        self._watchdog = watchdog.watch(self._scratch.name, self._scratch)  # before there is anything to clean up
        self._episode = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.screen = Screen(HEIGHT, WIDTH, self._scratch.name)
        try:
            self._start()
            self._wait_for_mouse()
        except BaseException:
            self.close()
            raise

    def state(self) -> dict[str, float]:
        """Returns the last report of the mod: the player's position, view, health, items and counters."""
        self.check()
        return json.loads(self._state_file.read_text())

    def reset(self, seed: int, inventory: Mapping[str, int]) -> None:
        """Move the player to the open ground selected by `seed`, with exactly these items.

        Raises:
            LuantiError: it takes too long, or the game has ended.
        """
        self._episode += 1
        items = [f"{name} {number}" for name, number in inventory.items()]
        command = {"episode": self._episode, "seed": seed, "inventory": items}
        _atomic_write(self._world / "reset.json", json.dumps(command))
        self._wait(lambda: self.state()["episode"] == self._episode, "the reset")

    def wait_for_stable_frame(self) -> None:
        """Wait until the frame hardly changes, when the world around the player is loaded and rendered."""
        deadline = time.monotonic() + _RENDER_SECONDS
        stable, before = 0, self.screen.screenshot().astype(np.int16)
        while stable < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.screen.screenshot().astype(np.int16)
            stable = stable + 1 if np.abs(now - before).mean() < _STABLE_DIFFERENCE else 0
            before = now

    def check(self) -> None:
        """Raise a LuantiError if the game has ended."""
        if self._process is None or self._process.poll() is not None:
            raise LuantiError(f"Luanti has ended; the end of its log:\n{self._log_tail()}")

    def close(self) -> None:
        """End the game and remove its files."""
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
        for attempt in range(_MAX_ATTEMPTS):
            process = self._launch()
            try:
                self._wait(self._state_file.exists, "a player in the world")
                break
            except LuantiError:  # perhaps another program took the port in between
                if process.poll() is None or attempt + 1 == _MAX_ATTEMPTS:
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

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
        return "(nothing)"

    def _wait(self, condition: Callable[[], bool], event: str) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise LuantiError(f"Luanti did not reach {event} in {_TIMEOUT:.0f} s:\n{self._log_tail()}")
            time.sleep(0.02)

    def _wait_for_mouse(self) -> None:
        """Focus the window, and move the mouse until the game reacts: earlier input is lost."""
        self._wait(self.screen.focus_window, "a window")
        yaw = self.state()["yaw"]

        def turned() -> bool:
            self.screen.move(10, 0)
            time.sleep(0.1)
            return self.state()["yaw"] != yaw

        self._wait(turned, "a frame")


def _free_port() -> int:
    """Returns a free UDP port; it may be taken before Luanti binds it, so starting is retried."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _lines(settings: Mapping[str, object]) -> str:
    """Formats a settings file of Luanti."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in settings.items()}
    return "".join(f"{name} = {text}\n" for name, text in texts.items())


def _atomic_write(file: Path, text: str) -> None:
    """Atomic write: a concurrent reader gets either the old or the new content."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)
