"""Overlap of decoding, reading, the device and writing: the same labels, and errors where they belong."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from vpt_jax.data.clips import Clip, FrameSettings, encode_video, read_result
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.labelling import job, waves
from vpt_jax.labelling.job import label
from vpt_jax.labelling.overlap import AHEAD, StageSeconds, Writer, read_spans
from vpt_jax.labelling.plan import EncodedVideo, Plan

from .conftest import CHUNK, SIZE, WINDOW, files, settings
from .test_interrupted import Killed, kill_at_rename


@pytest.fixture
def decoded_in_a_thread(monkeypatch, in_process):
    """Decodes videos in a thread, the last of which waits until labels are being computed; waves of one step."""
    labelling = threading.Event()

    def decode(clip, result, frame_settings):
        if clip.video.stem == "uneven":
            assert labelling.wait(60), "nothing is labelled while videos are decoded"
        return encode_video(clip, result, frame_settings)

    def label_steps(labeller, plan, folder, stop):
        labelling.set()
        label_steps_of_job(labeller, plan, folder, stop)

    label_steps_of_job = job._label_steps
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(job, "worker_pool", lambda workers: nullcontext(pool))
        monkeypatch.setattr(job, "encode_video", decode)
        monkeypatch.setattr(job, "_label_steps", label_steps)
        monkeypatch.setattr(waves, "MIN_STEPS", 1)
        yield


@pytest.fixture(scope="module")
def plan(videos, tmp_path_factory):
    """A plan of two videos, with two rows a step."""
    folder, encoded = tmp_path_factory.mktemp("plan"), []
    for name in ("long.mp4", "some/deeper/thirty.MP4"):
        result, of = folder / name.replace("/", "-"), FrameSettings(SIZE, SIZE, (16, 9), CHUNK, 90)
        encode_video(Clip(videos / name), result, of)
        encoded.append(EncodedVideo(result.with_name(f"{result.name}.records"), read_result(result, of), CHUNK))
    return Plan(tuple(encoded), WINDOW, 2, 2)


def test_a_job_labels_while_it_decodes_and_writes_the_same_bytes(
    decoded_in_a_thread, uninterrupted, videos, idm_dir, tmp_path
):  # fmt: skip
    assert files(label(settings(videos, idm_dir, tmp_path / "out"))) == files(uninterrupted[0])


def test_a_job_that_is_killed_in_a_wave_resumes_without_waves(
    decoded_in_a_thread, uninterrupted, videos, idm_dir, tmp_path, monkeypatch
):  # fmt: skip
    config = settings(videos, idm_dir, tmp_path / "out")
    with monkeypatch.context() as patch:
        kill_at_rename(patch, "00000003.npz", done=False)
        with pytest.raises(Killed):
            label(config)
    labels = tmp_path / "out.partial" / "part-00000-of-00001" / "labels"
    assert len(list(labels.glob("*.npz"))) == 3
    before = {file.name: file.stat().st_mtime_ns for file in labels.glob("*.npz")}
    monkeypatch.setattr(waves, "MIN_STEPS", 64)
    with monkeypatch.context() as patch:  # stops before the files are removed
        kill_at_rename(patch, "dataset", done=False)
        with pytest.raises(Killed):
            label(config)
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in labels.glob("*.npz")}.items()
    assert files(label(config)) == files(uninterrupted[0])


@pytest.mark.parametrize("readers", [1, 3])
def test_any_number_of_threads_reads_the_same(plan, readers):
    times = StageSeconds(readers=readers)
    for step, spans in enumerate(read_spans(plan, 1, plan.steps, times), 1):
        for actual, expected in zip(spans, plan.read(step, range(plan.rows)), strict=True):
            np.testing.assert_array_equal(actual, expected)
    assert step == plan.steps - 1 > AHEAD
    assert times.reading > 0


def test_an_error_of_reading_is_raised_at_its_step(plan, monkeypatch):
    broken = plan.steps - 2

    def read(step, rows):
        if step == broken:
            raise DatasetDamagedError("cut short")
        return plan_read(step, rows)

    plan_read = plan.read
    monkeypatch.setattr(Plan, "read", lambda _, step, rows: read(step, rows))
    spans = read_spans(plan, 0, plan.steps, StageSeconds())
    assert len([next(spans) for _ in range(broken)]) == broken
    with pytest.raises(DatasetDamagedError, match="cut short"):
        next(spans)


def test_after_an_error_of_writing_nothing_more_is_written():
    saved = []

    def save(step, labels):
        if step == 2:
            raise OSError(28, "No space left on device")
        saved.append((step, labels.tolist()))
        return len(labels)

    writing = Writer(save, StageSeconds())
    assert sum(writing.put(step, np.full(3, step)) for step in range(4)) == 6
    with pytest.raises(OSError, match="No space left"):
        writing.put(4, np.full(3, 4))
    writing.close()
    assert saved == [(0, [0, 0, 0]), (1, [1, 1, 1])]


def test_all_steps_are_written_in_order():
    saved, times = [], StageSeconds()
    writing = Writer(lambda step, labels: saved.append(step) or len(labels), times)
    assert sum(writing.put(step, np.zeros(step)) for step in range(5)) + writing.finish() == 10
    writing.close()
    assert saved == [0, 1, 2, 3, 4]
    assert writing.idle_seconds(0.0) > 0


def test_shares_are_of_the_wall_time():
    times = StageSeconds(wall=10.0, reading=8.0, input_wait=1.0, device=9.0, writing=0.5, readers=4, frames=200)
    assert times.shares() == {"device": 0.9, "reading": 0.2, "waiting for input": 0.1, "writing": 0.05}
    assert str(times).startswith("20.0 frames/s; share of the time: device 90%, reading 20%, waiting for input 10%")


def test_a_wave_waits_for_its_share_and_for_the_first_videos(tmp_path, monkeypatch):
    numbers = dict(zip("abcdef", range(6), strict=True))
    shard = SimpleNamespace(videos=numbers, numbers=numbers, result=lambda name, suffix: tmp_path / f"{name}.{suffix}")
    monkeypatch.setattr(waves, "MIN_STEPS", 2)
    wanted = waves.Waves(shard, rows=4, count_spans=lambda frames: frames // 10)
    (tmp_path / "b.frames").write_text("90")
    assert wanted.next_wave() is None  # the first is missing
    (tmp_path / "a.broken").write_text("")
    assert wanted.next_wave() == {"b": 90}
    assert wanted.next_wave() is None  # two steps of nine spans are labelled
    (tmp_path / "c.frames").write_text("60")
    assert wanted.next_wave() is None  # three of fifteen
    (tmp_path / "d.frames").write_text("10")
    assert wanted.next_wave() == {"b": 90, "c": 60, "d": 10}
