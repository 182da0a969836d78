"""Rendered films: enlarged frames, keys, and notes."""

import numpy as np
from PIL import Image, ImageSequence

from vpt_jax.report.films import FilmFrame, draw_large, write_animation, write_film
from vpt_jax.video import decode

FRAME = np.random.default_rng(0).integers(0, 256, (48, 128, 3), np.uint8)
ACTION = np.eye(20, dtype=np.uint8)[0], np.array([-1.0, 2.54])


def test_the_frame_is_enlarged_and_shown_below_its_keys():
    image = draw_large(FilmFrame(FRAME, ACTION))
    np.testing.assert_array_equal(image[-48 * 4 :: 4, ::4], FRAME)
    np.testing.assert_array_equal(image[-48 * 4 :], FRAME.repeat(4, 0).repeat(4, 1))
    panel = image[: -48 * 4]
    assert panel.any()
    assert (draw_large(FilmFrame(FRAME, (0 * ACTION[0], ACTION[1])))[: len(panel)] != panel).any()


def test_a_note_is_written_into_the_lower_left_corner():
    image, plain = (draw_large(FilmFrame(0 * FRAME, ACTION, note=note)) for note in ("value 1.2", ""))
    rows, columns = np.nonzero((image != plain).any(-1))
    assert rows.min() >= len(plain) - 48 * 4 / 2
    assert 0 < columns.min() < columns.max() < plain.shape[1] / 2


def test_a_film_has_all_frames_and_an_even_size(tmp_path):
    write_film(tmp_path / "a.mp4", (FilmFrame(FRAME[:, :-1].repeat(4, 1)[:, 1:], ACTION) for _ in range(5)))
    frames = list(decode(tmp_path / "a.mp4"))
    assert len(frames) == 5
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0


def test_an_animation_has_every_second_frame(tmp_path):
    frames = [np.full_like(FRAME, 40 * number) for number in range(6)]
    write_animation(tmp_path / "a.webp", (FilmFrame(frame, ACTION) for frame in frames))
    with Image.open(tmp_path / "a.webp") as animation:
        assert animation.n_frames == 3
        for number, picture in enumerate(ImageSequence.Iterator(animation)):
            assert abs(np.asarray(picture.convert("RGB"))[-20:].mean() - 80 * number) < 4
            assert picture.info["duration"] == 100  # ms: half of 20 frames per second
