"""Time stamps of video files: clocks that restart, wrong and missing times, long last frames."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from tests.film_maker import number_of, numbered, write_film
from vpt_jax.video import VideoError, decode, decode_timed, probe, resampled_frames
from vpt_jax.video_clock import (
    MAX_GAP,
    duration_and_interval,
    last_frame_duration,
    make_monotone,
    presentation_order,
    resample,
    sort_times,
)


def in_ms(*times):
    return [None if time is None else Fraction(int(time), 1000) for time in times]


def checked_make_monotone(times, **options):
    """The repaired times; fails if a frame is lost, or a time is not later than its predecessor."""
    given = list(make_monotone(enumerate(times), **options))
    assert [number for number, _ in given] == list(range(len(times)))
    after = [time for _, time in given]
    known = [time for time in after if time is not None]
    assert all(a < b for a, b in pairwise(known))
    assert None not in after[len(after) - len(known) :]
    return after


def clock(start, count, gap=50):
    return [start + gap * i for i in range(count)]


@pytest.mark.parametrize("start", [-3000, 0, 10**7])
def test_valid_times_are_unchanged(start):
    rng = np.random.default_rng(0)
    for times in (clock(start, 50), (start + np.cumsum(rng.integers(1, 3000, 50))).tolist(), [start], []):
        assert checked_make_monotone(in_ms(*times)) == in_ms(*times)
        assert checked_make_monotone(in_ms(*times), discontinuous=True) == in_ms(*times)


@pytest.mark.parametrize("parts", [[60, 60], [60, 5, 60], [5, 1], [40, 30, 20, 10], [10] * 12])
@pytest.mark.parametrize("gap", [50, 40, 33])
def test_a_clock_that_restarts_continues_the_previous_one(parts, gap):
    """Concatenated streams may start at any times."""
    for starts in ([0] * 12, [1400 - 700 * i for i in range(12)]):
        times = [time for start, count in zip(starts, parts, strict=False) for time in clock(start, count, gap)]
        assert checked_make_monotone(in_ms(*times)) == in_ms(*clock(starts[0], sum(parts), gap))


def test_a_jump_forward_is_a_new_clock_if_clocks_may_be_discontinuous():
    """Only some containers, such as transport streams, may hold several clocks."""
    times = clock(0, 60) + clock(95_000, 60) + clock(100, 60) + clock(26 * 3600_000, 60)
    assert checked_make_monotone(in_ms(*times), discontinuous=True) == in_ms(*clock(0, 240))
    assert checked_make_monotone(in_ms(*times[:120])) == in_ms(
        *times[:120]
    )  # in other containers, `resample` reports damage


@pytest.mark.parametrize("seed", range(4))
def test_a_few_wrong_or_missing_times_are_interpolated(seed):
    rng = np.random.default_rng(seed)
    good = in_ms(*clock(0, 100))
    for wrong in (None, Fraction(-1), Fraction(0), Fraction(10**6)):
        times, positions = list(good), rng.choice(np.arange(1, 99), 5, replace=False)
        for position in positions:
            times[position] = wrong
        after = checked_make_monotone(times, discontinuous=True)
        assert all(after[i] == good[i] for i in range(100) if i not in positions)
        assert all(abs(after[i] - good[i]) <= Fraction(1, 10) for i in positions)


def test_missing_times_stay_none_and_repeated_ones_are_spread():
    assert checked_make_monotone([None] * 20) == [None] * 20
    assert checked_make_monotone(in_ms(0, 50, 50, 150)) == in_ms(0, 50, 100, 150)
    assert checked_make_monotone(in_ms(None, 0, 50)) == in_ms(None, 0, 50)
    checked_make_monotone(in_ms(*[7] * 50))
    for seed in range(20):
        checked_make_monotone(in_ms(*np.random.default_rng(seed).integers(-500, 500, 60)), discontinuous=bool(seed % 2))


def test_permuted_times_are_sorted():
    """H.264 in AVI files has such times."""
    times = in_ms(1, 4, 3, 5, 2, 8, 7, 9, 6, None, 11, 10)
    given = list(sort_times(enumerate(times)))
    assert [number for number, _ in given] == list(range(12))
    assert [time for _, time in given] == in_ms(1, 2, 3, 4, 5, 6, 7, 8, 9, None, 10, 11)


def test_packets_are_sorted_into_presentation_order_clock_by_clock():
    decoded = [(2, 0), (4, 1), (3, 2), (7, 3), (5, None), (6, 5), (0, 0), (2, 1), (1, 2), (5000, 4999)]
    assert [time for _, time in presentation_order(decoded, 100)] == [2, 3, 4, 5, 6, 7, 0, 1, 2, 5000]
    assert [time for _, time in presentation_order(decoded[:6], None)] == [2, 3, 4, 5, 6, 7]


def test_the_last_frame_lasts_as_stated_but_no_shorter_than_the_others():
    """Its duration is limited to that of the largest gap."""
    mean = Fraction(1, 20)
    for stated, expected in ((None, mean), (Fraction(1, 25), mean), (Fraction(7, 100), mean), (Fraction(10), 10),
                             (Fraction(3600), MAX_GAP)):  # fmt: skip
        assert last_frame_duration(mean, stated) == expected
        times = in_ms(*clock(500, 40))
        length, average = duration_and_interval(times, stated)
        assert (length, average) == (Fraction(39, 20) + expected, mean)
        shown = list(resample(((time, 0) for time in times), last_duration=lambda: stated))  # noqa: B023
        assert len(shown) == length * 20


def test_resample_and_duration_and_interval_raise_the_same_errors():
    for times, message in ((in_ms(0, 60_001), "nothing is shown from 0.00 s to 60.00 s"),
                           (in_ms(0, None), "a frame has no time stamp"),
                           (in_ms(*range(0, 10**8, 50_000)), "the video is longer than 24 hours")):  # fmt: skip
        ticks = 10**7 if len(times) > 2 else 0  # beyond the end, so that no frame is returned, which is quick
        for read in (duration_and_interval, lambda times: list(resample(((time, 0) for time in times), first=ticks))):  # noqa: B023
            with pytest.raises(VideoError, match=message):
                read(times)


def check_agreement(film, frames):
    """Checks that decode, resampled_frames and probe agree on a film of 20 frames per second; returns its numbers."""
    assert sum(1 for _ in decode(film)) <= frames
    info = probe(film)
    shown = [number_of(frame) for frame in resampled_frames(film)]
    assert len(shown) == frames
    assert info.seconds == pytest.approx(frames / 20, abs=0.051)
    times = [time for time, _ in decode_timed(film)]
    assert all(a < b for a, b in pairwise(times))
    return shown


@pytest.mark.parametrize(
    ("name", "codec"),
    [("film.ts", "libx264"), ("film.m2ts", "mpeg2video"), ("film.mpg", "mpeg1video"), ("film.mkv", "libx264")],
)
def test_concatenated_films_are_read_to_the_end(tmp_path, name, codec):
    """The files are concatenated as by cat."""
    part = write_film(tmp_path / f"part-{name}", numbered(40), codec).read_bytes()
    film, parts = tmp_path / name, 1 if name.endswith("mkv") else 3
    film.write_bytes(part * parts)
    shown = [number_of(frame) for frame in decode(film)]
    assert len(shown) == 40 * parts
    rate = 25 if codec.startswith("mpeg") else 20
    if rate == 20:
        assert check_agreement(film, 40 * parts) == shown
        assert [number_of(frame) for frame in resampled_frames(film, 35, 50)] == shown[35:50]
    else:
        assert sum(1 for _ in resampled_frames(film)) == 40 * parts * 20 // rate
        assert probe(film).seconds == pytest.approx(40 * parts / rate, abs=0.1)


def test_a_transport_stream_with_a_piece_cut_out_has_no_gap(tmp_path):
    """Its clock jumps forward, or back before its start."""
    parts = [write_film(tmp_path / f"{start}.ts", numbered(20), times=clock(start, 20)).read_bytes()
             for start in (50_000, 5_000_000, 0, 90_000)]  # fmt: skip
    film = tmp_path / "film.ts"
    film.write_bytes(b"".join(parts))
    assert check_agreement(film, 80) == [*range(20)] * 4


@pytest.mark.parametrize("name", ["film.mkv", "film.webm", "film.mp4", "film.mov"])
def test_the_last_frame_of_a_film_lasts_as_stated(tmp_path, name):
    """A file may state that its last frame is shown for ten seconds."""
    codec, options = ("libvpx", {}) if name.endswith("webm") else ("libx264", {"bf": "0"})
    film = write_film(tmp_path / name, numbered(40), codec, times=clock(0, 40), last=10_000, **options)
    assert check_agreement(film, 239)[38:] == [38] + [39] * 200
    assert [number_of(frame) for frame in resampled_frames(film, 230)] == [39] * 9


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi", "film.flv", "film.wmv"])
def test_negative_and_late_starts_lose_nothing(tmp_path, name):
    codec = "wmv2" if name.endswith("wmv") else "libx264"
    for start in (0, 7000):
        film = write_film(tmp_path / name, numbered(30), codec, times=clock(start, 30))
        assert check_agreement(film, 30)[1:29] == [*range(1, 29)]


@pytest.mark.parametrize("name", ["film.avi", "film.asf"])
def test_h264_with_b_frames_is_in_order_in_containers_that_store_decoding_times(tmp_path, name):
    film = write_film(tmp_path / name, numbered(40), bf="3")
    assert check_agreement(film, 40) == [*range(40)]
