"""The compilation cache: a second start compiles nothing, and no state of its folder ends a program."""

import os
import shutil
import stat
import subprocess
import sys
import time

import pytest
from ml_collections import ConfigDict

from vpt_jax.system import compilation_cache
from vpt_jax.system.compilation_cache import FileCache, choose_folder, refusal

PROGRAM = """
import sys
from ml_collections import ConfigDict
from vpt_jax.system.compilation_cache import use_compilation_cache
print("folder", use_compilation_cache(ConfigDict({"compilation_cache": sys.argv[1]})))
import jax, jax.numpy as jnp
from vpt_jax.training.compile_times import measured_compilation
with measured_compilation() as times:
    print("result", [float(jax.jit(lambda x: jnp.sin(x) * n)(jnp.ones(3)).sum()) for n in (2.0, 3.0)])
print(times.hits, "of", times.requests, times)
"""


def start(cache, prefix=(), **environment):
    """Output of a program that compiles, and its warnings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    command = [*prefix, sys.executable, "-c", PROGRAM, str(cache)]
    ended = subprocess.run(
        command, env=inherited | {"JAX_PLATFORMS": "cpu"} | environment, text=True, capture_output=True, check=True
    )
    assert "result [5.0488" in ended.stdout
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with the programs of `PROGRAM`."""
    folder = tmp_path_factory.mktemp("cache") / "compiled"
    shown, warnings = start(folder)
    assert f"folder {folder}" in shown
    assert "\n0 of " in shown
    assert not warnings
    return folder


def entries(folder):
    return sorted(folder.rglob("*.compiled"))


def set_modes(root, folders, files):
    for path in (root, *root.rglob("*")):
        path.chmod(folders if path.is_dir() else files)


def test_a_second_start_compiles_nothing(filled):
    before = entries(filled)
    shown, _ = start(filled)
    counts = shown.splitlines()[-1].split()
    assert counts[0] == counts[2] != "0"
    assert shown.endswith("s (from the cache)\n")
    assert entries(filled) == before


def test_damaged_entries_are_compiled_again_and_replaced(filled, tmp_path):
    copy = tmp_path / "compiled"
    shutil.copytree(filled, copy)
    first, second, *_ = entries(copy)
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])  # a full disk under a program that writes in place
    flipped = bytearray(second.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    second.write_bytes(flipped)
    shown, warnings = start(copy)
    hits, _, requests, *_ = shown.splitlines()[-1].split()
    assert int(hits) == int(requests) - 2
    assert not warnings
    assert start(copy)[0].endswith("s (from the cache)\n")
    assert first.stat().st_size > len(whole) - 100


def test_a_read_only_folder_is_read_and_does_no_harm(filled, tmp_path):
    copy = tmp_path / "compiled"
    shutil.copytree(filled, copy)
    entries(copy)[0].unlink()
    entries(copy)[0].write_bytes(b"damaged")
    set_modes(copy, folders=0o500, files=0o400)
    # Root without its capabilities is bound by the modes of files.
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    shown, warnings = start(copy, prefix)
    hits, _, requests, *_ = shown.splitlines()[-1].split()
    assert int(hits) == int(requests) - 2 > 0
    assert warnings.count("Permission denied") == 1
    set_modes(copy, folders=0o700, files=0o600)


def test_an_empty_setting_and_jax_variables_leave_jax_alone(filled, tmp_path):
    assert "folder None" in start("")[0]
    shown, _ = start(filled, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert "folder None" in shown
    assert "\n0 of " in shown


def test_folders_that_others_control_are_not_used(tmp_path, monkeypatch):
    assert refusal(tmp_path) is None
    assert refusal(tmp_path / "missing") is None
    assert stat.S_IMODE((tmp_path / "missing").stat().st_mode) == 0o700
    assert refusal(tmp_path / "workdir" / "compiled") is None
    assert not (tmp_path / "workdir").exists()  # a mistyped work directory is not made
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file") == "it is not a folder"
    tmp_path.chmod(0o777)
    assert "every user may write to it" in refusal(tmp_path)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    if tmp_path.stat().st_uid:
        assert "belongs to another user" in refusal(tmp_path)


def test_the_default_folder(tmp_path):
    training = ConfigDict({"compilation_cache": "auto", "workdir": "runs/a", "optimizer": {}})
    applying = ConfigDict({"compilation_cache": "auto", "workdir": "runs/a"})
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert str(choose_folder(training, home)) == "runs/a/compiled"
    assert choose_folder(applying, home) == tmp_path / "vpt_jax" / "compiled"
    assert str(choose_folder(applying, home | {"VPT_COMPILATION_CACHE": "shared"})) == "shared"
    assert choose_folder(training, {"VPT_COMPILATION_CACHE": ""}) is None
    assert str(choose_folder(ConfigDict({"compilation_cache": "own"}), {"VPT_COMPILATION_CACHE": "x"})) == "own"
    assert compilation_cache.use_compilation_cache(ConfigDict({"workdir": "runs/a"})) is None


def test_the_entries_that_were_not_used_for_longest_are_removed(tmp_path):
    cache = FileCache(tmp_path, max_bytes=3000)
    for age, key in enumerate("abc"):
        cache.put(key, key.encode() * 900)
        os.utime(tmp_path / f"{key}.compiled", (1000 + age, 1000 + age))
    assert cache.get("a") == b"a" * 900  # used now
    cache.put("d", b"d" * 900)
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]
    cache.put("e", bytes(4000))
    assert cache.get("e") is None


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    cache = FileCache(tmp_path)
    for name, age in (("a.compiled.0123.writing", 7200), ("b.compiled.0123.writing", 60)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache.put("key", b"value")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.compiled.0123.writing", "key.compiled"]


def test_a_full_disk_is_reported_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = FileCache(tmp_path / "file" / "compiled")  # nothing can be written there
    cache.put("key", b"value")
    cache.put("other", b"value")
    assert capsys.readouterr().err.count("compiled at every start") == 1
    full = FileCache(tmp_path / "full")
    limit = subprocess.run(
        [sys.executable, "-c", "import resource, signal, sys; from pathlib import Path\n"
         "from vpt_jax.system.compilation_cache import FileCache\n"
         "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
         "FileCache(Path(sys.argv[1])).put('key', bytes(1000))", str(tmp_path / "full")],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    assert "File too large" in limit.stderr
    assert full.get("key") is None
    assert not list((tmp_path / "full").iterdir())
