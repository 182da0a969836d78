"""Labelling of a folder of videos: content of the dataset, and rejected inputs.

Jobs run as a user starts them, by launch/label.py, or in this process, which is quicker.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import idm
from vpt_jax.actions.minerl import CAMERA
from vpt_jax.data import codecs, dataset
from vpt_jax.data.captions import read_captions
from vpt_jax.data.manifest import VideoSegment
from vpt_jax.labelling.job import LabelError, label
from vpt_jax.models.presets import make_idm
from vpt_jax.video import VideoWriter, decode, fit_aspect, resize

from ..programs import ROOT
from ..programs import run as run_program
from ..training.conftest import Launcher
from .conftest import (
    BROKEN,
    CHUNK,
    GOOD,
    SIZE,
    WINDOW,
    assert_same_labels,
    files,
    labels_by_name,
    load_once,
    pictures,
    save_checkpoint,
    settings,
    write_video,
)
from .test_plan import frames_labelled, window_starts


def test_the_dataset_holds_every_good_video(uninterrupted):
    out, output = uninterrupted
    index = dataset.load_index(out, "train")
    assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == GOOD
    assert index.labels == "predicted"
    assert index.chunk_frames == CHUNK
    assert index.buttons.shape == (sum(GOOD.values()), 20)
    assert 0.05 < index.buttons.mean() < 0.95
    assert set(np.unique(index.camera)) <= set(CAMERA.centres.astype(np.float32))
    assert index.confidence.min() > 0
    assert index.confidence.max() <= 1
    assert f"7 videos of {sum(GOOD.values())} frames, labelled with a mean confidence of" in output
    assert os.listdir(out.parent) == ["out"]


def test_broken_videos_are_listed_and_left_out(uninterrupted, videos):
    out, output = uninterrupted
    report = json.loads((out / "report.json").read_text())
    assert [note["file"] for note in report["broken"]] == [str(videos / name) for name in BROKEN]
    assert all(note["reason"] and note["detail"] for note in report["broken"])
    assert report["splits"] == {"train": {"episodes": 7, "frames": sum(GOOD.values()), "broken": 3}}
    assert report["made_of"]["mode"] == "shared"
    assert report["mean_confidence"] == pytest.approx(float(np.mean(dataset.load_index(out, "train").confidence)))
    assert all(f"broken: {videos / name}: unreadable video" in output for name in BROKEN)
    assert "to include repaired videos, label them into another --config.out" in output


def read_video(out, number):
    """The frames of a video from its records; checks the records' labels and positions."""
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
def test_records_hold_the_labels_of_the_index_and_the_frames_nearest_in_time(uninterrupted, videos, number):
    frames = read_video(uninterrupted[0], number)
    name = list(GOOD)[number]
    (file,) = (path for path in videos.rglob("*") if path.with_suffix("") == videos / name)
    resized = np.stack([resize(fit_aspect(frame, 16, 9), SIZE, SIZE) for frame in decode(file)])
    distance = np.abs(frames[:, None].astype(int) - resized[None]).mean((2, 3, 4))
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


def test_a_film_shows_the_labels(uninterrupted, videos):
    (film,) = (uninterrupted[0] / "films").iterdir()
    assert film.name == "long.mp4"
    shown, plain = list(decode(film)), list(decode(videos / "long.mp4"))
    assert len(shown) == len(plain) == 90
    for frame, before in zip(shown, plain, strict=True):
        assert frame.shape == (360, 640, 3)
        difference = np.abs(frame.astype(int) - resize(before, 360, 640)).mean(-1)
        assert difference[:30].mean() > 4 * difference[50:].mean()  # the keys are drawn along the upper edge


def write_manifest(path, segments):
    pq.write_table(pa.table(dict(zip(VideoSegment._fields, zip(*segments, strict=True), strict=True))), path)
    return path


