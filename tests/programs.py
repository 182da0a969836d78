"""Programs of `launch/` as processes that start quickly.

A start from the shell spends six seconds importing JAX, Orbax, TFDS and Matplotlib. Here a server process (Python's
`forkserver`) has imported them once and has started no JAX backend; a program is a fork of it, with its own session,
environment, standard output and exit status, so signals, kills and resuming work as for any process.
`tests/test_programs.py` and the tests of `launch/pods` start some by `python launch/...` as well.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
_server = forkserver.ForkServer()  # not that of `multiprocessing`, which the library itself uses
_server.set_forkserver_preload(["tests.preloaded"])


class _Popen(popen_forkserver.Popen):
    def _launch(self, process: BaseProcess) -> None:
        with patch.object(forkserver, "connect_to_new_process", _server.connect_to_new_process):
            super()._launch(process)


class _Process(BaseProcess):
    _start_method = "forkserver"

    @staticmethod
    def _Popen(process: BaseProcess) -> _Popen:  # noqa: N802 - multiprocessing's name
        return _Popen(process)


def xla_flags(devices: int) -> str:
    """XLA's flags for tests: simulated devices, and code that LLVM does not optimize: compiling takes most of the
    suite's time, half of it in LLVM. `make test-all` tests optimized code: it sets `VPT_TEST_OPTIMIZED`."""
    level = "" if os.environ.get("VPT_TEST_OPTIMIZED") else " --xla_backend_optimization_level=0"
    return f"--xla_force_host_platform_device_count={devices}{level}"


def run(name: str, *flags: str, status: int = 0, timeout: float = 300, **environment: str) -> str:
    """Output of `launch/NAME.py` on both streams; fails unless it ends with `status` within `timeout` seconds."""
    program = Program(name, list(flags), os.environ | environment)
    try:
        program.wait(timeout)
    finally:
        program.kill()
    assert program.returncode == status, program.output()[-4000:]
    return program.output()


@cache
def _outputs() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="vpt_jax-outputs-")  # removed when this process ends


class Program:
    """A running program of `launch/`, with the part of `subprocess.Popen`'s interface that tests use."""

    def __init__(self, name: str, flags: list[str], environment: Mapping[str, str]):
        handle, path = tempfile.mkstemp(dir=_outputs().name)
        os.close(handle)
        self._output = Path(path)
        arguments = (f"launch/{name}.py", flags, dict(environment), str(self._output))
        self._process = _Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.pid, timeout, self.output())
        return self.returncode

    def output(self) -> str:
        """All that it has printed so far, on both streams."""
        return self._output.read_text(errors="replace")

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        self.wait(timeout)
        return self.output(), None


def _run(program: str, flags: list[str], environment: dict[str, str], output: str) -> None:
    """Runs the program in the forked process, and ends with it."""
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [program, *flags]
    sys.path.insert(0, str(ROOT / "launch"))
    assert "tests.preloaded" in sys.modules, "the server could not import it: python -c 'import tests.preloaded'"
    try:
        runpy.run_path(program, run_name="__main__")
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # multiprocessing leaves by os._exit
