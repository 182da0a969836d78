"""Command line of the contractor download, killed repeatedly: each byte is downloaded once, no partial file remains."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.data import dataset

from .conftest import SIZE, files
from .test_contractor import stall

ROOT = Path(__file__).parents[3]
KILLS = 10


def start(server, folder, *flags):
    flags = [
        "--source=contractor", f"--config.contractor.index={server.url}/index.json",
        f"--config.recordings={folder / 'recordings'}", f"--config.out={folder / 'dataset'}", "--config.workers=1",
        f"--config.height={SIZE}", f"--config.width={SIZE}", *flags,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "launch/prepare.py", *flags], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def kill_at(process, server, seconds):
    """Kills a run `seconds` after its first download."""
    server.log.clear()
    deadline = time.monotonic() + 120
    while len(server.log) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def on_disk(folder):
    """Bytes on disk of each complete or partial file, by its path on the server."""
    sizes = {}
    for path in folder.rglob("*"):
        if match := re.fullmatch(r"8\.0_(.*\.(mp4|jsonl))(\.partial)?", path.name):
            sizes[f"/store/data/8.0/{match[1]}"] = path.stat().st_size
    return sizes


def check_requests(server, kept):
    """A run requests only missing files, once each, and partial ones from their first missing byte on."""
    paths = [entry["path"] for entry in server.log]
    log = server.log[paths.index("/index.json") + 1 :]  # earlier requests may be of the killed run
    first = {entry["path"]: entry["start"] for entry in log}
    assert len(first) == len(log)  # once each
    for path, offset in first.items():
        assert offset == kept.get(path, 0) < len(server.files[path])


@pytest.mark.slow
def test_resume_after_ten_kills_downloads_each_byte_once(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 300)
    server.pause = 0.05
    rng, kept, served, killed = np.random.default_rng(0), {}, 0, []
    for _ in range(KILLS):
        kill_at(start(server, tmp_path), server, rng.uniform(0, 3))
        check_requests(server, kept)
        served += sum(entry["sent"] for entry in server.log)
        kept = on_disk(tmp_path)
        killed.append((len(server.log), sum(kept.values())))
    server.pause, process = 0.002, start(server, tmp_path)
    server.log.clear()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    check_requests(server, kept)
    served += sum(entry["sent"] for entry in server.log) - (KILLS + 1) * len(server.files["/index.json"])
    total = sum(map(len, expected.values()))
    print(f"(requests, bytes kept) at each kill: {killed}; {served:,} bytes served for {total:,}")
    assert total <= served <= total + KILLS * 8 * 2**16
    assert files(tmp_path / "recordings/train") == expected
    assert sorted(path.name for path in (tmp_path / "recordings").iterdir()) == ["download.json", "train"]
    assert sorted(os.listdir(tmp_path)) == ["dataset", "recordings"]
    names = dataset.load_index(tmp_path / "dataset", "train").names
    assert names == tuple(sorted({name.rsplit(".", 1)[0] for name in expected}))


@pytest.mark.slow
def test_user_errors_are_one_line(server, pairs, tmp_path):
    server.add_pairs(pairs, 3)
    dry = start(server, tmp_path, "--config.contractor.dry_run").communicate(timeout=60)[0]
    assert "\ntotal: 3 pairs" in dry
    wrong = start(server, tmp_path, "--config.contractor.index=nowhere.json").communicate(timeout=60)[0]
    assert wrong.startswith("error: cannot download the index file:///")
    assert wrong.count("\n") == 1
    assert not (tmp_path / "recordings").exists()


@pytest.mark.slow
def test_interrupt_ends_a_stalled_download(server, pairs, tmp_path):
    server.add_pairs(pairs, 30)
    for path in server.files:
        if path.endswith(".mp4"):
            server.behaviour[path] = stall
    process = start(server, tmp_path)
    while len(server.log) < 17:  # eight pairs: all connections stall
        time.sleep(0.01)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "run the same command again to resume" in output
    assert time.monotonic() - interrupted < 5  # the timeout is 30 seconds