def test_segments_have_the_frames_of_their_video(videos, idm_dir, tmp_path, in_process, uninterrupted):
    segments = [("long.mp4", 0.5, 2.0), ("long.mp4", 2.0, 4.6), ("some/odd.mkv", 0.0, 1.0), ("bad/cut.mp4", 0.0, 1.0),
                ("gone.mp4", 0.0, 1.0), ("bad/cut.mp4", 2.0, 3.0)]  # fmt: skip
    manifest = write_manifest(videos / "segments.parquet", segments)
    try:
        out = label(settings(manifest, idm_dir, tmp_path / "out"))
    finally:
        manifest.unlink()
    index = dataset.load_index(out, "train")
    lengths = {"long@10-40": 30, "long@40-92": 50, "some/odd@0-20": 20}  # the second ends with its video
    assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == lengths
    whole = dict(zip(GOOD, (read_video(uninterrupted[0], i) for i in range(len(GOOD))), strict=True))
    for number, (video, rows) in enumerate((("long", slice(10, 40)), ("long", slice(40, 90)), ("some/odd", slice(20)))):
        np.testing.assert_array_equal(read_video(out, number), whole[video][rows])
    broken = json.loads((out / "report.json").read_text())["broken"]
    assert [(note["file"].rpartition("/")[2], note["reason"]) for note in broken] == [
        ("cut.mp4, frames 0 to 20", "unreadable video"), ("cut.mp4, frames 40 to 60", "unreadable video"),
        ("gone.mp4, frames 0 to 20", "missing video"),
    ]  # fmt: skip


def test_a_segment_after_the_end_is_listed(videos, idm_dir, tmp_path, in_process):
    manifest = write_manifest(videos / "late.parquet", [("long.mp4", 0.0, 1.0), ("long.mp4", 2.0, 5.6)])
    try:
        report = json.loads((label(settings(manifest, idm_dir, tmp_path / "out")) / "report.json").read_text())
    finally:
        manifest.unlink()
    assert [note["detail"] for note in report["broken"]] == ["it has no frames 90 to 112 (20 per second)"]


def test_labels_keep_the_subtitles_of_their_videos(videos, idm_dir, tmp_path, in_process):
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(videos / "long.mp4", folder / "a.mp4")
    subtitles = folder / "a.srt"
    subtitles.write_text("1\n00:00:02,000 --> 00:00:03,000\nopen the door\n")
    write_manifest(folder / "parts.parquet", [("a.mp4", 0.0, 2.2), ("a.mp4", 2.5, 4.0)])
    config = settings(folder / "parts.parquet", idm_dir, tmp_path / "out", num_films=0)
    index = dataset.load_index(label(config), "train")
    captions = read_captions(tmp_path / "out" / "index" / "train", index.lengths)
    assert captions == [[(40, "open the door")], [(0, "open the door"), (10, "")]]
    subtitles.write_text("")
    with pytest.raises(LabelError, match="subtitles was"):
        label(config)


def test_a_video_whose_frame_size_changes_is_labelled(videos, idm_dir, tmp_path, in_process):
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
    """Reference logits of every frame: applies the model window by window."""
    module, params, *_ = load_once(idm_dir)
    logits = {"buttons": np.zeros((len(frames), 20, 2)), "camera": np.zeros((len(frames), 2, 11))}
    starts = window_starts(len(frames), WINDOW)
    padded = np.pad(frames, [(2, starts[-1] + WINDOW - len(frames) + 2), (0, 0), (0, 0), (0, 0)])
    window_logits = []
    for start in starts:
        window, valid = padded[None, start : start + WINDOW + 4].copy(), np.arange(start, start + WINDOW) < len(frames)
        if mode == "exact":
            window[:, :2] = window[:, -2:] = 0
        embeddings = apply_compiled(module, "embed", params, window)
        window_logits.append(apply_compiled(module, "attend", params, embeddings, valid[None]).logits)
    for frame, number, position in frames_labelled(len(frames), WINDOW):
        for head in logits:
            logits[head][frame] = window_logits[number][head][0, position]
    return logits


@partial(jax.jit, static_argnums=(0, 1))
def apply_compiled(module, method, params, *inputs):
    return module.apply({"params": params}, *inputs, method=method)


@pytest.mark.parametrize("mode", ["shared", "exact"])
def test_labels_match_the_model_on_the_correct_windows(
    mode, uninterrupted, videos, idm_dir, tmp_path, in_process
):  # fmt: skip
    out = (
        uninterrupted[0] if mode == "shared" else label(settings(videos, idm_dir, tmp_path / "out", mode=mode, batch=5))
    )
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


