"""Video encoding and decoding, cursor and overlay, compared with tests/golden/json_actions_frames.npz."""

import os
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vpt_jax import video
from vpt_jax.action_overlay import draw_action
from vpt_jax.actions.minerl import BUTTON_INDEX

GOLDEN = Path(__file__).parent / "golden"
STILL = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "json_actions_frames.npz")


def moving_frames(count, height=72, width=128):
    """Smooth pictures that shift, so that the codec has movement to store."""
    y, x = np.mgrid[:height, :width]
    waves = [np.stack([y + 9 * i, x - 5 * i, x + y + 7 * i], -1) for i in range(count)]
    return [(127 + 120 * np.sin(wave / 23)).astype(np.uint8) for wave in waves]


def write_film(path, **options):
    with video.VideoWriter(path, 72, 128, **options) as writer:
        for frame in moving_frames(30):
            writer.write(frame)
    return path


@pytest.fixture
def film(tmp_path):
    return write_film(tmp_path / "film.mp4")


def test_resize_equals_the_references(golden):
    for name in [name for name in golden if name.startswith("resize/")]:
        height, width = map(int, name.removeprefix("resize/from_").split("x"))
        y, x, c = np.mgrid[:height, :width, :3]
        blocks = (x // 16 + y // 16 + c) % 3 * 60
        frame = (7 * y + 5 * x + 85 * c + 31 * 3 + 57 * 99 + x * y // 97 + blocks) % 256
        np.testing.assert_array_equal(video.resize(frame.astype(np.uint8), 128, 128), golden[name], name)


def test_blend_equals_the_references(golden):
    for (x, y), expected in zip(golden["composite/xy"], golden["composite/result"], strict=True):
        drawn = golden["composite/base"].copy()
        video.blend(drawn, golden["cursor_bgra"], x, y)  # the channels' order does not matter to the arithmetic
        np.testing.assert_array_equal(drawn, expected, f"at {x}, {y}")


@pytest.mark.parametrize("x", [-40, -16, -15, -3, 0, 40, 45, 80])
@pytest.mark.parametrize("y", [-40, -16, -1, 0, 30, 60])
def test_a_sprite_is_clipped_at_every_edge(golden, x, y):
    frame, margin = golden["composite/base"], 100
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)))
    video.draw_cursor(padded, x + margin, y + margin)
    drawn = frame.copy()
    video.draw_cursor(drawn, x, y)
    np.testing.assert_array_equal(drawn, padded[margin:-margin, margin:-margin])


def test_the_cursor_is_a_white_arrow_with_its_tip_at_the_position():
    frame = np.full((40, 40, 3), 90, np.uint8)
    video.draw_cursor(frame, 10, 20)
    rows, columns = np.nonzero((frame != 90).any(-1))
    assert (rows.min(), columns.min()) == (20, 10)
    assert rows.max() < 36
    assert columns.max() < 26
    assert (frame == 255).all(-1).sum() > 40


def test_a_written_film_is_read_back(film):
    decoded = list(video.decode(film))
    assert len(decoded) == 30
    assert np.abs(np.array(decoded, float) - moving_frames(30)).mean() < 4
    reader = cv2.VideoCapture(str(film))
    assert reader.get(cv2.CAP_PROP_FPS) == 20
    for frame in decoded:
        np.testing.assert_array_equal(reader.read()[1][..., ::-1], frame)


def test_equal_frames_give_equal_bytes_with_the_index_in_front(film, tmp_path):
    data = write_film(tmp_path / "again.mp4").read_bytes()
    assert data == film.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert write_film(tmp_path / "coarse.mp4", crf=40).stat().st_size < len(data) / 2


def test_a_failed_film_leaves_no_file_and_keeps_an_older_one(film):
    before = film.read_bytes()
    with pytest.raises(KeyError), video.VideoWriter(film, 72, 128) as writer:
        writer.write({}["no such frame"])
    with pytest.raises(ValueError, match="no frame was written"), video.VideoWriter(film, 72, 128):
        pass
    assert [path.name for path in film.parent.iterdir()] == ["film.mp4"]
    assert film.read_bytes() == before


