"""The process in which the checkpoints of a training run play: it never delays, and never ends, the training.

It runs `commands/follow.py` on the CPU, with the lowest priority. Its standard input is a pipe, whose end, which a kill
of the training brings as well, ends it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from ml_collections import ConfigDict

from vpt_jax.configs import evaluate
from vpt_jax.parallel import log
from vpt_jax.programs.follow import FINISHED
from vpt_jax.system.errors import ConfigError

_ROOT = Path(__file__).parents[2]  # of the package
_EXIT_SECONDS = 10.0


@contextmanager
def checkpoint_play(config: ConfigDict) -> Iterator[Callable[[], None]]:
    """Starts the process, if `config.play.game` is set, on the first host; it ends with the block.

    Yields:
        Function that waits until all checkpoints have played, to be called after the last step. On several hosts it
        does not wait, since the others would wait for this one.

    Raises:
        ConfigError: there is no such game.
    """
    play = config.get("play")  # inverse dynamics models do not play
    if play and play.game and play.game not in evaluate.VARIANTS:
        choices = ", ".join(evaluate.VARIANTS)
        raise ConfigError(f"config.play.game is {play.game!r}; choose one of {choices}, or leave it empty")
    if not (play and play.game) or jax.process_index() > 0:
        yield lambda: None
        return
    output = Path(config.workdir) / "play.log"
    log(f"checkpoints play {play.game} in a process of their own: {output.with_suffix('.html')}, {output}")
    with output.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603
            _command(config),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C is for the training, which ends it
        )
    ended = threading.Event()  # the block
    reporter = threading.Thread(target=_report_failure, args=(process, output, ended), daemon=True)
    reporter.start()
    try:
        yield lambda: _finish(process, reporter)
    finally:
        ended.set()
        _close(process)


def _command(config: ConfigDict) -> list[str]:
    flags = [f"workdir={config.workdir}", "wait", *config.play.settings]
    module = [sys.executable, "-m", "vpt_jax.commands.follow", f"--config=follow:{config.play.game}"]
    return [*module, *(f"--config.{flag}" for flag in flags)]


def _environment() -> dict[str, str]:
    """The accelerator is the training's: the games' policies run on the CPU."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}


def _report_failure(process: subprocess.Popen[bytes], output: Path, ended: threading.Event) -> None:
    if (status := process.wait()) and not ended.is_set():
        log(
            f"the play of checkpoints has ended with status {status}, and training continues. {output} has the reason; "
            "launch/follow.py plays the remaining ones"
        )


def _finish(process: subprocess.Popen[bytes], reporter: threading.Thread) -> None:
    if jax.process_count() > 1:
        log("launch/follow.py plays the checkpoints that have not played")
        return
    if process.poll() is None:
        log("waiting until the last checkpoints have played; after Ctrl-C, the same command resumes")
    if process.stdin:
        with suppress(OSError):  # it has ended
            process.stdin.write(FINISHED.encode())
            process.stdin.flush()
    reporter.join()


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with suppress(OSError):
            process.stdin.close()
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
