"""A folder of any videos to a dataset with predicted labels: whole, resumed after kills, in parts, and what is refused.

Jobs run as a user starts them, by launch/label.py, or in this process, which is quicker.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import foundation, idm
from configs.label import get_config
from vpt_jax.actions import CAMERA
from vpt_jax.checkpoints import Checkpoints, load_idm
from vpt_jax.data import codecs, dataset
from vpt_jax.data.streams import batches
from vpt_jax.labelling import job
from vpt_jax.labelling.job import LabelError, label
from vpt_jax.models.presets import make_idm, make_policy
from vpt_jax.training.state import initial_state
from vpt_jax.video import VideoWriter, decode, fit_aspect, resize
from vpt_jax.workers import locked

from ..training.conftest import Launcher, wait_until
from .test_plan import frames_labelled, window_starts

ROOT = Path(__file__).parents[2]
SIZE, WINDOW, CHUNK = 32, 8, 8


def save_checkpoint(workdir, stage, module, config, *inputs, length=WINDOW):
    """A training run's checkpoint, of random parameters: quicker than training, and the labels are as good to test."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, SIZE, SIZE, 3), jnp.uint8), *inputs)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes["params"])
    stream = {"frame_shape": [SIZE, SIZE, 3], "length": length}
    facts = {"stream": stream, "model": {}, "optimizer": {}, "config": json.loads(config.to_json())}
    assert facts["config"]["stage"] == stage
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=1, keep_every_hours=0.0, facts=facts)
    checkpoints.save(initial_state(params, optax.sgd(0.1), (), jax.random.PRNGKey(0)), 2)
    checkpoints.close()
    return workdir


@pytest.fixture(scope="session")
def idm_dir(tmp_path_factory):
    config = idm.get_config("demo")
    return save_checkpoint(tmp_path_factory.mktemp("idm"), "idm", make_idm(config.model), config)


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory):
    config = foundation.get_config("demo")
    policy = make_policy(config.model)
    inputs = jnp.zeros((1, 1), bool), policy.initial_memory(1)
    return save_checkpoint(tmp_path_factory.mktemp("policy"), "policy", policy, config, *inputs)