def test_frames_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be even"):
        video.VideoWriter(tmp_path / "odd.mp4", 71, 128)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        video.VideoWriter(tmp_path / "nowhere" / "film.mp4", 72, 128)
    with video.VideoWriter(tmp_path / "film.mp4", 72, 128) as writer:
        for wrong in (np.zeros((72, 126, 3), np.uint8), np.zeros((72, 128, 3), np.float32)):
            with pytest.raises(ValueError, match=r"film.mp4: takes frames uint8\(72, 128, 3\)"):
                writer.write(wrong)
        writer.write(moving_frames(1)[0])
    assert len(list(video.decode(tmp_path / "film.mp4"))) == 1


def test_other_files_are_unreadable_videos_but_a_missing_file_is_missing(tmp_path):
    for data in (b"", b"not a film", b"\0" * 5000):
        (tmp_path / "some.mp4").write_bytes(data)
        with pytest.raises(video.VideoError, match="unreadable video"):
            next(video.decode(tmp_path / "some.mp4"))
    with pytest.raises(FileNotFoundError):
        next(video.decode(tmp_path / "none.mp4"))


def test_damage_inside_a_film_is_detected(film):
    good = film.read_bytes()
    generator = np.random.default_rng(0)
    for start in generator.integers(len(good) // 2, len(good) - 400, 20):
        film.write_bytes(good[:start] + generator.bytes(400) + good[start + 400 :])
        with pytest.raises(video.VideoError, match="damaged video"):
            list(video.decode(film))


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_film_with_any_wrong_byte_of_the_index_is_decoded_or_a_video_error(film, every):
    good, errors = film.read_bytes(), 0
    for position in range(0, good.index(b"mdat"), every):
        film.write_bytes(good[:position] + bytes([good[position] ^ 0xFF]) + good[position + 1 :])
        try:
            list(video.decode(film))
        except video.VideoError:
            errors += 1
    assert errors


def shown_at_ticks(times):
    """Reference: the frame nearest to every twentieth of a second; of two equally near, the earlier."""
    average = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else Fraction(1, 20)
    numbers, tick = [], times[0]
    while tick < times[-1] + average:
        numbers.append(min(range(len(times)), key=lambda i: (abs(times[i] - tick), i)))
        tick += Fraction(1, 20)
    return numbers


def resampled(times):
    """Numbers of the frames that `resample` returns for frames at these times."""
    return list(video.resample(zip(times, range(len(times)), strict=True)))


RATES = [Fraction(rate) for rate in (10, 15, 20, 24, 25, 30, 48, 60, 144)] + [Fraction(30000, 1001)]


@pytest.mark.parametrize("start", [Fraction(0), Fraction(-7, 3), Fraction(1000)])
@pytest.mark.parametrize("rate", RATES)
def test_the_nearest_frame_is_shown_at_any_rate(rate, start):
    for frames in (1, 2, 3, 61, 200):
        times = [start + i / rate for i in range(frames)]
        assert resampled(times) == shown_at_ticks(times)


@pytest.mark.parametrize(("rate", "frames"), [(10, 20), (20, 40), (30, 60), (60, 120)])
def test_two_seconds_are_forty_frames(rate, frames):
    assert len(resampled([Fraction(i, rate) for i in range(frames)])) == 40


def test_a_video_of_twenty_frames_per_second_is_unchanged():
    for frames in (1, 2, 100):
        assert resampled([5 + Fraction(i, 20) for i in range(frames)]) == list(range(frames))
        assert resampled([Fraction(50 * i, 1000) for i in range(frames)]) == list(range(frames))


@pytest.mark.parametrize("seed", range(4))
def test_the_nearest_frame_is_shown_at_irregular_times(seed):
    rng = np.random.default_rng(seed)
    for rate in RATES:
        in_ms = [Fraction(round(1000 * i / rate), 1000) for i in range(100)]  # as Matroska stores it
        jittered = [Fraction(i + float(rng.uniform(-0.45, 0.45))) / rate for i in range(100)]
        assert resampled(in_ms) == shown_at_ticks(in_ms)
        assert resampled(jittered) == shown_at_ticks(jittered)
    uneven = [Fraction(int(ms), 1000) for ms in np.cumsum(rng.choice([1, 5, 17, 33, 50, 400, 3000], 60))]
    assert resampled(uneven) == shown_at_ticks(uneven)


@pytest.mark.parametrize("seed", range(4))
def test_repeated_and_backward_times_are_dropped(seed):
    times = [Fraction(int(ms), 1000) for ms in np.cumsum(np.random.default_rng(seed).integers(-60, 120, 80))]
    later = [0]
    for i, time in enumerate(times):
        if time > times[later[-1]]:
            later.append(i)
    assert len(later) < len(times)
    assert resampled(times) == [later[i] for i in shown_at_ticks([times[i] for i in later])]


def test_a_frame_without_a_time_or_shown_for_over_a_minute_is_damage():
    with pytest.raises(video.VideoError, match="damaged video: a frame has no time stamp"):
        resampled([Fraction(0), None])
    times = [Fraction(3), Fraction(63), Fraction(63) + Fraction(1, 20)]
    assert resampled(times) == shown_at_ticks(times)
    times[1:] = [time + Fraction(1, 100) for time in times[1:]]
    with pytest.raises(video.VideoError, match=r"damaged video: nothing is shown from 3.00 s to 63.01 s"):
        resampled(times)


def test_no_frames_resample_to_no_frames():
    assert resampled([]) == []


def test_a_matroska_file_cut_short_is_damaged(tmp_path):
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8))))
        container.mux(stream.encode(None))
    assert len(list(video.decode(whole))) == 200
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(video.VideoError, match=r"damaged video: it states a length of 10\.00 s, and ends at"):
        list(video.decode(cut))


