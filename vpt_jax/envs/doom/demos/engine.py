"""dsda-doom, the engine that replays demos: drawn frames from a pipe, and the trace of all players. No display needed.

The engine writes raw frames to the standard input of a command of its configuration, which it starts with a shell. Ours
is fixed text without any name of a file: it reports its process and waits, and this program reads its input.
Configuration and working files are in a temporary folder that is the engine's home, so it neither reads nor changes a
user's or the machine's settings. The engine is a C program that is not confined: draw only demos and WADs that you
trust.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import BinaryIO

import numpy as np

from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.lump import Demo, with_view
from vpt_jax.envs.doom.demos.trace import Trace, read_trace
from vpt_jax.envs.processes import watchdog
from vpt_jax.video import Frame

# Sizes that the engine draws as they are: it enlarges frames that are smaller than 640x480.
SIZES = ((854, 480), (1280, 720), (1920, 1080))
_GAMES = "/usr/games"  # where Debian installs games
FIRST_FRAME = 1  # frame 0 is black: the engine copies no picture to the screen while it changes to the level
_START_SECONDS, _SECONDS_PER_TIC = 60.0, 1.0  # time limits, for machines that are busy with other things
_PIPE_BYTES = 2**20
# It ends with the engine ($PPID), and reads nothing.
_VIDEO_COMMAND = "echo $$ %wx%h >/dev/fd/{}; while kill -0 $PPID; do sleep 1; done"
_HUD = "doom full\nbig_health 2 20 bottom_left\nbig_ammo 270 20 bottom_right\n\ndoom ex\n\ndoom off\n"
_SETTINGS = {
    "videomode": '"Software"',
    "uncapped_framerate": 0,  # frames are the states after whole tics
    "render_wipescreen": 0,
    "screenblocks": 11,  # the view fills the screen, without the status bar
    "hud_displayed": 1,
    "hudadd_crosshair": 1,  # as ViZDoom
    "hudadd_demoprogressbar": 0,
    "hudadd_secretarea": 0,
    "show_messages": 0,
    "dsda_show_level_splits": 0,
    "dsda_show_demo_attempts": 0,
    "cap_fps": 35,
    "cap_wipescreen": 0,
    "cap_remove_tempfiles": 0,
    "cap_soundcommand": '"exec cat >/dev/null"',
    "cap_muxcommand": '"exec true"',
}


def program() -> tuple[str, Path]:
    """Returns the paths of dsda-doom and of the folder with its own WAD.

    Raises:
        DemoError: it is not installed; the message has the command.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), _GAMES])
    found = shutil.which("dsda-doom", path=path)
    if not found:
        raise DemoError("demos are drawn by dsda-doom, which is not installed: apt-get install dsda-doom")
    return found, Path(found).resolve().parents[1] / "share" / "dsda-doom"


def trace(demo: Demo, game: Path, additions: Sequence[Path], source: str) -> Trace:
    """Replay a demo without drawing it (a fraction of a second), and return where its players were.

    Args:
        demo: the demo.
        game: the WAD file of the game (IWAD).
        additions: WAD files to load on top of it.
        source: the demo's name in errors.

    Raises:
        DemoError: the engine is missing, or does not replay it.
    """
    with _scratch(demo.data, {}) as scratch:
        process = _start(scratch, game, additions, ["-nodraw", "-export_ghost", "trace"], ())
        with _time_limit(process, demo):
            process.wait()
        file = scratch / "trace.gst"
        if not file.is_file() or file.stat().st_size < 8:
            raise DemoError(f"dsda-doom did not replay {source}; the end of its log:\n{_log_tail(scratch)}")
        return read_trace(file.read_bytes(), demo, source)


