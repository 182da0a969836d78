"""Batches of streams, compared with a simple reference implementation that holds whole episodes in memory."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from vpt_jax.actions.minerl import MINERL
from vpt_jax.data.batch import Batch, combine
from vpt_jax.data.codecs import decode_frames
from vpt_jax.data.dataset import DatasetDamagedError, load_index, open_records
from vpt_jax.data.streams import NULL_RULES, Stream, StreamSettings, WindowStream, batches, in_long_runs


@pytest.fixture(scope="module")
def settings(dataset_dir):
    return StreamSettings(str(dataset_dir), "train", batch=3, length=10, seed=4)


@pytest.fixture(scope="module")
def episodes(dataset_dir):
    """Complete episodes (frames, buttons, camera), read directly from the records."""
    records, whole = open_records(dataset_dir, "train"), {}
    for i in range(len(records)):
        record = records[i]
        all_frames = range(len(record["frame_ends"]))
        part = decode_frames(record["frames"], record["frame_ends"], all_frames), record["buttons"], record["camera"]
        whole.setdefault(record["episode"].decode(), []).append(part)
    return {name: [np.concatenate(field) for field in zip(*parts, strict=True)] for name, parts in whole.items()}


def dropped_frames(null, rule):
    """Indices of the frames that a rule drops: all of each run of null actions that is long enough."""
    shortest = {"drop": 1, "drop_3": 3, "drop_21": 21}.get(rule)
    runs = [list(run) for is_null, run in groupby(range(len(null)), null.__getitem__) if is_null]
    return {i for run in runs if shortest and len(run) >= shortest for i in run}


def reference_epoch(settings, episodes, order):
    """Reference implementation of an epoch: one long list of frames, cut into rows and windows."""
    sequence = []
    for name in order:
        frames, buttons, camera = episodes[name]
        null, start = MINERL.is_null(buttons, camera), True
        dropped = dropped_frames(null, settings.nulls)
        for i in range(len(frames)):
            if i in dropped:
                continue
            valid = not (settings.nulls == "mask" and null[i])
            sequence.append([frames[i], buttons[i], camera[i], start, valid])
            start = False
    steps = -(-len(sequence) // (settings.batch * settings.length))
    padding = [np.zeros_like(value) for value in sequence[0]]
    sequence += [padding] * (settings.batch * steps * settings.length - len(sequence))
    rows = [sequence[row * steps * settings.length :][: steps * settings.length] for row in range(settings.batch)]
    for row in rows:
        row[0] = [*row[0][:3], True, row[0][4]]
    for step in range(steps):
        window = [row[step * settings.length : (step + 1) * settings.length] for row in rows]
        yield Batch(*(np.array([[frame[field] for frame in row] for row in window]) for field in range(5)))


@pytest.mark.parametrize("nulls", NULL_RULES)
def test_batches_equal_the_reference_over_two_epochs(settings, episodes, nulls):
    stream = Stream(replace(settings, nulls=nulls))
    names = list(stream.index.names)
    expected = []
    for epoch in range(2):
        order = np.arange(len(names))
        np.random.default_rng((4, epoch)).shuffle(order)
        expected += reference_epoch(stream.settings, episodes, [names[i] for i in order])
    assert len(expected) == 2 * stream.steps_per_epoch
    for step, wanted in enumerate(expected):
        batch = stream.read(step, range(3))
        assert batch.text is None
        for name, actual, value in zip(Batch._fields[:5], batch[:5], wanted[:5], strict=True):
            np.testing.assert_array_equal(actual, value, f"{name} at step {step}")
            assert actual.dtype == (value.dtype if name != "camera" else np.float32)


def test_null_rules_differ_in_number_of_frames(settings):
    frames = {rule: Stream(replace(settings, nulls=rule)).num_frames for rule in NULL_RULES}
    total = Stream(settings).index.lengths.sum()
    assert frames["keep"] == frames["mask"] == frames["drop_21"] == total  # no run is so long
    assert 0.5 * total < frames["drop"] < frames["drop_3"] < total


def test_runs_are_those_of_at_least_the_given_length():
    mask = np.array([1, 0, 1, 1, 1, 0, 0, 1, 1], bool)
    kept_of = {1: [0, 2, 3, 4, 7, 8], 2: [2, 3, 4, 7, 8], 3: [2, 3, 4], 4: []}
    assert {n: np.flatnonzero(in_long_runs(mask, n)).tolist() for n in kept_of} == kept_of
    assert in_long_runs(mask[:0], 1).tolist() == []


def test_validation_shows_every_frame_once_in_stored_order(dataset_dir, settings):
    stream = Stream(replace(settings, split="valid", shuffle=False, nulls="keep"))
    shown = np.concatenate([stream.read(s, [row]).camera[0] for row in range(3) for s in range(stream.steps_per_epoch)])
    valid = np.concatenate([stream.read(s, [row]).valid[0] for row in range(3) for s in range(stream.steps_per_epoch)])
    np.testing.assert_array_equal(shown[valid], load_index(dataset_dir, "valid").camera)


@pytest.mark.parametrize(("kind", "workers"), [(Stream, 0), (Stream, 2), (WindowStream, 1)])
def test_grain_batches_are_independent_of_start_and_workers(settings, kind, workers):
    stream = kind(settings)
    for step, batch in enumerate(batches(stream, [2, 0], 3, 11, workers), 3):
        for actual, expected in zip(batch, stream.read(step, [2, 0]), strict=True):
            np.testing.assert_array_equal(actual, expected)
    assert step == 10


def test_a_row_continues_its_episode(settings):
    stream = Stream(settings)
    for row in range(3):
        windows = [stream.window(step, row) for step in range(stream.steps_per_epoch)]
        episode, frame, first, real = (np.concatenate(field) for field in zip(*windows, strict=True))
        follows = (episode[1:] == episode[:-1]) & (frame[1:] > frame[:-1])
        assert (follows | first[1:] | ~real[1:]).all()
        assert first[0]


def test_episodes_of_a_step_are_those_of_its_windows(settings):
    stream = Stream(settings)
    for step in (0, 5):
        names = {stream.index.names[e] for row in range(3) for e in stream.window(step, row).episode}
        assert set(stream.episodes(step)) == names


@pytest.mark.parametrize("nulls", NULL_RULES)
def test_an_episode_is_read_in_pieces(settings, episodes, nulls):
    stream = Stream(replace(settings, nulls=nulls))
    frames, buttons, camera = episodes[stream.index.names[2]]
    null = MINERL.is_null(buttons, camera)
    dropped = dropped_frames(null, nulls)
    shown = [i for i in range(len(frames)) if i not in dropped]
    pieces = [stream.read_episode(2, start, 16) for start in range(0, len(shown), 16)]
    whole = combine(lambda parts: np.concatenate(parts, axis=1)[0], pieces)
    for actual, wanted in zip(whole[:3], (frames, buttons, camera), strict=True):
        np.testing.assert_array_equal(actual[: len(shown)], wanted[shown])
        assert not actual[len(shown) :].any()
    assert np.flatnonzero(whole.first).tolist() == [0]
    valid = [i for i in range(len(shown)) if nulls != "mask" or not null[i]]
    assert np.flatnonzero(whole.valid).tolist() == valid
    assert len(whole.valid) % 16 == 0 < len(whole.valid) - len(shown)


@pytest.fixture(scope="module")
def windows(settings):
    return replace(settings, nulls="keep")


def test_random_windows_lie_in_one_episode_and_depend_on_seed_step_and_row_alone(windows):
    stream, again = WindowStream(windows), WindowStream(windows)
    seen = set()
    for step in (50, 3, 7, 0):
        for row in (2, 0, 1):
            window = stream.window(step, row)
            for actual, same in zip(window, again.window(step, row), strict=True):
                np.testing.assert_array_equal(actual, same)
            assert len(set(window.episode)) == 1
            assert (np.diff(window.frame) == 1).all()
            assert window.frame[-1] < stream.index.lengths[window.episode[0]]
            assert window.real.all()
            assert np.flatnonzero(window.first).tolist() == [0]
            seen.add((window.episode[0], window.frame[0]))
    assert len(seen) == 12
    other = WindowStream(replace(windows, seed=5))
    assert any((other.window(step, 0).frame != stream.window(step, 0).frame).any() for step in range(3))
    assert stream.steps_per_epoch == -(-400 // 30)


def test_random_windows_are_uniform_over_positions(windows):
    stream = WindowStream(windows)
    drawn = Counter((w.episode[0], w.frame[0]) for step in range(2500) for w in [stream.window(step, step % 3)])
    places = {(e, start) for e, length in enumerate(stream.index.lengths) for start in range(length - 10 + 1)}
    assert drawn.keys() <= places
    expected = 2500 / len(places)
    chi_square = sum((drawn[place] - expected) ** 2 / expected for place in places)
    assert abs(chi_square - len(places)) < 4 * np.sqrt(2 * len(places))


def test_short_episodes_are_padded(windows, episodes):
    stream = WindowStream(replace(windows, length=50))
    step_of = {stream.index.names[stream.window(step, 0).episode[0]]: step for step in range(400)}
    assert step_of.keys() == episodes.keys()
    for name, step in step_of.items():
        batch, real = stream.read(step, [0]), min(len(episodes[name][0]), 50)
        assert np.flatnonzero(batch.valid[0]).tolist() == list(range(real))
        for stored, shown in zip(episodes[name], batch, strict=False):
            assert not shown[0, real:].any()
            if real < 50:
                np.testing.assert_array_equal(shown[0, :real], stored)


def test_sequential_windows_show_every_frame_once(windows, episodes):
    stream = WindowStream(replace(windows, shuffle=False, batch=4))
    pieces = []
    for name in stream.index.names:
        for start in range(0, len(episodes[name][0]), 10):
            pieces.append([field[start : start + 10] for field in episodes[name]])
    assert stream.steps_per_epoch == -(-len(pieces) // 4)
    for number in range(4 * stream.steps_per_epoch):
        for step in (number // 4, number // 4 + stream.steps_per_epoch):  # the next epoch is the same
            batch = stream.read(step, [number % 4])
            piece = pieces[number] if number < len(pieces) else [field[:0] for field in pieces[0]]
            length = len(piece[0])
            for shown, stored in zip(batch, piece, strict=False):
                np.testing.assert_array_equal(shown[0, :length], stored)
                assert not shown[0, length:].any()
            assert np.flatnonzero(batch.valid[0]).tolist() == list(range(length))


def test_minutes_are_exact_nested_and_independent_of_the_seed(windows):
    def used(minutes, seed=4, kind=Stream):
        stream = kind(replace(windows, minutes=minutes, seed=seed))
        shown = {
            (episode, frame)
            for step in range(stream.steps_per_epoch if kind is Stream else 100)
            for window in [stream.window(step, row) for row in range(3)]
            for episode, frame in zip(window.episode[window.real], window.frame[window.real], strict=True)
        }
        return stream, shown

    stream, little = used(0.1)
    assert stream.num_frames == len(little) == 0.1 * 60 * 20
    assert stream.num_episodes == len({episode for episode, _ in little}) < 7
    assert used(0.1, seed=9)[1] == little
    assert used(0.1, kind=WindowStream)[1] == little
    more = used(0.25)[1]
    assert len(more) == 0.25 * 60 * 20
    assert little < more
    assert used(0)[1] > more
    with pytest.raises(ValueError, match=r"there are 0\.3 minutes of play, and minutes is 99; set it to 0 to use all"):
        used(99)
    assert stream.fingerprint() != used(0.25)[0].fingerprint()


def test_keys_of_the_fingerprint_equal_those_of_stored_runs(settings):
    """Every checkpoint has them, and a run resumes only if they are equal, so a renamed config field keeps its old key.

    The key `nulls` holds `config.data.null_actions`.
    """
    assert Stream(settings).fingerprint().keys() == {
        "split", "batch", "length", "nulls", "seed", "shuffle", "minutes", "frame_shape", "episodes", "kept_frames",
    }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_named(settings, tmp_path, workers):
    copy = shutil.copytree(settings.dataset, tmp_path / "damaged")
    shard = next(copy.glob("vpt-train.array_record*"))
    data = shard.read_bytes()
    picture = data.index(b"\xff\xd8\xff")  # where the first JPEG begins
    shard.write_bytes(data[: picture + 20] + b"\0" * 20 + data[picture + 40 :])
    stream = Stream(replace(settings, dataset=str(copy), shuffle=False))
    with pytest.raises(DatasetDamagedError, match=r"damaged, split 'train': record 0, of episode train0, .*again"):
        list(batches(stream, [0], 0, 1, workers))


def test_workers_end_with_a_killed_parent(settings):
    code = (
        "from vpt_jax.data.streams import *; "
        f"steps = batches(Stream({settings!r}), [0], 0, 99, 1); next(steps); print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", f"if __name__ == '__main__':\n    {code}"]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    parent.communicate(timeout=30)  # its output ends when no process holds it open


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nulls": "skip"}, "drop, mask, keep"),
        ({"batch": 0}, "batch >= 1"),
        ({"length": 0}, "length >= 1"),
        ({"minutes": -1.0}, "minutes is -1.0"),
    ],
)
def test_invalid_settings_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        replace(settings, **change)