def test_resampling_is_lazy():
    source = iter(range(10_000))
    shown = video.resample((Fraction(i, 20), i) for i in source)
    assert list(islice(shown, 5)) == [0, 1, 2, 3, 4]
    assert next(source) <= 6


def test_time_stamps_come_from_the_file(tmp_path):
    in_ms = [0, 30, 95, 100, 260, 300, 301, 500, 1500, 1600]
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=20)
        stream.width, stream.height, stream.pix_fmt = 8, 8, "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, ms in enumerate(in_ms):
            frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 20 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    timed = list(video.decode_timed(tmp_path / "film.mkv"))
    times = [time for time, _ in timed]
    assert times == [Fraction(ms, 1000) for ms in in_ms]
    shown = [int(frame[0, 0, 0]) // 20 for frame in video.resample(timed)]
    assert shown == shown_at_ticks(times)
    assert [b - a for a, b in pairwise(shown)].count(0) > 10  # the picture that stood for a second


@pytest.mark.parametrize("height", [1, 9, 36, 37])
@pytest.mark.parametrize("width", [1, 15, 16, 48, 64, 65, 66, 99, 200])
@pytest.mark.parametrize("aspect", [(16, 9), (4, 3), (1, 1), (9, 16)])
def test_the_aspect_is_fitted_by_cropping_or_padding_the_sides(height, width, aspect):
    frame = np.random.default_rng(0).integers(1, 256, (height, width, 3)).astype(np.uint8)
    fitted = video.fit_aspect(frame, *aspect)
    assert len(fitted) == height
    assert abs(fitted.shape[1] - height * aspect[0] / aspect[1]) <= 0.5
    shared = min(width, fitted.shape[1])
    cut, added = (width - shared) // 2, (fitted.shape[1] - shared) // 2
    for column in range(fitted.shape[1]):
        source = column - added + cut
        expected = frame[:, source] if added <= column < added + shared else 0
        np.testing.assert_array_equal(fitted[:, column], np.broadcast_to(expected, (height, 3)))


def test_a_frame_with_the_target_aspect_is_unchanged():
    frame = np.random.default_rng(0).integers(0, 256, (72, 128, 3)).astype(np.uint8)
    np.testing.assert_array_equal(video.fit_aspect(frame, 16, 9), frame)


def test_an_action_is_drawn_on_a_copy():
    frame = np.full((360, 640, 3), 80, np.uint8)
    buttons = np.zeros(20, np.uint8)
    idle = draw_action(frame, buttons, STILL)
    assert (frame == 80).all()
    assert (idle[40:] == 80).all()
    for name in ("forward", "attack", "hotbar.9"):
        buttons[BUTTON_INDEX[name]] = 1
        held = draw_action(frame, buttons, STILL)
        lit = (held[:40, :, 0] > 200) & (idle[:40, :, 0] < 200)
        assert lit.sum() > 200, name
        idle = held
    right, left = (draw_action(frame, buttons, np.array([0.0, yaw])) for yaw in (5, -5))
    assert (right != left).any()


@pytest.mark.parametrize(("height", "width"), [(360, 640), (180, 320), (128, 128), (8, 640)])
def test_recorded_actions_are_drawn_above_predicted_ones(height, width):
    frame = np.zeros((height, width, 3), np.uint8)
    buttons = np.ones(20, np.uint8)
    drawn = draw_action(frame, buttons, STILL, (np.zeros(20, np.uint8), STILL))
    assert drawn.shape == frame.shape
    row = min(width // 20, height // 2)
    assert (drawn[:row] == 255).sum() > (drawn[row : 2 * row] == 255).sum()


def write_long(path, codec, seconds, **options):
    """A film whose frames encode their numbers, ten per second; key frames are seconds apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": "33", **options})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(10 * seconds):
            picture = np.full((32, 32, 3), 40 + i % 170, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path


CONTAINERS = [("film.mp4", "libx264"), ("film.mkv", "libx264"), ("film.webm", "libvpx"), ("film.avi", "mpeg4"),
         ("film.ts", "libx264")]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_a_range_of_frames_equals_that_range_of_the_whole_video(tmp_path, name, codec, monkeypatch):
    film = write_long(tmp_path / name, codec, 150)
    whole = list(video.resampled_frames(film))
    assert len(whole) == 3000
    decoded = count_decoded(monkeypatch)
    for first, stop in ((0, 30), (1, 2), (1190, 1260), (2001, 2100), (2990, None), (2995, 4000), (5000, 5001)):
        decoded.clear()
        part = list(video.resampled_frames(film, first, stop))
        np.testing.assert_array_equal(part, whole[first:stop])
        if 2000 < first < 3000 and name != "film.ts":  # which has no index of key frames
            assert len(decoded) < 200


def count_decoded(monkeypatch):
    decoded, original = [], video._all_frames
    monkeypatch.setattr(
        video, "_all_frames", lambda *inputs: (decoded.append(1) or pair for pair in original(*inputs))
    )  # fmt: skip
    return decoded


def test_a_playlist_of_other_files_is_not_a_video(tmp_path, film):
    other = tmp_path / "list.mp4"
    for text in (f"ffconcat version 1.0\nfile {film.name}\n", f"#EXTM3U\n#EXTINF:1,\n{film.name}\n#EXT-X-ENDLIST\n"):
        other.write_text(text)
        with pytest.raises(video.VideoError, match="unreadable video"):
            list(video.decode(other))
    assert len(list(video.decode(film))) == 30


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "film.mp4")
    with pytest.raises(video.VideoError, match="it is not a regular file"):
        list(video.decode(tmp_path / "film.mp4"))


def test_frames_of_an_absurd_size_are_refused_before_they_are_decoded(tmp_path, film, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 72 * 128 - 1)
    with pytest.raises(video.VideoError, match="its frames are 128x72"):
        list(video.decode(film))


def test_a_video_longer_than_a_day_is_refused():
    days = (Fraction(50 * i) for i in range(10**9))  # each frame is repeated 1,000 times
    shown = video.resample((time, 0) for time in days)
    with pytest.raises(video.VideoError, match="absurd size: the video is longer than 24 hours"):
        sum(1 for _ in shown)
