"""Frames as players display them: rotated, mirrored, and with square pixels."""

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest

from tests.film_maker import corners, numbered, write_film
from vpt_jax.video import VideoError, decode, fit_aspect, probe, resampled_frames
from vpt_jax.video_display import UPRIGHT, read_orientation, square_width

UNIT = 2**16


def apply_matrix(picture, a, b, c, d):
    """Reference: every pixel (p, q) at (a p + c q, b p + d q), moved into the frame."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    shown[y, x] = picture
    return shown


MATRICES = [(a, 0, 0, d) for a, d in itertools.product((-1, 1), repeat=2)]
MATRICES += [(0, b, c, 0) for b, c in itertools.product((-1, 1), repeat=2)]


@pytest.mark.parametrize("terms", MATRICES)
@pytest.mark.parametrize("scale", [UNIT, 3, 2**20])
def test_each_of_the_eight_matrices_is_applied(terms, scale):
    """The matrices are rotations and mirror images."""
    a, b, c, d = terms
    orientation = read_orientation([a * scale, b * scale, 0, c * scale, d * scale, 0, 7 * UNIT, 0, 2**30])
    picture = np.random.default_rng(0).integers(0, 256, (4, 7, 3)).astype(np.uint8)
    shown = orientation.apply(picture)
    np.testing.assert_array_equal(shown, apply_matrix(picture, *terms))
    assert orientation.size(4, 7) == shown.shape[:2]


def test_unusable_matrices_are_ignored_and_other_angles_are_refused():
    """A rotation by a fraction of a degree is ignored, too."""
    for matrix in ([0] * 9, [UNIT, 0, 0, 0, 0, 0, 0, 0, 2**30], [UNIT, 300, 0, -300, UNIT, 0, 0, 0, 2**30]):
        assert read_orientation(matrix) == UPRIGHT
    for degrees in (5, 30, 45, 100, 200):
        cos, sin = (round(float(value) * UNIT) for value in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
        with pytest.raises(VideoError, match=r"unreadable video: its display matrix turns the picture by -?\d+ deg"):
            read_orientation([cos, sin, 0, -sin, cos, 0, 0, 0, 2**30])


@pytest.mark.parametrize("name", ["film.mp4", "film.mov", "film.mkv"])
def test_films_are_rotated_as_by_opencv_and_mirrored(tmp_path, name):
    """decode, probe and resampled_frames agree."""
    upright = next(decode(write_film(tmp_path / f"upright-{name}", [corners()])))
    for degrees in (0, 90, 180, 270):
        film = write_film(tmp_path / f"{degrees}-{name}", [corners()], rotate=(degrees, False))
        frame = next(decode(film))
        np.testing.assert_array_equal(frame, cv2.VideoCapture(str(film)).read()[1][..., ::-1])
        np.testing.assert_array_equal(frame, next(resampled_frames(film)))
        assert probe(film)[:2] == frame.shape[1::-1] == ((64, 36) if degrees % 180 == 0 else (36, 64))
        mirrored = write_film(tmp_path / f"mirrored-{degrees}-{name}", [corners()], rotate=(degrees, True))
        candidates = [np.rot90(upright[:, ::-1], turns) for turns in (1, 3)] if degrees % 180 else [
            upright[:, ::-1], upright[::-1]
        ]  # fmt: skip
        assert sum(np.array_equal(next(decode(mirrored)), expected) for expected in candidates) == 1
        assert probe(mirrored)[:2] == frame.shape[1::-1]


def test_a_film_rotated_by_another_angle_is_refused_by_all(tmp_path):
    """decode, resampled_frames and probe raise the same error."""
    film = write_film(tmp_path / "film.mp4", [corners()], rotate=(30, False))
    for read in (decode, resampled_frames):
        with pytest.raises(VideoError, match="display matrix turns the picture by"):
            next(read(film))
    with pytest.raises(VideoError, match="display matrix turns the picture by"):
        probe(film)


@pytest.mark.parametrize(("name", "codec"), [("film.mp4", "libx264"), ("film.mkv", "libx264"), ("film.ts", "libx264"),
                                             ("film.avi", "mpeg4"), ("film.flv", "libx264")])  # fmt: skip
def test_pixels_that_are_not_square_are_stretched(tmp_path, name, codec):
    """The width is multiplied by the pixel aspect."""
    for aspect, width in ((Fraction(4, 3), 64), (Fraction(1, 2), 24), (Fraction(1), 48), (Fraction(8, 9), 43)):
        film = write_film(tmp_path / name, [corners(36, 48)], codec, aspect=aspect)
        frame = next(decode(film))
        assert frame.shape == (36, width, 3)
        assert probe(film)[:2] == (width, 36)
        found = np.abs(frame.astype(int) - cv2.resize(corners(36, 48), (width, 36))).mean()
        assert found < 12
    film = write_film(tmp_path / name, [np.full((36, 48, 3), 200, np.uint8)], codec, aspect=Fraction(4, 3))
    assert fit_aspect(next(decode(film)), 16, 9).min() > 150  # the whole picture, and no black at its sides


def test_pixels_are_stretched_before_the_picture_is_turned(tmp_path):
    """The pixel aspect is that of the stored picture."""
    film = write_film(tmp_path / "film.mp4", [corners(36, 48)], aspect=Fraction(4, 3), rotate=(90, False))
    assert next(decode(film)).shape == (64, 36, 3)
    assert probe(film)[:2] == (36, 64)


def test_an_aspect_close_to_1_is_ignored_and_an_absurd_one_refused(tmp_path, monkeypatch):
    """Aspects close to 1 come from rounded sizes."""
    assert square_width(853, Fraction(1280, 1279)) == 853
    assert [square_width(100, aspect) for aspect in (None, 0, Fraction(0), Fraction(1))] == [100] * 4
    film = write_film(tmp_path / "film.mp4", numbered(1), aspect=Fraction(41, 2))
    monkeypatch.setattr("vpt_jax.video.MAX_PIXELS", 36 * 1312 - 1)
    for read in (lambda: next(decode(film)), lambda: probe(film)):
        with pytest.raises(VideoError, match="absurd size: its frames are shown at 1312x36 pixels"):
            read()
