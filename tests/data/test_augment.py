"""Augmentation compared with OpenCV, the standard library, and explicit arithmetic."""

import colorsys
from functools import partial

import cv2
import jax
import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTONS, MINERL
from vpt_jax.data.augment import AugmentParams, apply_augment_params, augment, mirror, sample_augment_params
from vpt_jax.data.batch import Batch

NEUTRAL = dict(hue=0.0, brightness=1.0, contrast=1.0, saturation=1.0, rotation=0.0, scale=1.0, shear=0.0, shift=(0, 0))
RANGES = {
    "hue": (-0.2, 0.2), "brightness": (0.8, 1.2), "contrast": (0.8, 1.2), "saturation": (0.8, 1.2),
    "rotation": (-2, 2), "scale": (0.98, 1.02), "shear": (-2, 2), "shift": (-2, 2),
}  # fmt: skip


def change(frames, **amounts):
    """Augments one clip with the given parameters; all others are neutral."""
    params = AugmentParams(*(np.array([value], np.float32) for value in (NEUTRAL | amounts).values()))
    return np.asarray(jax.jit(apply_augment_params)(params, np.asarray(frames, np.uint8)[None]))[0]


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), np.uint8)


def test_neutral_parameters_change_nothing(noise):
    np.testing.assert_array_equal(change(noise), noise)


@pytest.mark.parametrize(
    ("rotation", "scale", "shear", "shift"),
    [(0, 1, 0, (3, -2)), (20, 1, 0, (0, 0)), (0, 1.3, 0, (0, 0)), (0, 1, 15, (0, 0)), (-8, 0.9, 10, (1.5, 2.25))],
)
def test_geometry_equals_opencv(noise, rotation, scale, shear, shift):
    centre = (40 - 1) / 2, (24 - 1) / 2
    rotated = np.vstack([cv2.getRotationMatrix2D(centre, rotation, scale), [0, 0, 1]])  # counterclockwise
    slope = np.tan(np.radians(shear))
    sheared = np.array([[1, slope, -slope * centre[1]], [0, 1, 0], [0, 0, 1]])  # lower rows go right
    shifted = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    expected = cv2.warpAffine(noise[0].astype(np.float32), (shifted @ rotated @ sheared)[:2], (40, 24))
    actual = change(noise, rotation=rotation, scale=scale, shear=shear, shift=shift)[0]
    np.testing.assert_allclose(actual, expected, atol=0.51)


@pytest.mark.parametrize("turn", [-0.2, 0.07, 0.5])
def test_hue_equals_the_standard_library(noise, turn):
    turned = change(noise, hue=turn)
    for before, after in zip(noise[0].reshape(-1, 3), turned[0].reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        np.testing.assert_allclose(after, 255 * np.array(expected), atol=0.51)


def test_brightness_contrast_and_saturation_equal_manual_values():
    dark, light = (10, 20, 30), (110, 120, 250)
    frames = [[[dark, light]], [[light, light]]]
    np.testing.assert_array_equal(change(frames, brightness=1.2)[0, 0], [(12, 24, 36), (132, 144, 255)])
    grey_dark, grey_light = 0.299 * 10 + 0.587 * 20 + 0.114 * 30, 0.299 * 110 + 0.587 * 120 + 0.114 * 250
    contrasts = change(frames, contrast=0.8)
    for frame, middle in ((0, (grey_dark + grey_light) / 2), (1, grey_light)):  # per frame
        expected = middle + 0.8 * (np.array(frames[frame][0]) - middle)
        np.testing.assert_allclose(contrasts[frame, 0], expected, atol=0.51)
    expected = grey_light + 1.2 * (np.array(light) - grey_light)
    np.testing.assert_allclose(change(frames, saturation=1.2)[1, 0, 0], expected.clip(0, 255), atol=0.51)


def test_augmentation_is_equal_within_a_clip_and_differs_between_clips(noise):
    clips = np.broadcast_to(noise[0], (3, 4, *noise[0].shape))
    changed = np.asarray(jax.jit(augment)(jax.random.key(0), clips))
    assert changed.dtype == np.uint8
    assert changed.shape == clips.shape
    np.testing.assert_array_equal(changed, np.broadcast_to(changed[:, :1], changed.shape))
    assert all((changed[i] != other).mean() > 0.5 for i in range(3) for other in (clips[0], changed[i - 1]))
    assert (np.asarray(jax.jit(augment)(jax.random.key(1), clips)) != changed).mean() > 0.5


def test_half_of_the_clips_are_mirrored_with_their_actions(noise):
    rng = np.random.default_rng(1)
    clips = Batch(
        np.broadcast_to(noise, (200, *noise.shape)),
        buttons=rng.integers(0, 2, (200, 2, 20), np.uint8),
        camera=rng.normal(size=(200, 2, 2)).astype(np.float32),
        first=rng.random((200, 2)) < 0.5,
        valid=rng.random((200, 2)) < 0.5,
    )
    changed = jax.tree.map(np.asarray, jax.jit(partial(mirror, space=MINERL))(jax.random.key(0), clips))
    mirrored = (changed.camera[:, 0, 1] != clips.camera[:, 0, 1]).nonzero()[0]
    others = np.setdiff1d(np.arange(200), mirrored)
    assert 80 < len(mirrored) < 120
    jax.tree.map(lambda after, before: np.testing.assert_array_equal(after[others], before[others]), changed, clips)

    names = [{"left": "right", "right": "left"}.get(key, key) for key in BUTTONS]
    expected = clips._replace(
        frames=clips.frames[:, :, :, ::-1],
        buttons=clips.buttons[..., [BUTTONS.index(name) for name in names]],
        camera=clips.camera * np.array([1, -1], np.float32),
    )
    jax.tree.map(lambda after, want: np.testing.assert_array_equal(after[mirrored], want[mirrored]), changed, expected)


def test_parameters_use_the_papers_ranges_fully_and_independently():
    params = sample_augment_params(jax.random.key(0), 2000)
    columns = [np.asarray(column) for values in params for column in np.reshape(values, (2000, -1)).T]
    for name, values in zip(AugmentParams._fields, params, strict=True):
        low, high = RANGES[name]
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
    assert np.abs(np.corrcoef(columns) - np.eye(9)).max() < 0.1