def pictures(count, height, width):
    """Coarse patterns, no two alike."""
    cells = np.random.default_rng(height * width).integers(0, 256, (count, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return [frame[rows][:, columns].astype(np.uint8) for frame in cells]


def write_video(path, codec, pixels, frames, rate=20, times=None):
    """A video at a steady rate, or with its frames at these times, in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = Fraction(1, 1000) if times else 1 / Fraction(rate)
    container_format = {"format": "mp4"} if path.suffix == ".MP4" else {}
    with av.open(str(path), "w", **container_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        stream.codec_context.time_base = unit
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = times[i] if times else i, unit
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


GOOD = {  # name in the dataset: frames at 20 per second
    "long": 90,
    "one frame": 1,
    "one window": 8,
    "some/deeper/thirty": 40,
    "some/odd": 26,
    "some/portrait": 24,
    "some/uneven": 23,
}
BROKEN = ("bad/cut.mp4", "bad/empty.webm", "bad/noise.mkv")


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", "libx264", "yuv420p", pictures(90, 72, 128))
    write_video(folder / "one frame.avi", "mpeg4", "yuv420p", pictures(1, 48, 64))
    write_video(folder / "one window.mov", "libx264", "yuv420p", pictures(8, 54, 96))
    write_video(folder / "some/deeper/thirty.MP4", "libx264", "yuv420p", pictures(60, 48, 64), rate=30)
    write_video(folder / "some/odd.mkv", "ffv1", "bgr0", pictures(31, 61, 37), rate=24)
    write_video(folder / "some/portrait.webm", "libvpx", "yuv420p", pictures(12, 64, 36), rate=10)
    in_ms = [0, 30, 95, 100, 260, 300, 301, 500, 950, 1000]
    write_video(folder / "some/uneven.mkv", "ffv1", "bgr0", pictures(10, 36, 64), times=in_ms)
    (folder / "some/notes.txt").write_text("no video")
    (folder / "bad").mkdir()
    (folder / "bad/empty.webm").touch()
    (folder / "bad/noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (folder / "long.mp4").read_bytes()
    (folder / "bad/cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder


def settings(videos, idm_dir, out, /, **changes):
    config = get_config()
    config.update(videos=str(videos), idm=str(idm_dir), out=str(out), span=2, batch=1, chunk_frames=CHUNK, films=1)
    config.update(workers=1)
    config.update(changes)
    return config


class LabelLauncher(Launcher):
    """Starts launch/label.py; runs share compiled programs to save time."""

    def __init__(self, cache):
        self.cache = cache

    def start(self, config):
        """Starts a job with the fields of this config."""
        environment = os.environ | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        flags = [f"--config.{name}={value}" for name, value in config.items()]
        return subprocess.Popen(
            [sys.executable, "launch/label.py", *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, config, expected=0):
        return self.finish(self.start(config), expected)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory):
    return LabelLauncher(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def undisturbed(launcher, videos, idm_dir, tmp_path_factory):
    """The dataset of a job that nothing interrupted, and what the job said."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return out, launcher.run(settings(videos, idm_dir, out))


class ThisProcess:
    """In place of a pool of worker processes."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


load_once, partial_once = cache(load_idm), cache(partial)  # equal programs are then one to JAX, and compiled once


@pytest.fixture
def in_process(monkeypatch):
    """Jobs without processes of their own; each model is loaded and compiled once."""
    monkeypatch.setattr(job, "worker_pool", lambda workers: nullcontext(ThisProcess()))
    monkeypatch.setattr(job, "batches", lambda *arguments: batches(*arguments[:-1], workers=0))
    monkeypatch.setattr(job, "load_idm", load_once)
    monkeypatch.setattr(job, "partial", partial_once)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_dataset_holds_every_good_video(undisturbed):
    out, said = undisturbed
    index = dataset.load_index(out, "train")
    assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == GOOD
    assert index.labels == "predicted"
    assert index.chunk_frames == CHUNK
    assert index.buttons.shape == (sum(GOOD.values()), 20)
    assert 0.05 < index.buttons.mean() < 0.95
    assert set(np.unique(index.camera)) <= set(CAMERA.centres.astype(np.float32))
    assert index.confidence.min() > 0
    assert index.confidence.max() <= 1
    assert f"7 videos of {sum(GOOD.values())} frames, labelled with a mean confidence of" in said
    assert os.listdir(out.parent) == ["out"]


def test_broken_videos_are_listed_and_left_out(undisturbed, videos):
    out, said = undisturbed
    report = json.loads((out / "report.json").read_text())
    assert [note["file"] for note in report["broken"]] == [str(videos / name) for name in BROKEN]
    assert all(note["reason"] and note["detail"] for note in report["broken"])
    assert report["splits"] == {"train": {"episodes": 7, "frames": sum(GOOD.values()), "broken": 3}}
    assert report["made_of"]["mode"] == "shared"
    assert report["mean_confidence"] == pytest.approx(float(np.mean(dataset.load_index(out, "train").confidence)))
    assert all(f"broken: {videos / name}: unreadable video" in said for name in BROKEN)


def read_video(out, number):
    """The frames of a video from its records, whose labels and places are checked on the way."""
    index, source = dataset.load_index(out, "train"), dataset.open_records(out, "train")
    length, frames = int(index.lengths[number]), []
    for chunk in range(-(-length // CHUNK)):
        record = source[int(index.first_record[number]) + chunk]
        assert (record["episode"].decode(), record["labels"].decode()) == (index.names[number], "predicted")
        assert (record["chunk"], record["first_frame"], record["num_frames"]) == (chunk, chunk * CHUNK, length)
        start = int(index.starts[number]) + chunk * CHUNK
        rows = slice(start, start + len(record["frame_ends"]))
        for name in ("buttons", "camera", "confidence"):
            np.testing.assert_array_equal(record[name], getattr(index, name)[rows])
        frames.append(codecs.decode_frames(record["frames"], record["frame_ends"], range(len(record["frame_ends"]))))
    frames = np.concatenate(frames)
    assert frames.shape == (length, SIZE, SIZE, 3)
    return frames


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_records_hold_the_labels_of_the_index_and_the_frames_nearest_in_time(undisturbed, videos, number):
    frames = read_video(undisturbed[0], number)
    name = list(GOOD)[number]
    (file,) = (path for path in videos.rglob("*") if path.with_suffix("") == videos / name)
    at_the_models_size = np.stack([resize(fit_aspect(frame, 16, 9), SIZE, SIZE) for frame in decode(file)])
    distance = np.abs(frames[:, None].astype(int) - at_the_models_size[None]).mean((2, 3, 4))
    assert distance.min(1).max() < 6
    shown = {
        "long": range(90),
        "one frame": [0],
        "one window": range(8),
        "some/deeper/thirty": [3 * i // 2 for i in range(40)],
        "some/odd": [round(1.2 * i) for i in range(26)],
        "some/portrait": [i // 2 for i in range(24)],
        "some/uneven": [0, 1, 3, 3, 4, 4, 5, 6, 6, *[7] * 6, *[8] * 5, 9, 9, 9],
    }[name]
    np.testing.assert_array_equal(distance.argmin(1), list(shown))


def test_a_film_shows_the_labels(undisturbed, videos):
    (film,) = (undisturbed[0] / "films").iterdir()
    assert film.name == "long.mp4"
    shown, plain = list(decode(film)), list(decode(videos / "long.mp4"))
    assert len(shown) == len(plain) == 90
    for frame, before in zip(shown, plain, strict=True):
        assert frame.shape == (360, 640, 3)
        difference = np.abs(frame.astype(int) - resize(before, 360, 640)).mean(-1)
        assert difference[:30].mean() > 4 * difference[50:].mean()  # the keys are drawn along the upper edge


def test_a_video_may_change_its_size(videos, idm_dir, tmp_path, in_process):
    (tmp_path / "videos").mkdir()
    streams = []
    for number, (height, width) in enumerate([(48, 64), (72, 128)]):
        times = range(1000 * number, 1000 * (number + 1), 50)
        write_video(tmp_path / "part.ts", "libx264", "yuv420p", pictures(20, height, width), times=times)
        streams.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "videos" / "film.avi").write_bytes(b"".join(streams))
    assert {len(frame) for frame in decode(tmp_path / "videos" / "film.avi")} == {48, 72}
    out = label(settings(tmp_path / "videos", idm_dir, tmp_path / "out"))
    frames = list(decode(out / "films" / "film.mp4"))
    assert [len(frames)] == dataset.load_index(out, "train").lengths
    assert frames[0].shape == (480, 640, 3)


def apply_to_windows(idm_dir, mode, frames):
    """The logits of every frame: the model applied to window after window, in the plainest way."""
    module, params, *_ = load_once(idm_dir)
    logits = {"buttons": np.zeros((len(frames), 20, 2)), "camera": np.zeros((len(frames), 2, 11))}
    starts = window_starts(len(frames), WINDOW)
    padded = np.pad(frames, [(2, starts[-1] + WINDOW - len(frames) + 2), (0, 0), (0, 0), (0, 0)])
    of_windows = []
    for start in starts:
        window, valid = padded[None, start : start + WINDOW + 4].copy(), np.arange(start, start + WINDOW) < len(frames)
        if mode == "exact":
            window[:, :2] = window[:, -2:] = 0
        embeddings = apply_compiled(module, "embed", params, window)
        of_windows.append(apply_compiled(module, "attend", params, embeddings, valid[None]).logits)
    for frame, number, place in frames_labelled(len(frames), WINDOW):
        for head in logits:
            logits[head][frame] = of_windows[number][head][0, place]
    return logits


@partial(jax.jit, static_argnums=(0, 1))
def apply_compiled(module, method, params, *inputs):
    return module.apply({"params": params}, *inputs, method=method)


@pytest.mark.parametrize("mode", ["shared", "exact"])
def test_labels_are_what_the_model_says_of_the_right_windows(
    mode, undisturbed, videos, idm_dir, tmp_path, in_process
):  # fmt: skip
    out = undisturbed[0] if mode == "shared" else label(settings(videos, idm_dir, tmp_path / "out", mode=mode, batch=5))
    index = dataset.load_index(out, "train")
    assert index.names == tuple(GOOD)
    for number in range(len(GOOD)):
        logits, rows = apply_to_windows(idm_dir, mode, read_video(out, number)), index.rows(number)
        bins = np.searchsorted(CAMERA.centres.astype(np.float32), index.camera[rows])
        log_probs = 0
        for head, labels in {"buttons": index.buttons[rows], "camera": bins}.items():
            chosen = np.take_along_axis(logits[head], labels[..., None].astype(int), -1)[..., 0]
            assert (chosen > logits[head].max(-1) - 1e-4).all()
            log_probs += (chosen - np.log(np.exp(logits[head]).sum(-1))).sum(-1)
        np.testing.assert_allclose(np.log(index.confidence[rows]), log_probs, atol=1e-3)


def labels_by_name(out):
    index = dataset.load_index(out, "train")
    fields = index.buttons, index.camera, index.confidence
    return {name: [field[index.rows(i)] for field in fields] for i, name in enumerate(index.names)}


def test_parts_make_the_same_labels(undisturbed, videos, idm_dir, tmp_path, in_process, capsys):
    label(settings(videos, idm_dir, tmp_path / "whole", choice="sample"))
    for part in (2, 0, 1):
        assert not (tmp_path / "out").exists()
        label(settings(videos, idm_dir, tmp_path / "out", choice="sample", parts=3, part=part))
        if part == 0:
            assert "when these are too: part-00001-of-00003" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
    parts, whole = labels_by_name(tmp_path / "out"), labels_by_name(tmp_path / "whole")
    assert parts.keys() == whole.keys()
    for name, (buttons, camera, confidence) in parts.items():
        np.testing.assert_array_equal(buttons, whole[name][0])
        np.testing.assert_array_equal(camera, whole[name][1])
        np.testing.assert_allclose(confidence, whole[name][2], rtol=1e-3)
    for number in range(len(GOOD)):
        read_video(tmp_path / "out", number)
    reports = [json.loads((out / "report.json").read_text()) for out in (tmp_path / "out", undisturbed[0])]
    assert reports[0]["splits"] == reports[1]["splits"]
    assert sorted(note["file"] for note in reports[0]["broken"]) == [note["file"] for note in reports[1]["broken"]]
    assert len(list((tmp_path / "out" / "films").rglob("*.mp4"))) == 3


class Killed(BaseException):
    pass


def kill_at_rename(patch, name, done):
    """The job ends when a file is about to get this name, or when it has got it."""
    rename = Path.rename

    def rename_and_end(path, target):
        if Path(target).name != name:
            return rename(path, target)
        if done:
            rename(path, target)
        raise Killed

    patch.setattr(Path, "rename", rename_and_end)


def test_killed_around_any_rename_it_makes_the_same_bytes(videos, idm_dir, tmp_path, in_process, monkeypatch, capsys):
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
    assert files(tmp_path / "out") == files(label(settings(videos, idm_dir, tmp_path / "undisturbed")))


def done_so_far(out):
    """When each file of a job was made that is to be made once."""
    done = {}
    with suppress(FileNotFoundError):  # it may be tidying up
        for path in out.parent.glob("out.partial/*/*/*"):
            if path.suffix in (".records", ".frames", ".broken", ".npz"):
                done[path] = path.stat().st_mtime_ns
    return done


def count(done, folder):
    return sum(path.parent.name == folder for path in done)


def kill_all(process):
    """The whole job at once, without warning."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def finish_what_is_missing(launcher, config, out):
    """Goes on with a job that was killed; nothing is made twice."""
    before, process = done_so_far(out), launcher.start(config)
    while process.poll() is None:
        now = done_so_far(out)
        assert {path: now.get(path, made) for path, made in before.items()} == before
        time.sleep(0.02)
    return launcher.finish(process)


def test_killed_while_decoding_and_while_labelling_it_makes_the_same_bytes(
    launcher, undisturbed, videos, idm_dir, tmp_path
):  # fmt: skip
    out = tmp_path / "out"
    config = settings(videos, idm_dir, out)
    for folder, number in (("frames", 3), ("labels", 4)):
        process, before = launcher.start(config), done_so_far(out)
        wait_until(lambda: count(done_so_far(out), folder) >= number, process)  # noqa: B023
        kill_all(process)
        assert before.items() <= done_so_far(out).items()
        assert not out.exists()
    done = done_so_far(out)
    assert count(done, "frames") == 2 * len(GOOD) + len(BROKEN)
    assert 4 <= count(done, "labels") < 20
    finish_what_is_missing(launcher, config, out)
    assert files(out) == files(undisturbed[0])
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
def test_killed_at_ten_moments_it_makes_the_same_bytes(launcher, videos, idm_dir, tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(8):  # so that there is more to do than to start
        os.link(videos / "long.mp4", tmp_path / "videos" / f"long {number}.mp4")
    for name in ("one frame.avi", "some/odd.mkv", "bad/cut.mp4"):
        os.link(videos / name, tmp_path / "videos" / Path(name).name)
    config = partial(settings, tmp_path / "videos", idm_dir, span=1, films=2, workers=2)
    for _ in range(2):  # the second time with compiled programs
        shutil.rmtree(tmp_path / "undisturbed", ignore_errors=True)
        start = time.monotonic()
        launcher.run(config(tmp_path / "undisturbed"))
        seconds = time.monotonic() - start
    rng, killed = np.random.default_rng(0), []
    for moment in range(10):
        out, delay = tmp_path / str(moment) / "out", (moment + rng.random()) / 10 * seconds
        process = launcher.start(config(out))
        time.sleep(delay)
        kill_all(process)
        done = done_so_far(out)
        killed.append((round(delay, 1), count(done, "frames"), count(done, "labels"), out.exists()))
        finish_what_is_missing(launcher, config(out), out)
        assert files(out) == files(tmp_path / "undisturbed")
        assert os.listdir(out.parent) == ["out"]
    print(f"undisturbed: {seconds:.1f} s; killed after (seconds, files of frames, files of labels, whole): {killed}")


def test_labels_are_made_once(undisturbed, videos, idm_dir, tmp_path, in_process, capsys):
    before = files(undisturbed[0])
    (undisturbed[0].parent / "out.partial" / "left over").mkdir(parents=True)
    label(settings(videos, idm_dir, undisturbed[0]))
    assert "nothing to do" in capsys.readouterr().out
    assert files(undisturbed[0]) == before
    assert os.listdir(undisturbed[0].parent) == ["out"]


def test_other_settings_are_refused_while_a_job_is_half_done(videos, idm_dir, tmp_path, in_process, monkeypatch):
    half = settings(videos, idm_dir, tmp_path / "out", films=0)
    with monkeypatch.context() as patch:
        kill_at_rename(patch, "00000001.npz", done=True)
        with pytest.raises(Killed):
            label(half)
    before = files(tmp_path)
    changes = {"mode": "exact", "choice": "sample", "seed": 1, "batch": 9, "span": 3, "quality": 80, "chunk_frames": 4}
    for name, value in changes.items():
        with pytest.raises(LabelError, match=f"part-00000-of-00001 was begun with other {name}: remove it"):
            label(settings(videos, idm_dir, tmp_path / "out", films=0, **{name: value}))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_device_count", lambda: 5)  # rows of a step would be other spans
        with pytest.raises(LabelError, match="was begun with other devices"):
            label(half)
    part = tmp_path / "out.partial" / "part-00000-of-00001"
    with locked(part), pytest.raises(LabelError, match="another run is working on"):
        label(half)
    assert files(tmp_path) == before
    write_video(videos / "new.mkv", "ffv1", "bgr0", pictures(3, 8, 8))
    with pytest.raises(LabelError, match="was begun with other videos"):
        label(half)
    (videos / "new.mkv").unlink()
    label(half)
    assert labels_by_name(tmp_path / "out").keys() == GOOD.keys()


def test_what_cannot_be_labelled_is_refused(videos, idm_dir, tmp_path, in_process):
    for name in ("empty/notes.txt", "noise/noise.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"noise")
    config = idm.get_config("demo")
    odd = save_checkpoint(tmp_path / "odd", "idm", make_idm(config.model), config, length=6)
    broken = r"all 1 videos are broken, the first: .*noise\.mp4.*unreadable video"
    for name, value, message in (
        ("videos", "", "--config.videos, --config.idm, --config.out"),
        ("videos", tmp_path / "nowhere", "there is no folder of videos at .*nowhere"),
        ("videos", tmp_path / "empty", "there are no videos in .*empty"),
        ("videos", tmp_path / "noise", broken),
        ("videos", tmp_path / "noise", broken),
        ("idm", odd, "was trained on windows of 6 frames: labelling needs a multiple of 4"),
        ("out", idm_dir, "is in use by something else"),
        ("out", videos / "labelled", "where its films would be labelled too"),
        ("mode", "fast", "config.mode is 'fast'; choose one of shared, exact"),
        ("choice", "best", "config.choice is 'best'; choose one of argmax, sample"),
        ("batch", 0, "config.batch must be 1 or more"),
        ("aspect", (16, 0), r"config.aspect is \(16, 0\), and must be a width and a height"),
        ("quality", 0, "config.quality is 0: JPEG quality goes from 1 to 100"),
        ("workers", -1, "config.workers must not be negative"),
        ("part", 1, "config.part is 1, and must be from 0 to 0"),
    ):
        value = str(value) if isinstance(value, Path) else value
        with pytest.raises(LabelError, match=message) as raised:
            label(settings(videos, idm_dir, tmp_path / "out", **{name: value}))
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()


def test_mistakes_are_explained_in_a_line(launcher, videos, idm_dir, policy_dir, tmp_path):
    (tmp_path / "twins").mkdir()
    for name in ("take.mp4", "take.mkv"):
        (tmp_path / "twins" / name).touch()
    out = tmp_path / "out"
    cases = {
        "take.mkv and .*take.mp4 would have the same name in the dataset: rename one": (
            tmp_path / "twins",
            idm_dir,
            out,
        ),
        "nowhere holds no checkpoint": (videos, tmp_path / "nowhere", out),
        "holds a training run of stage 'policy', and this needs one of 'idm'": (videos, policy_dir, out),
    }
    started = [launcher.start(settings(*paths)) for paths in cases.values()]
    for message, process in zip(cases, started, strict=True):
        output = launcher.finish(process, expected=1)
        assert re.search(f"^error: .*{message}", output.splitlines()[-1])
        assert "Traceback" not in output
    assert not out.exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(launcher, idm_dir, tmp_path):
    peaks = {}
    for minutes in (0.1, 1, 20):  # the first is there to compile
        folder, frames = tmp_path / str(minutes), int(minutes * 60 * 20)
        (folder / "videos").mkdir(parents=True)
        with VideoWriter(folder / "videos" / "film.mp4", SIZE, SIZE) as writer:
            for i in range(frames):
                writer.write(np.full((SIZE, SIZE, 3), i % 256, np.uint8))
        config = settings(folder / "videos", idm_dir, folder / "out", films=0)
        config.update(span=15, batch=1)
        process = launcher.start(config)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # the largest of the job's processes
        assert os.waitstatus_to_exitcode(status) == 0, output
        assert dataset.load_index(folder / "out", "train").lengths == [frames]
        peaks[minutes] = usage.ru_maxrss / 2**10
    print(f"peak memory in MiB by minutes: {peaks}")
    assert peaks[20] == pytest.approx(peaks[1], rel=0.1)


@pytest.mark.slow
def test_a_trained_model_labels(launcher, dataset_dir, videos, tmp_path):
    length = f"--config.data.length={WINDOW}"
    Launcher("idm.py:demo", dataset_dir, launcher.cache).run(tmp_path / "idm", length)
    launcher.run(settings(videos, tmp_path / "idm", tmp_path / "out"))
    assert {name: len(labels[0]) for name, labels in labels_by_name(tmp_path / "out").items()} == GOOD
