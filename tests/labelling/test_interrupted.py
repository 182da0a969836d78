"""A labelling job that is killed, or whose settings change midway: equal bytes, or an error with the reason."""

import os
import shutil
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from vpt_jax.labelling import job
from vpt_jax.labelling.job import LabelError, label
from vpt_jax.system.workers import FolderInUseError, locked

from ..training.conftest import wait_until
from .conftest import BROKEN, GOOD, files, labels_by_name, settings


class Killed(BaseException):
    pass


def kill_at_rename(patch, name, done):
    """Ends the job just before a file is renamed to this name, or just after."""
    rename = Path.rename

    def rename_and_end(path, target):
        if Path(target).name != name:
            return rename(path, target)
        if done:
            rename(path, target)
        raise Killed

    patch.setattr(Path, "rename", rename_and_end)


def test_resume_after_a_kill_at_any_rename_writes_the_same_bytes(
    videos, idm_dir, tmp_path, in_process, monkeypatch, capsys
):
    config = settings(videos, idm_dir, tmp_path / "out")
    names = (
        "settings.json", "0000000.broken", "0000003.records", "0000003.frames", "00000000.npz", "00000001.npz", "films",
        "dataset", "out",
    )  # fmt: skip
    for name in names:
        for done in (False, True):
            with monkeypatch.context() as patch:
                kill_at_rename(patch, name, done)
                with pytest.raises(Killed):
                    label(config)
            assert (tmp_path / "out").exists() == (name == "out" and done)
    label(config)
    assert "nothing to do" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["out"]
    assert files(tmp_path / "out") == files(label(settings(videos, idm_dir, tmp_path / "uninterrupted")))


def finished_files(out):
    """Modification times of the files of a job that must be written only once."""
    done = {}
    with suppress(FileNotFoundError):  # the job may be removing files
        for path in out.parent.glob("out.partial/*/*/*"):
            if path.suffix in (".records", ".frames", ".broken", ".npz"):
                done[path] = path.stat().st_mtime_ns
    return done


def count(done, folder):
    return sum(path.parent.name == folder for path in done)


def kill_all(process):
    """Kills all processes of a job with SIGKILL."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def resume_without_rewriting(launcher, config, out):
    """Resumes a killed job; checks that no file is written twice."""
    before, process = finished_files(out), launcher.start(config)
    while process.poll() is None:
        now = finished_files(out)
        assert {path: now.get(path, written) for path, written in before.items()} == before
        time.sleep(0.02)
    return launcher.finish(process)


def test_resume_after_kills_while_decoding_and_labelling_writes_the_same_bytes(
    launcher, uninterrupted, videos, idm_dir, tmp_path
):  # fmt: skip
    out = tmp_path / "out"
    config = settings(videos, idm_dir, out)
    for folder, number in (("frames", 3), ("labels", 4)):
        process, before = launcher.start(config), finished_files(out)
        wait_until(lambda: count(finished_files(out), folder) >= number, process)  # noqa: B023
        kill_all(process)
        assert before.items() <= finished_files(out).items()
        assert not out.exists()
    done = finished_files(out)
    assert count(done, "frames") == 2 * len(GOOD) + len(BROKEN)
    assert 4 <= count(done, "labels") < 20
    resume_without_rewriting(launcher, config, out)
    assert files(out) == files(uninterrupted[0])
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
def test_resume_after_kills_at_ten_moments_writes_the_same_bytes(launcher, videos, idm_dir, tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(8):  # so that the work takes longer than the start
        os.link(videos / "long.mp4", tmp_path / "videos" / f"long {number}.mp4")
    for name in ("one frame.avi", "some/odd.mkv", "bad/cut.mp4"):
        os.link(videos / name, tmp_path / "videos" / Path(name).name)
    config = partial(settings, tmp_path / "videos", idm_dir, windows_per_span=1, num_films=2, workers=2)
    for _ in range(2):  # the second time with compiled programs
        shutil.rmtree(tmp_path / "uninterrupted", ignore_errors=True)
        start = time.monotonic()
        launcher.run(config(tmp_path / "uninterrupted"))
        seconds = time.monotonic() - start
    rng, killed = np.random.default_rng(0), []
    for moment in range(10):
        out, delay = tmp_path / str(moment) / "out", (moment + rng.random()) / 10 * seconds
        process = launcher.start(config(out))
        time.sleep(delay)
        kill_all(process)
        done = finished_files(out)
        killed.append((round(delay, 1), count(done, "frames"), count(done, "labels"), out.exists()))
        resume_without_rewriting(launcher, config(out), out)
        assert files(out) == files(tmp_path / "uninterrupted")
        assert os.listdir(out.parent) == ["out"]
    print(f"uninterrupted: {seconds:.1f} s; killed after (seconds, files of frames, files of labels, whole): {killed}")


def test_other_settings_are_refused_while_a_job_is_half_done(videos, idm_dir, tmp_path, in_process, monkeypatch):
    half = settings(videos, idm_dir, tmp_path / "out", num_films=0)
    with monkeypatch.context() as patch:
        kill_at_rename(patch, "00000001.npz", done=True)
        with pytest.raises(Killed):
            label(half)
    before = files(tmp_path)
    changes = {"mode": "exact", "choice": "sample", "mirror": True, "seed": 1, "batch": 9, "windows_per_span": 3,
               "quality": 80, "chunk_frames": 4}  # fmt: skip
    for name, value in changes.items():
        message = rf"part-00000-of-00001 was made with other settings: {name} was \S+ and is now {value!r}\. Remove it"
        with pytest.raises(LabelError, match=message):
            label(settings(videos, idm_dir, tmp_path / "out", num_films=0, **{name: value}))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: 5)  # rows of a step would be other spans
        with pytest.raises(LabelError, match=r"was made with other settings: devices was \d+ and is now 5"):
            label(half)
    part = tmp_path / "out.partial" / "part-00000-of-00001"
    with locked(part), pytest.raises(FolderInUseError, match="another run is working on"):
        label(half)
    assert files(tmp_path) == before

    def label_while_somebody_uses_the_folder(*arguments):
        label_part(*arguments)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()

    label_part = job._label_shard
    with monkeypatch.context() as patch:
        patch.setattr(job, "_label_shard", label_while_somebody_uses_the_folder)
        with pytest.raises(LabelError, match="out is in use by something else"):
            label(half)
    assert (part / "dataset").is_dir()  # hours of work, which must not be lost
    (tmp_path / "out" / "mine").unlink()
    label(half)
    assert labels_by_name(tmp_path / "out").keys() == GOOD.keys()
