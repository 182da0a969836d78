"""Preparation of datasets: complete and aligned, broken recordings listed, interrupted runs resumed, useful errors."""

import json
import os
import pickle
import re
import shutil
import signal
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from configs.prepare import get_config
from tests import programs
from tests.conftest import files
from vpt_jax.data import codecs, dataset
from vpt_jax.data import prepare as prepare_module
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.recording import RecordingWriter, read_steps
from vpt_jax.system.workers import _Worker

SIZE, CHUNK = 64, 8


def picture(rng, frames):
    """A video that pans over a coarse random picture: all frames are distinct, and neighbours differ clearly."""
    world = np.kron(rng.integers(0, 256, (40, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return np.stack([world[4 * i : 4 * i + SIZE] for i in range(frames)])


def record(path, seed):
    """Writes a recording of 24 + `seed` frames; returns them and the camera."""
    rng = np.random.default_rng(seed)
    film = picture(rng, 24 + seed)
    camera = rng.normal(0, 5, (len(film), 2)).astype(np.float32)
    with RecordingWriter(path, SIZE, SIZE) as recording:
        for frame, angles in zip(film, camera, strict=True):
            keys = {name: int(rng.integers(2)) for name in ("forward", "jump", "attack", "hotbar.3")}
            recording.write(frame, keys | {"camera": angles})
    return film, camera


def settings(recordings, out, **changes):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=SIZE, width=SIZE, chunk_frames=CHUNK, workers=2)
    config.update(changes)
    return config


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """Twelve recordings, and their frames and camera by name."""
    folder = tmp_path_factory.mktemp("takes")
    return folder, {f"take.{seed}": record(folder / f"take.{seed}", seed) for seed in range(12)}


def copy(takes, number, target):
    """Copies a recording to `target`, a path without suffix; returns its two files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = takes[0] / f"take.{number % 12}"
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(f"{source}{suffix}", f"{target}{suffix}")
    return Path(f"{target}.mp4"), Path(f"{target}.jsonl")


def read_episode(index, source, number):
    """All frames and actions of an episode from its records; checks the records' positions."""
    records = range(index.first_record[number], index.first_record[number] + -(-index.lengths[number] // CHUNK))
    parts = [source[record] for record in records]
    for chunk, part in enumerate(parts):
        assert part["episode"].decode() == index.names[number]
        assert (part["chunk"], part["first_frame"], part["num_frames"]) == (chunk, chunk * CHUNK, index.lengths[number])
    frames = [codecs.decode_frames(p["frames"], p["frame_ends"], range(len(p["frame_ends"]))) for p in parts]
    return [np.concatenate(field) for field in (frames, [p["buttons"] for p in parts], [p["camera"] for p in parts])]


def check_episode(index, source, number, recordings, film, camera):
    """Checks that every frame and action of an intact recording is stored at its position."""
    frames, buttons, stored_camera = read_episode(index, source, number)
    distance = np.abs(frames[:, None].astype(int) - film[None]).mean((2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(1), np.arange(len(film)))
    assert distance.diagonal().max() < distance[~np.eye(len(film), dtype=bool)].min() / 2
    steps = read_steps(recordings / f"{index.names[number]}.jsonl")
    rows = slice(index.starts[number], index.starts[number] + index.lengths[number])
    for actions in ((buttons, stored_camera), (index.buttons[rows], index.camera[rows])):
        np.testing.assert_array_equal(actions[0], steps.buttons)
        np.testing.assert_array_equal(actions[1], steps.camera)
    np.testing.assert_allclose(stored_camera, camera, rtol=1e-5)
    assert index.labels == "recorded" == source[index.first_record[number]]["labels"].decode()
    assert (index.confidence[rows] == 1).all()


# Each of these always breaks a recording; a single flipped byte may change only a pixel, or nothing.


def overwrite(path, start, count):
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(255 - byte for byte in data[start : start + count])
    path.write_bytes(data)


def edit_line(path, rng, edit):
    lines = path.read_text().splitlines(keepends=True)
    number = rng.integers(len(lines))
    path.write_text("".join([*lines[:number], edit(lines[number]), *lines[number + 1 :]]))


def set_mouse(line, value):
    content = json.loads(line)
    content["mouse"]["dx"] = value
    return json.dumps(content) + "\n"


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0.1, 0.9))])


DAMAGE = {
    "video cut": lambda mp4, jsonl, rng: cut(mp4, rng),
    "video empty": lambda mp4, jsonl, rng: mp4.write_bytes(b""),
    "video missing": lambda mp4, jsonl, rng: mp4.unlink(),
    "video is text": lambda mp4, jsonl, rng: mp4.write_bytes(jsonl.read_bytes()),
    "video index flipped": lambda mp4, jsonl, rng: overwrite(mp4, mp4.read_bytes().index(b"moov"), 32),
    "first picture flipped": lambda mp4, jsonl, rng: overwrite(mp4, mp4.read_bytes().index(b"mdat") + 4, 2000),
    "actions cut": lambda mp4, jsonl, rng: cut(jsonl, rng),
    "actions empty": lambda mp4, jsonl, rng: jsonl.write_bytes(b""),
    "actions missing": lambda mp4, jsonl, rng: jsonl.unlink(),
    "two lines less": lambda mp4, jsonl, rng: [edit_line(jsonl, rng, lambda line: "") for _ in range(2)],
    "a line twice": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: line * 2),
    "bad json": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: line.replace("}", "]", 1)),
    "no mouse": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: line.replace("mouse", "house")),
    "absurd mouse": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: set_mouse(line, 1e9)),
    "mouse not a number": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: set_mouse(line, float("nan"))),
    "text for the mouse": lambda mp4, jsonl, rng: edit_line(jsonl, rng, lambda line: set_mouse(line, "right")),
}