def test_shards_give_the_same_labels(uninterrupted, videos, idm_dir, tmp_path, in_process, capsys):
    label(settings(videos, idm_dir, tmp_path / "whole", choice="sample"))
    for shard_index in (2, 0, 1):
        assert not (tmp_path / "out").exists()
        label(settings(videos, idm_dir, tmp_path / "out", choice="sample", num_shards=3, shard_index=shard_index))
        if shard_index == 0:
            assert "is made once these are too: part-00001-of-00003" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
    assert_same_labels(tmp_path / "out", tmp_path / "whole")
    for number in range(len(GOOD)):
        read_video(tmp_path / "out", number)
    reports = [json.loads((out / "report.json").read_text()) for out in (tmp_path / "out", uninterrupted[0])]
    assert reports[0]["splits"] == reports[1]["splits"]
    assert sorted(note["file"] for note in reports[0]["broken"]) == [note["file"] for note in reports[1]["broken"]]
    assert len(list((tmp_path / "out" / "films").rglob("*.mp4"))) == 3


def test_a_complete_job_is_not_repeated(uninterrupted, videos, idm_dir, tmp_path, in_process, capsys):
    before = files(uninterrupted[0])
    (uninterrupted[0].parent / "out.partial" / "left over").mkdir(parents=True)
    label(settings(videos, idm_dir, uninterrupted[0]))
    assert "nothing to do" in capsys.readouterr().out
    more = shutil.copytree(videos, tmp_path / "videos")
    write_video(more / "new.mkv", "ffv1", "bgr0", pictures(3, 8, 8))
    with pytest.raises(LabelError, match=r"other settings or videos: other videos \(new: new\)\. Remove it"):
        label(settings(more, idm_dir, uninterrupted[0]))
    assert files(uninterrupted[0]) == before
    assert os.listdir(uninterrupted[0].parent) == ["out"]


def test_invalid_settings_and_videos_are_refused(videos, idm_dir, tmp_path, in_process):
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
        ("shard_index", 1, "config.shard_index is 1, and must be from 0 to 0"),
    ):
        value = str(value) if isinstance(value, Path) else value
        with pytest.raises(LabelError, match=message) as raised:
            label(settings(videos, idm_dir, tmp_path / "out", **{name: value}))
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()


def test_errors_of_the_program_are_one_line(launcher, videos, idm_dir, policy_dir, tmp_path):
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
    for minutes in (0.1, 1, 60):  # the first run only compiles
        folder, frames = tmp_path / str(minutes), int(minutes * 60 * 20)
        (folder / "videos").mkdir(parents=True)
        with VideoWriter(folder / "videos" / "film.mp4", SIZE, SIZE) as writer:
            for i in range(frames):
                writer.write(np.full((SIZE, SIZE, 3), i % 256, np.uint8))
        config = settings(folder / "videos", idm_dir, folder / "out", num_films=0)
        config.update(windows_per_span=15, batch=1)
        flags = [f"--config.{name}={value}" for name, value in config.items()]
        process = subprocess.Popen([sys.executable, "launch/label.py", *flags], cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)  # the largest of the job's processes
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert dataset.load_index(folder / "out", "train").lengths == [frames]
        peaks[minutes] = usage.ru_maxrss / 2**10
    print(f"peak memory in MiB by minutes: {peaks}")
    assert peaks[60] == pytest.approx(peaks[1], rel=0.1)


@pytest.mark.slow
def test_labelling_with_a_trained_model(launcher, dataset_dir, videos, tmp_path):
    length = f"--config.data.length={WINDOW}"
    Launcher("idm.py:demo", dataset_dir).run(tmp_path / "idm", length)
    launcher.run(settings(videos, tmp_path / "idm", tmp_path / "out"))
    assert {name: len(labels[0]) for name, labels in labels_by_name(tmp_path / "out").items()} == GOOD


@pytest.mark.slow  # some seconds
def test_the_clip_of_the_repository_is_labelled_and_filmed(idm_dir, tmp_path):
    """The showcase's command, with a model of the tests."""
    flags = [f"--config.idm={idm_dir}", f"--config.out={tmp_path / 'labels'}"]
    output = run_program("label", "--config=configs/label.py:showcase", *flags)
    assert "1 videos of 200 frames" in output
    film = tmp_path / "labels" / "films" / "E1M5-held-out.mp4"
    assert len(list(decode(film))) == 200
