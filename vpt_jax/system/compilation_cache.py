"""Compilation cache on disk: compiled programs of earlier starts, by JAX's keys; errors of the disk never end a run.

An entry is executable code, and loading it runs it with the rights of the user: a folder that others may write is not
used, and programs that read models of other people keep theirs in the user's own cache folder.

JAX's own folder cache writes its entries in place, so that a kill or a full disk leaves a truncated entry, which is
then reported at every start and never replaced; and its limit of size needs a lock file, so a folder that is read-only
could not be read. Here an entry is one file, written under a temporary name and renamed, that starts with the SHA-256
of the rest. XLA compiles for the features of this machine's CPU: programs for CPUs are in a folder for each kind.
"""

import hashlib
import os
import platform
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vpt_jax.system.workers import temporary_path

FIELD = "compilation_cache"  # of configs
AUTO = "auto"
VARIABLE = "VPT_COMPILATION_CACHE"
MAX_BYTES = 2 << 30
_SUFFIX = ".compiled"
_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size
_GPU_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")
_ABANDONED = 3600.0  # seconds without a write after which an unfinished file is that of a killed process


def use_compilation_cache(config: Any) -> Path | None:
    """Makes JAX keep compiled programs in the folder of `config.compilation_cache`, from the next compilation on.

    Does nothing if the config has no such field, or if JAX has a folder already (JAX_COMPILATION_CACHE_DIR).

    Returns:
        The folder; None: this did not set one.
    """
    if FIELD not in config:
        return None
    import jax

    if jax.config.values["jax_compilation_cache_dir"] or (folder := choose_folder(config, os.environ)) is None:
        return None
    if (reason := refusal(folder)) is not None:
        print(f"the compilation cache {folder} is not used: {reason}", file=sys.stderr, flush=True)
        return None
    folder = folder.expanduser().absolute()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # else a start compiles all short ones
    # What XLA has measured on a GPU (autotuning) is kept in the same folder. XLA fails if it cannot write there; and
    # JAX before 0.12 makes the folder's path a part of every key, so that hosts must have it at the same path.
    if not any(map(find_spec, _GPU_PLUGINS)) or not _is_writable(folder):
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    _install(folder)
    return folder


def choose_folder(config: Any, environment: Mapping[str, str]) -> Path | None:
    """Folder of the cache; None: no cache.

    Args:
        config: `compilation_cache` is a folder, empty for no cache, or "auto": the folder of the environment's
            VPT_COMPILATION_CACHE (empty: no cache), or `compiled` in the work directory of a training run, or the
            user's cache folder for other programs, which read models that may come from elsewhere.
        environment: variables.
    """
    folder = config[FIELD]
    if folder == AUTO:
        folder = environment.get(VARIABLE, AUTO)
    if folder != AUTO:
        return Path(folder) if folder else None
    if config.get("workdir") and "optimizer" in config:  # a training run
        return Path(config.workdir, "compiled")
    user_cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache, "vpt_jax", "compiled")


def refusal(folder: Path) -> str | None:
    """Reason not to load programs from a folder; None: it may be used. A missing folder may be made.

    In a folder that exists it is made here, before it is examined: nobody else can make it in between.
    """
    try:
        folder = folder.expanduser()
        with suppress(OSError):  # it exists, or the disk is read-only, or the work directory is still to be made
            folder.mkdir(mode=0o700)
        state = folder.stat()
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        return str(error)
    if not stat.S_ISDIR(state.st_mode):
        return "it is not a folder"
    if state.st_uid not in (0, os.geteuid()):
        return "it belongs to another user, and its entries are executable code; choose config.compilation_cache"
    if state.st_mode & stat.S_IWOTH:
        return f"every user may write to it, and its entries are executable code; chmod o-w {folder}"
    return None


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = temporary_path(folder / "probe")
        probe.write_bytes(bytes(4096))
        probe.unlink()
    except OSError:
        return False
    return True


def _install(folder: Path) -> None:
    """Makes JAX use `FileCache`; a JAX without this interface keeps its own cache, in the same folder."""
    from jax._src import compilation_cache

    if not hasattr(compilation_cache, "get_file_cache"):
        return

    def file_cache(path: str) -> tuple[Any, str]:
        import jax

        is_cpu = jax.default_backend() == "cpu"
        return FileCache(Path(path, f"cpu-{cpu_digest()}") if is_cpu else Path(path)), path

    compilation_cache.get_file_cache = file_cache
    compilation_cache.reset_cache()


def cpu_digest() -> str:
    """Short hash of the kind of CPU: model and instruction set extensions."""
    text = f"{platform.machine()} {platform.processor()}"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += "".join(sorted({line for line in lines if re.match(r"(model name|flags|Features|CPU part)\s*:", line)}))
    return _DIGEST(text.encode()).hexdigest()[:8]


class FileCache:
    """Cache of bytes by key in a folder, in JAX's interface; processes of several hosts may share it.

    A damaged entry counts as missing and is replaced. Above `max_bytes`, the entries that were not used for longest are
    removed. An error of the disk is reported once and counts as a miss.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = folder  # the name that JAX's interface gives it
        self._max_bytes, self._reported = max_bytes, False

    def get(self, key: str) -> bytes | None:
        """The value of a key; None: there is none, or it is damaged."""
        file = self._file(key)
        try:
            stored = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(error)
            return None
        digest, value = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        is_intact = digest == _DIGEST(value).digest()
        with suppress(OSError):  # a folder may be read-only
            if is_intact:
                os.utime(file)  # the time of its last use
            else:
                file.unlink()
        return value if is_intact else None

    def put(self, key: str, value: bytes) -> None:
        """Stores a value; does nothing if the disk is full or read-only."""
        file = self._file(key)
        temporary = temporary_path(file)
        try:
            if len(value) > self._max_bytes or file.exists():
                return
            self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                temporary.write_bytes(_DIGEST(value).digest() + value)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
            self._trim()
        except OSError as error:
            self._report(error)

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{_SUFFIX}"

    def _trim(self) -> None:
        """Removes the entries that were not used for longest, above the limit, and what killed processes have left."""
        entries = sorted(_entries(self._path), reverse=True)
        total = 0
        for used, size, file in entries:
            total += size
            is_abandoned = file.suffix != _SUFFIX and used < time.time() - _ABANDONED
            if total > self._max_bytes or is_abandoned:
                file.unlink(missing_ok=True)

    def _report(self, error: OSError) -> None:
        if not self._reported:
            self._reported = True
            print(
                f"the compilation cache {self._path} fails, so programs are compiled at every start: {error}",
                file=sys.stderr,
                flush=True,
            )


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of every file of a cache."""
    for file in folder.glob(f"*{_SUFFIX}*"):
        with suppress(FileNotFoundError):  # removed by another process
            state = file.stat()
            yield state.st_mtime, state.st_size, file