def draw(demo: Demo, player: int, game: Path, additions: Sequence[Path], width: int, source: str) -> Generator[Frame]:
    """Draw a demo: yields what a player saw after the commands of each tic; the first frame is black (FIRST_FRAME).

    Args:
        demo: the demo.
        player: whose view, of `demo.players`.
        game: the WAD file of the game (IWAD).
        additions: WAD files to load on top of it.
        width: of the frames, one of `SIZES`.
        source: the demo's name in errors.

    Raises:
        DemoError: the engine is missing, draws another size, or ends before the demo.
    """
    height = dict(SIZES)[width]
    reader, writer = os.pipe()
    settings: dict[str, object] = {
        "screen_resolution": f'"{width}x{height}"',
        "cap_videocommand": f'"{_VIDEO_COMMAND.format(writer)}"',
    }
    with os.fdopen(reader, "rb") as report, _scratch(with_view(demo, player), settings) as scratch:
        try:
            process = _start(scratch, game, additions, ["-viddump", "film"], (writer,))
        finally:
            os.close(writer)  # so that the report ends with the engine
        with _time_limit(process, demo), _frame_pipe(report, f"{width}x{height}", source, scratch) as pipe:
            for number in range(len(demo.moves)):
                if (frame := _read_frame(pipe, height, width)) is None:
                    problem = f"dsda-doom ended at tic {number} of {source}"
                    raise DemoError(f"{problem}; the end of its log:\n{_log_tail(scratch)}")
                yield frame


@contextmanager
def _frame_pipe(report: BinaryIO, size: str, source: str, scratch: Path) -> Iterator[BinaryIO]:
    """The pipe with the frames: the standard input of the command that reports its process and the size."""
    process, _, drawn = report.readline(64).decode("ascii", errors="replace").strip().partition(" ")
    if drawn != size or not process.isdecimal():
        problem = f"dsda-doom draws {source} at {drawn!a}, not {size}"
        raise DemoError(f"{problem}; the end of its log:\n{_log_tail(scratch)}")
    with open(f"/proc/{process}/fd/0", "rb") as pipe:
        with contextlib.suppress(OSError):  # there are limits for all pipes of a user
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # fewer switches between the two programs
        yield pipe


def _read_frame(pipe: BinaryIO, height: int, width: int) -> Frame | None:
    data = pipe.read(height * width * 3)
    return np.frombuffer(data, np.uint8).reshape(height, width, 3) if len(data) == height * width * 3 else None


@contextmanager
def _scratch(lump: bytes, settings: dict[str, object]) -> Iterator[Path]:
    """A temporary folder with the demo and the configuration; its end also ends the engine."""
    scratch = Path(tempfile.mkdtemp(prefix="vpt_dsda_"))
    guard = watchdog.watch(scratch.name, scratch)  # before there is anything to clean up
    try:
        (scratch / "demo.lmp").write_bytes(lump)
        (scratch / "hud.txt").write_text(_HUD)
        lines = (f"{name} {value}\n" for name, value in (_SETTINGS | settings).items())
        (scratch / "engine.cfg").write_text("".join(lines))
        yield scratch
    finally:
        guard.communicate()


def _start(
    scratch: Path, game: Path, additions: Sequence[Path], flags: Sequence[str], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    engine, data = program()
    files = ["-file", *(str(path.resolve()) for path in additions)] if additions else []
    command = [
        engine, "-config", str(scratch / "engine.cfg"), "-hud", str(scratch / "hud.txt"), "-iwad", str(game.resolve()),
        *files, "-timedemo", "demo.lmp", "-nosound", "-noautoload", *flags,
    ]  # fmt: skip
    environment = {
        "HOME": str(scratch), "PATH": os.defpath, "DOOMWADDIR": str(data), "SDL_VIDEODRIVER": "dummy",
        "SDL_AUDIODRIVER": "dummy",
    }  # fmt: skip
    with (scratch / "log.txt").open("wb") as log:
        return subprocess.Popen(  # noqa: S603
            command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            pass_fds=descriptors, start_new_session=True,
        )  # fmt: skip


@contextmanager
def _time_limit(process: subprocess.Popen[bytes], demo: Demo) -> Iterator[None]:
    """Kill the engine after a generous time, and at the end of the block."""
    timer = Timer(_START_SECONDS + _SECONDS_PER_TIC * len(demo.moves), process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def _log_tail(scratch: Path) -> str:
    text = (scratch / "log.txt").read_bytes()[-4000:].decode(errors="replace")
    return "\n".join(text.splitlines()[-8:])