def test_intact_recordings_are_stored_and_damaged_ones_listed(takes, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    recordings = tmp_path / "recordings"
    kinds = (list(DAMAGE) * 13)[:200]
    for number, kind in enumerate(kinds):
        DAMAGE[kind](*copy(takes, number, recordings / "train" / f"bad {number:03}"), rng)
    good = {f"take {number:02}.b": takes[1][f"take.{number % 12}"] for number in range(30)}
    for number, name in enumerate(good):
        copy(takes, number, recordings / "train" / name)
        copy(takes, number, recordings / "valid" / name)
    monkeypatch.setattr(dataset, "SHARD_BYTES", 600_000)

    out = prepare(settings(recordings, tmp_path / "out"))

    report = json.loads((out / "report.json").read_text())
    listed = Counter(Path(note["file"]).with_suffix("") for note in report["broken"])
    assert listed == Counter(Path("train") / f"bad {number:03}" for number in range(200))
    assert all(note["reason"] and note["detail"] for note in report["broken"])
    assert len(list(out.glob("vpt-train.array_record-*"))) > 1
    for split in ("train", "valid"):
        index, source = dataset.load_index(out, split), dataset.open_records(out, split)
        assert index.names == tuple(good)
        frames = sum(len(film) for film, _ in good.values())
        assert report["splits"][split] == {"episodes": 30, "frames": frames, "broken": 200 * (split == "train")}
        for number, (film, camera) in enumerate(good.values()):
            check_episode(index, source, number, recordings / split, film, camera)


def test_a_flipped_byte_is_listed_or_harmless(takes, tmp_path):
    rng = np.random.default_rng(1)
    for number in range(40):
        file = copy(takes, number, tmp_path / "recordings" / f"take {number}")[number % 2]
        overwrite(file, rng.integers(file.stat().st_size), 1)
    copy(takes, 0, tmp_path / "recordings" / "whole")
    out = prepare(settings(tmp_path / "recordings", tmp_path / "out"))
    index, source = dataset.load_index(out, "train"), dataset.open_records(out, "train")
    broken = {Path(note["file"]).stem for note in json.loads((out / "report.json").read_text())["broken"]}
    assert broken
    assert broken.isdisjoint(index.names)
    assert len(broken) + len(index.names) == 41
    for number, name in enumerate(index.names):
        frames, buttons, camera = read_episode(index, source, number)
        steps = read_steps(tmp_path / "recordings" / f"{name}.jsonl")
        assert len(frames) == len(steps.buttons)
        np.testing.assert_array_equal(buttons, steps.buttons)
        np.testing.assert_array_equal(camera, steps.camera)


@pytest.fixture(scope="module")
def prepared(takes, tmp_path_factory):
    """Forty recordings and the dataset that one worker prepares from them."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(40):
        copy(takes, number, folder / "recordings" / f"take {number:02}")
    (folder / "recordings" / "take 07.jsonl").unlink()
    return folder / "recordings", prepare(settings(folder / "recordings", folder / "out", workers=1))


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def done(out):
    return len(list(Path(f"{out}.partial").glob("episodes/train/*.npz")))


def test_resume_after_a_kill_writes_the_same_bytes(prepared, tmp_path):
    out = tmp_path / "out"
    config = settings(prepared[0], out)
    flags = [f"--config.{name}={value}" for name, value in config.items() if not isinstance(value, ConfigDict)]
    process = programs.Program("prepare", flags, os.environ)
    wait_for(lambda: done(out) >= 3)
    process.kill()
    process.wait()
    assert not out.exists()
    (tmp_path / "out.partial" / "dataset").mkdir()
    (tmp_path / "out.partial" / "dataset" / "left over").touch()
    output = programs.run("prepare", *flags)
    kept = re.search(r"(\d+) of 40 recordings are done already", output)
    assert kept
    assert 3 <= int(kept[1]) < 40
    assert "39 episodes" in output
    assert "100%" in output
    assert files(out) == files(prepared[1])
    assert os.listdir(tmp_path) == ["out"]


def test_a_second_run_completes_after_a_killed_worker(prepared, tmp_path, monkeypatch):
    out, workers, started = tmp_path / "out", prepare_module._workers, []
    start = _Worker.start

    def record_start(worker):
        start(worker)
        started.append(worker.pid)

    @contextmanager
    def workers_with_one_killed(config, recordings):
        with workers(config, recordings) as run:

            def run_and_kill(function, tasks):
                results = run(function, tasks)
                yield next(results)
                os.kill(started[0], signal.SIGKILL)
                yield from results

            yield run_and_kill

    with monkeypatch.context() as patch:
        patch.setattr("vpt_jax.data.prepare._workers", workers_with_one_killed)
        patch.setattr(_Worker, "start", record_start)
        with pytest.raises(PrepareError, match=r"a worker process died, out of memory or at .*take \d\d.*run the same"):
            prepare(settings(prepared[0], out))
    assert 1 <= done(out) < 40
    prepare(settings(prepared[0], out))
    assert files(out) == files(prepared[1])


def test_a_complete_dataset_is_not_prepared_again(prepared, capsys):
    before = files(prepared[1])
    prepare(settings(*prepared))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(PrepareError, match=r"was made with other settings: quality was 90 and is now 50\. Remove it"):
        prepare(settings(*prepared, quality=50))
    mp4 = prepared[0] / "take 00.mp4"
    content = mp4.read_bytes()
    os.utime(mp4)  # the modification time is not part of the content
    prepare(settings(*prepared))
    mp4.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(PrepareError, match="recordings changed"):
            prepare(settings(*prepared))
    finally:
        mp4.write_bytes(content)
    assert files(prepared[1]) == before


def test_invalid_settings_and_recordings_are_refused(takes, prepared, tmp_path):
    with pytest.raises(PrepareError, match=r"--config.recordings=A --config.out=B"):
        prepare(settings("", tmp_path / "out"))
    for field, value in {"height": 36, "width": 0, "chunk_frames": 0, "quality": 101}.items():
        with pytest.raises(PrepareError, match=f"config.{field} is {value}, and must be"):
            prepare(settings(prepared[0], tmp_path / "out", **{field: value}))
    with pytest.raises(PrepareError, match="no folder of recordings"):
        prepare(settings(tmp_path / "nowhere", tmp_path / "out"))
    (tmp_path / "recordings" / "valid").mkdir(parents=True)
    with pytest.raises(PrepareError, match="no recordings"):
        prepare(settings(tmp_path / "recordings", tmp_path / "out"))
    mp4, jsonl = copy(takes, 0, tmp_path / "recordings" / "loose")
    with pytest.raises(PrepareError, match="loose is next to the split folders valid"):
        prepare(settings(tmp_path / "recordings", tmp_path / "out"))
    mp4.rename(tmp_path / "recordings" / "valid" / mp4.name)
    jsonl.unlink()
    with pytest.raises(PrepareError, match=r"all 1 recordings are broken; .*report.json"):
        prepare(settings(tmp_path / "recordings", tmp_path / "out"))
    with pytest.raises(PrepareError, match="in use by something else"):
        prepare(settings(prepared[0], tmp_path))
    assert not (tmp_path / "out").exists()


def test_the_error_for_a_missing_dataset_names_the_command(prepared, tmp_path):
    with pytest.raises(dataset.DatasetMissingError, match=rf"python launch/prepare.py .*--config.out={tmp_path}"):
        dataset.load_index(tmp_path, "train")
    with pytest.raises(dataset.DatasetMissingError, match=r"no split 'valid', only: train"):
        dataset.open_records(prepared[1], "valid")


def test_tfds_reads_the_dataset_and_the_source_can_be_pickled(prepared):
    source = tfds.builder_from_directory(prepared[1]).as_data_source("train")
    ours = dataset.open_records(prepared[1], "train")
    sent = pickle.dumps(ours)
    assert len(sent) < 10_000
    assert (
        len(source)
        == len(ours)
        == sum(-(-length // CHUNK) for length in dataset.load_index(prepared[1], "train").lengths)
    )
    for record in (0, 17, len(ours) - 1):
        for expected, actual in zip(source[record].values(), pickle.loads(sent)[record].values(), strict=True):  # noqa: S301
            np.testing.assert_array_equal(expected, actual)


def test_frames_are_decoded_in_any_selection():
    film = picture(np.random.default_rng(0), 9)
    data, ends = codecs.encode_chunk(film)
    decoded = codecs.decode_frames(data, ends, range(9))
    assert np.abs(decoded.astype(int) - film).mean() < 2
    np.testing.assert_array_equal(codecs.decode_frames(data, ends, np.array([8, 0, 3])), decoded[[8, 0, 3]])
    with pytest.raises(ValueError, match="not a JPEG"):
        codecs.decode_frames(b"\0" * len(data), ends, [1])


def test_codec_measurements_are_consistent():
    film = picture(np.random.default_rng(0), 40)
    rows = {row.codec: row for row in codecs.measure_codecs(film, chunk_frames=16, repeats=1)}
    jpegs = [rows[name] for name in ("JPEG 85", "JPEG 90", "JPEG 95")]
    for worse, better in pairwise(jpegs):
        assert worse.bytes_per_frame < better.bytes_per_frame
        assert worse.mean_abs_error > better.mean_abs_error
        assert worse.psnr < better.psnr
    stored = sum(len(codecs.encode_chunk(film[i : i + 16])[0]) for i in (0, 16, 32))
    assert rows["JPEG 90"].bytes_per_frame == stored / 40
    assert rows["H.264, crf 18"].bytes_per_frame < rows["JPEG 90"].bytes_per_frame
    assert all(row.encoded_per_second > 0 and row.decoded_per_second > 0 for row in rows.values())
