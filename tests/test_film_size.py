"""Films of videos of any shape."""

import errno

import av
import numpy as np
import pytest

from tests.film_maker import corners, write_film
from vpt_jax.data import clips
from vpt_jax.data.clips import Clip, render_film
from vpt_jax.film_size import MAX_HEIGHT, MAX_WIDTH, MIN_WIDTH, film_size, fit_inside
from vpt_jax.report.films import FilmFrame, draw_large
from vpt_jax.report.films import write_film as write_play
from vpt_jax.video import decode, resize

SHAPES = [(1, 1), (1, 3000), (3000, 1), (512, 8), (8, 512), (36, 64), (37, 61), (64, 36), (719, 1281), (4320, 7680)]
SHAPES += [(16384, 2), (2, 16384), (9, 5000), (5000, 9)]
BUTTONS, CAMERA = np.ones((2, 20), np.uint8), np.ones((2, 2), np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_sizes_are_accepted_by_encoders(shape):
    height, width = film_size(*shape)
    assert height % 2 == width % 2 == 0
    assert 2 <= height <= MAX_HEIGHT
    assert MIN_WIDTH <= width <= MAX_WIDTH


def test_ordinary_sizes_are_kept_and_small_ones_multiplied_by_an_integer():
    assert film_size(720, 1280) == (720, 1280)
    assert film_size(721, 1281) == (720, 1280)
    assert film_size(72, 128) == (360, 640)
    picture = np.random.default_rng(0).integers(0, 256, (72, 128, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit_inside(picture, 360, 640), resize(picture, 360, 640))
    np.testing.assert_array_equal(fit_inside(picture[:71], 70, 128), picture[:70])


def test_a_tall_picture_is_centred_on_black():
    inside = fit_inside(np.full((512, 8, 3), 200, np.uint8), 2160, 640)
    assert inside.shape == (2160, 640, 3)
    (columns,) = np.nonzero(inside[1000, :, 0])
    assert abs(columns.mean() - 319.5) <= 1
    assert len(columns) == 34
    assert (inside[:, columns] == 200).all()


@pytest.mark.parametrize("shape", [(2, 2), (512, 8), (2, 5000), (5000, 2)])
def test_films_of_any_shape_are_drawn(tmp_path, shape):
    """Films of labels, and films of play."""
    frames = [np.full((*shape, 3), value, np.uint8) for value in (90, 180)]
    video = write_film(tmp_path / "video.mkv", frames, "ffv1")
    assert render_film(Clip(video), tmp_path / "films" / "film.mp4", BUTTONS, CAMERA) == ""
    drawn = list(decode(tmp_path / "films" / "film.mp4"))
    assert [frame.shape[:2] for frame in drawn] == [film_size(*shape)] * 2
    write_play(tmp_path / "play.mp4", (FilmFrame(frame, (BUTTONS[0], CAMERA[0]), note="reward 1") for frame in frames))
    assert len(list(decode(tmp_path / "play.mp4"))) == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_film_frames_of_any_shape_are_drawn(shape):
    drawn = draw_large(FilmFrame(np.zeros((*shape, 3), np.uint8), (BUTTONS[0], CAMERA[0])))
    assert max(drawn.shape) <= MAX_WIDTH + 256
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0


def test_a_film_that_cannot_be_encoded_is_reported_and_a_full_disk_ends_the_job(tmp_path, monkeypatch):
    """An encoder's error concerns one film, a full disk all of them."""
    video = Clip(write_film(tmp_path / "video.mkv", [corners(), corners()]))

    def fail(error):
        def raise_error(*_):
            raise error

        monkeypatch.setattr(clips, "VideoWriter", raise_error)

    fail(av.error.ExternalError(1, "the encoder does not want to"))
    assert "the encoder does not want to" in render_film(video, tmp_path / "film.mp4", BUTTONS, CAMERA)
    fail(OSError(errno.ENOSPC, "no space left"))
    with pytest.raises(OSError, match="no space left"):
        render_film(video, tmp_path / "film.mp4", BUTTONS, CAMERA)
