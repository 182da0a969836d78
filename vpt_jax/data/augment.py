"""Data augmentation of clips on the device: random color jitter and affine warps, one set of parameters per clip.

Every frame of a clip gets the same transform (paper, appendix D). The changes are small: they make a model rely on
motion instead of appearance. Rows are clips; frames are uint8 on input and output.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.batch import Batch

MAX_HUE = 0.2  # fraction of a full hue rotation
FACTORS = 0.8, 1.2  # range of brightness, contrast and saturation factors
MAX_ROTATION, MAX_SHEAR = 2.0, 2.0  # degrees
SCALES = 0.98, 1.02
MAX_SHIFT = 2.0  # pixels
GREY = 0.299, 0.587, 0.114  # luma weights of red, green and blue (ITU-R BT.601)


def mirror(rng: jax.Array, batch: Batch, space: ActionSpace) -> Batch:
    """Random horizontal flip: mirrors each clip with probability 1/2, frames and actions (left/right keys, yaw).

    The action space names the keys that are exchanged, and the axes whose sign changes.

    Our addition, not the paper's: in most games a mirrored clip is one that might have been played.
    """
    mirrored_camera = batch.camera * jnp.array(space.mirrored_axes, batch.camera.dtype)
    return batch._replace(
        frames=mirror_frames(rng, batch.frames),
        buttons=_choose(rng, batch.buttons[..., jnp.array(space.mirrored_keys)], batch.buttons),
        camera=_choose(rng, mirrored_camera, batch.camera),
    )


def mirror_frames(rng: jax.Array, frames: UInt8[Array, "b t h w 3"]) -> UInt8[Array, "b t h w 3"]:
    """Random horizontal flip of clips without actions, as in `mirror`."""
    return _choose(rng, frames[..., ::-1, :], frames)


def _choose(rng: jax.Array, mirrored: Num[Array, "b ..."], plain: Num[Array, "b ..."]) -> Num[Array, "b ..."]:
    """The mirrored array for a random half of the clips; for all arrays the same half."""
    chosen = jax.random.bernoulli(rng, shape=(len(plain),))
    return jnp.where(chosen.reshape(-1, *[1] * (plain.ndim - 1)), mirrored, plain)


class AugmentParams(NamedTuple):
    """Augmentation parameters, one value per clip of the batch."""

    hue: Float[Array, " b"]  # fraction of a full hue rotation
    brightness: Float[Array, " b"]
    contrast: Float[Array, " b"]
    saturation: Float[Array, " b"]
    rotation: Float[Array, " b"]  # degrees, counterclockwise
    scale: Float[Array, " b"]
    shear: Float[Array, " b"]  # degrees: rows move sideways
    shift: Float[Array, "b 2"]  # pixels: right, down


def sample_augment_params(rng: jax.Array, clips: int) -> AugmentParams:
    """Samples parameters for a number of clips, independently and uniformly within the paper's ranges."""
    uniform = jax.random.uniform(rng, (9, clips))

    def between(low: float, high: float, i: int) -> Array:
        return low + (high - low) * uniform[i]

    return AugmentParams(
        hue=between(-MAX_HUE, MAX_HUE, 0),
        brightness=between(*FACTORS, 1),
        contrast=between(*FACTORS, 2),
        saturation=between(*FACTORS, 3),
        rotation=between(-MAX_ROTATION, MAX_ROTATION, 4),
        scale=between(*SCALES, 5),
        shear=between(-MAX_SHEAR, MAX_SHEAR, 6),
        shift=jnp.stack([between(-MAX_SHIFT, MAX_SHIFT, i) for i in (7, 8)], axis=-1),
    )


def augment(rng: jax.Array, frames: UInt8[Array, "b t h w 3"]) -> UInt8[Array, "b t h w 3"]:
    """Augments every clip with independently sampled parameters."""
    return apply_augment_params(sample_augment_params(rng, len(frames)), frames)


def apply_augment_params(params: AugmentParams, frames: UInt8[Array, "b t h w 3"]) -> UInt8[Array, "b t h w 3"]:
    """Applies augmentation parameters: first the affine warp, then brightness, contrast, saturation and hue."""
    changed = jax.vmap(_augment_clip)(params, frames.astype(jnp.float32) / 255)
    return jnp.round(255 * changed).astype(jnp.uint8)


def _augment_clip(params: AugmentParams, clip: Float[Array, "t h w 3"]) -> Float[Array, "t h w 3"]:
    clip = jnp.clip(_affine_warp(params, clip) * params.brightness, 0, 1)
    mean_grey = (clip @ jnp.array(GREY)).mean((1, 2))[:, None, None, None]
    clip = jnp.clip(mean_grey + params.contrast * (clip - mean_grey), 0, 1)
    grey = (clip @ jnp.array(GREY))[..., None]
    clip = jnp.clip(grey + params.saturation * (clip - grey), 0, 1)
    return _rotate_hue(clip, params.hue)


def _rotate_hue(rgb: Float[Array, "... 3"], turn: Float[Array, ""]) -> Float[Array, "... 3"]:
    """Rotates the hue by a fraction of the colour circle; value and saturation (HSV) are unchanged."""
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    r, g, b = jnp.moveaxis(rgb, -1, 0)
    safe = jnp.where(chroma == 0, 1, chroma)
    sixth = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sixth = sixth[..., None] + 6 * turn + jnp.array([5.0, 3.0, 1.0])  # red, green and blue are a third apart
    distance = jnp.mod(sixth, 6)
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)


def _affine_warp(params: AugmentParams, clip: Float[Array, "t h w 3"]) -> Float[Array, "t h w 3"]:
    """Scales, shears and rotates frames about their centre, then shifts them; bilinear, black beyond the edges."""
    height, width = clip.shape[1:3]
    angle, slope = jnp.deg2rad(params.rotation), jnp.tan(jnp.deg2rad(params.shear))
    # Source coordinates of every output pixel: the inverse of rotation, shear and scale. Rows count downwards.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    y, x = y - (height - 1) / 2 - params.shift[1], x - (width - 1) / 2 - params.shift[0]
    x, y = cos * x - sin * y, sin * x + cos * y
    x = x - slope * y
    return _bilinear_sample(clip, y / params.scale + (height - 1) / 2, x / params.scale + (width - 1) / 2)


def _bilinear_sample(
    clip: Float[Array, "t h w 3"], y: Float[Array, "h w"], x: Float[Array, "h w"]
) -> Float[Array, "t h w 3"]:
    """Bilinear interpolation at fractional pixel coordinates, the same in all frames."""
    top, left = jnp.floor(y).astype(int), jnp.floor(x).astype(int)

    def at(row: Array, column: Array) -> Array:
        inside = (row >= 0) & (row < clip.shape[1]) & (column >= 0) & (column < clip.shape[2])
        weight = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)) * inside
        return clip[:, row.clip(0, clip.shape[1] - 1), column.clip(0, clip.shape[2] - 1)] * weight[..., None]

    return at(top, left) + at(top, left + 1) + at(top + 1, left) + at(top + 1, left + 1)
