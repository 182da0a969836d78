"""Labelling plans: kept labels and frames read, compared with simple loops over frames."""

from pathlib import Path

import numpy as np
import pytest

from vpt_jax.data import codecs, dataset
from vpt_jax.data.clips import Clip, FrameSettings, encode_video
from vpt_jax.labelling.plan import EncodedVideo, Labels, Plan
from vpt_jax.video import VideoWriter

LENGTHS = range(1, 43)


def window_starts(length, window):
    """First frames of the windows: half a window apart, up to the first one that reaches the end."""
    starts = [0]
    while starts[-1] + window < length:
        starts.append(starts[-1] + window // 2)
    return starts


def frames_labelled(length, window):
    """(frame, window, position in the window) of every kept label, frame by frame."""
    starts, counted = window_starts(length, window), []
    for frame in range(length):
        for number, start in enumerate(starts):
            position = frame - start
            middle = window / 4 <= position < 3 * window / 4
            at_start = number == 0 and 0 <= position < window / 4
            at_end = number == len(starts) - 1 and 3 * window / 4 <= position < window
            if middle or at_start or at_end:
                counted.append((frame, number, position))
    return counted


def spans_of(lengths, window, windows):
    """The video of every span, and the index of its first window."""
    return [
        (video, first)
        for video, length in enumerate(lengths)
        for first in range(0, len(window_starts(length, window)), windows)
    ]


def labels_of_their_origin(plan, step, spans):
    """Labels that encode the video, the window's index and the position in it. The last rows may have no span."""
    shape = plan.rows, plan.windows_per_span, plan.window
    video, number = np.full(shape, 255), np.full(shape, 255)
    for row, (index, first) in enumerate(spans[step * plan.rows : (step + 1) * plan.rows]):
        video[row], number[row] = index, np.arange(first, first + plan.windows_per_span)[:, None]
    position = np.broadcast_to(np.arange(plan.window), shape)
    buttons = np.repeat(number[..., None], 20, -1).astype(np.uint8)
    return Labels(
        buttons, np.stack([position, video], -1).astype(np.float32), (1000 * number + position).astype(np.float32)
    )


def plan_of(lengths, window=8, windows=3, rows=4):
    return Plan(tuple(EncodedVideo(Path(), length, 5) for length in lengths), window, windows, rows)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [4, 8])
def test_the_reference_labels_every_frame_once(length, window):
    assert [frame for frame, _, _ in frames_labelled(length, window)] == list(range(length))


@pytest.mark.parametrize("window", [4, 8])
@pytest.mark.parametrize("windows", [1, 2, 3, 30])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_every_frame_is_labelled_once_in_order_by_the_correct_window(window, windows, rows):
    plan, spans = plan_of(LENGTHS, window, windows, rows), spans_of(LENGTHS, window, windows)
    assert plan.num_spans == len(spans)
    assert plan.steps == -(-len(spans) // rows)
    steps = [plan.select_kept(step, labels_of_their_origin(plan, step, spans)) for step in range(plan.steps)]
    for video, (length, labels) in enumerate(zip(LENGTHS, plan.split_by_video(steps), strict=True)):
        expected = frames_labelled(length, window)
        assert (labels.camera[:, 1] == video).all()
        np.testing.assert_array_equal(labels.buttons[:, 7], [number for _, number, _ in expected])
        np.testing.assert_array_equal(labels.camera[:, 0], [position for _, _, position in expected])
        np.testing.assert_array_equal(labels.confidence, [1000 * number + position for _, number, position in expected])


def test_labels_are_split_by_video_wherever_steps_end():
    rng, lengths = np.random.default_rng(0), (3, 1, 20, 7, 1)
    total = sum(lengths)
    buttons, camera = rng.integers(0, 2, (total, 20)).astype(np.uint8), rng.normal(0, 5, (total, 2)).astype(np.float32)
    whole = Labels(buttons, camera, rng.random(total).astype(np.float32))
    for ends in ([total], [4, total], [3, 4, 24, 31, total], range(1, total + 1)):
        steps = [Labels(*(field[a:b] for field in whole)) for a, b in zip([0, *ends], ends, strict=False)]
        start = 0
        for length, labels in zip(lengths, plan_of(lengths).split_by_video(steps), strict=True):
            for field, expected in zip(labels, whole, strict=True):
                np.testing.assert_array_equal(field, expected[start : start + length])
            start += length


def test_no_more_steps_are_loaded_than_a_video_needs():
    loaded = []

    def steps():
        for step in range(8):
            loaded.append(step)
            yield Labels(np.zeros((5, 20), np.uint8), np.zeros((5, 2), np.uint8), np.zeros(5, np.float32))

    videos = plan_of((7, 3, 30)).split_by_video(steps())
    assert [(len(next(videos).buttons), len(loaded)) for _ in range(3)] == [(7, 2), (3, 2), (30, 8)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Videos at the model's size, 5 frames to a record, and their frames as stored."""
    folder, videos, frames = tmp_path_factory.mktemp("stored"), [], []
    for length in (1, 4, 5, 8, 9, 12, 13, 37):
        film = folder / f"{length}.mp4"
        with VideoWriter(film, 16, 32) as writer:
            for i in range(length):
                writer.write(np.full((16, 32, 3), 40 + 5 * i, np.uint8))
        assert (
            encode_video(Clip(film), folder / str(length), FrameSettings(8, 16, (2, 1), chunk_frames=5, quality=90))
            == length
        )
        videos.append(EncodedVideo(folder / f"{length}.records", length, 5))
        records = [dataset.parse_chunk(record) for record in dataset.read_records(videos[-1].records)]
        decoded = [codecs.decode_frames(r["frames"], r["frame_ends"], range(len(r["frame_ends"]))) for r in records]
        frames.append(np.concatenate(decoded))
        np.testing.assert_allclose(frames[-1].mean((1, 2, 3)), 40 + 5 * np.arange(length), atol=2)
    return tuple(videos), frames


@pytest.mark.parametrize(("window", "windows", "rows"), [(4, 1, 1), (4, 3, 4), (8, 1, 3), (8, 2, 5), (8, 20, 8)])
def test_spans_hold_the_frames_of_their_video_and_black_beyond(stored, window, windows, rows):
    videos, frames = stored
    plan, spans = Plan(videos, window, windows, rows), spans_of([len(f) for f in frames], window, windows)
    for step in range(plan.steps):
        read = plan.read(step, range(rows))
        assert read.frames.shape == (rows, (windows + 1) * window // 2 + 4, 8, 16, 3)
        for row in range(rows):
            if step * rows + row >= len(spans):
                assert not read.frames[row].any()
                assert not read.valid[row].any()
                continue
            video, first = spans[step * rows + row]
            assert read.origin[row].tolist() == [videos[video].sampling_seed, first]
            for i, pixels in enumerate(read.frames[row]):
                frame = first * window // 2 + i - 2
                inside = 0 <= frame < len(frames[video])
                np.testing.assert_array_equal(pixels, frames[video][frame] if inside else 0 * pixels)
                if 2 <= i < len(read.frames[row]) - 2:
                    assert read.valid[row, i - 2] == inside


def test_rows_are_read_in_any_selection(stored):
    plan = Plan(stored[0], 8, 2, 5)
    whole = plan.read(1, range(5))
    for selected, all_rows in zip(plan.read(1, [3, 0]), whole, strict=True):
        np.testing.assert_array_equal(selected, all_rows[[3, 0]])
