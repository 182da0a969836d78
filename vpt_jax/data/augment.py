"""Augmentation of clips on the device: one draw for each clip, applied to all of its frames (paper, appendix D).

Small changes of colour and shape, so that a model learns what moves and not what it looks like. Rows are clips; frames
come and go as uint8.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTON_INDEX, Array
from vpt_jax.data.batch import Batch

# Our addition: what the keys do in a mirror
MIRRORED_KEYS = [BUTTON_INDEX[{"left": "right", "right": "left"}.get(key, key)] for key in BUTTON_INDEX]

MAX_HUE = 0.2  # of a turn of the colour circle
FACTORS = 0.8, 1.2  # of brightness, contrast and saturation
MAX_ROTATION, MAX_SHEAR = 2.0, 2.0  # degrees
SCALES = 0.98, 1.02
MAX_SHIFT = 2.0  # pixels
GREY = 0.299, 0.587, 0.114  # how much the colours count in the brightness (ITU-R BT.601)


def mirror(rng: jax.Array, batch: Batch) -> Batch:
    """Half of the clips with left and right exchanged, in the frames and in what was done. Our addition, not the
    paper's: in most games a mirrored clip is one that might have been played.
    """
    chosen = jax.random.bernoulli(rng, shape=(len(batch.frames),))

    def choose(mirrored: Array, plain: Array) -> Array:
        return jnp.where(chosen.reshape(-1, *[1] * (plain.ndim - 1)), mirrored, plain)

    return batch._replace(
        frames=choose(batch.frames[..., ::-1, :], batch.frames),
        buttons=choose(batch.buttons[..., jnp.array(MIRRORED_KEYS)], batch.buttons),
        camera=choose(batch.camera * jnp.array([1.0, -1.0], batch.camera.dtype), batch.camera),
    )


class Draw(NamedTuple):
    """What happens to each clip."""

    hue: Float[Array, " b"]
    brightness: Float[Array, " b"]
    contrast: Float[Array, " b"]
    saturation: Float[Array, " b"]
    rotation: Float[Array, " b"]  # degrees, counterclockwise
    scale: Float[Array, " b"]
    shear: Float[Array, " b"]  # degrees: rows move sideways
    shift: Float[Array, "b 2"]  # pixels: right, down


def draw(rng: jax.Array, clips: int) -> Draw:
    """Independent uniform numbers within the paper's ranges."""
    share = jax.random.uniform(rng, (9, clips))

    def between(low: float, high: float, i: int) -> Array:
        return low + (high - low) * share[i]

    return Draw(
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
    """Every clip changed by a draw of its own."""
    return apply_draw(draw(rng, len(frames)), frames)


def apply_draw(drawn: Draw, frames: UInt8[Array, "b t h w 3"]) -> UInt8[Array, "b t h w 3"]:
    """The clips as the draws say: first the shape, then brightness, contrast, saturation and hue."""
    changed = jax.vmap(_change_clip)(drawn, frames.astype(jnp.float32) / 255)
    return jnp.round(255 * changed).astype(jnp.uint8)


def _change_clip(drawn: Draw, clip: Float[Array, "t h w 3"]) -> Float[Array, "t h w 3"]:
    clip = jnp.clip(_warp(drawn, clip) * drawn.brightness, 0, 1)
    mean_grey = (clip @ jnp.array(GREY)).mean((1, 2))[:, None, None, None]
    clip = jnp.clip(mean_grey + drawn.contrast * (clip - mean_grey), 0, 1)
    grey = (clip @ jnp.array(GREY))[..., None]
    clip = jnp.clip(grey + drawn.saturation * (clip - grey), 0, 1)
    return _turn_hue(clip, drawn.hue)


def _turn_hue(rgb: Float[Array, "... 3"], turn: Float[Array, ""]) -> Float[Array, "... 3"]:
    """The colours, their hue turned by a share of the circle; value and saturation (HSV) stay."""
    value, low = rgb.max(-1), rgb.min(-1)
    chroma = value - low
    r, g, b = jnp.moveaxis(rgb, -1, 0)
    safe = jnp.where(chroma == 0, 1, chroma)
    sixth = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sixth = sixth[..., None] + 6 * turn + jnp.array([5.0, 3.0, 1.0])  # red, green and blue are a third apart
    distance = jnp.mod(sixth, 6)
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)


def _warp(drawn: Draw, clip: Float[Array, "t h w 3"]) -> Float[Array, "t h w 3"]:
    """The frames scaled, sheared, rotated about their centre, then shifted; bilinear, black beyond the edges."""
    height, width = clip.shape[1:3]
    angle, slope = jnp.deg2rad(drawn.rotation), jnp.tan(jnp.deg2rad(drawn.shear))
    # Where every output pixel comes from: the inverse of rotation, shear and scale. Rows count downwards.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    y, x = y - (height - 1) / 2 - drawn.shift[1], x - (width - 1) / 2 - drawn.shift[0]
    x, y = cos * x - sin * y, sin * x + cos * y
    x = x - slope * y
    return _sample(clip, y / drawn.scale + (height - 1) / 2, x / drawn.scale + (width - 1) / 2)


def _sample(clip: Float[Array, "t h w 3"], y: Float[Array, "h w"], x: Float[Array, "h w"]) -> Float[Array, "t h w 3"]:
    """The pixels at fractional places, the same in all frames."""
    top, left = jnp.floor(y).astype(int), jnp.floor(x).astype(int)

    def at(row: Array, column: Array) -> Array:
        inside = (row >= 0) & (row < clip.shape[1]) & (column >= 0) & (column < clip.shape[2])
        weight = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column)) * inside
        return clip[:, row.clip(0, clip.shape[1] - 1), column.clip(0, clip.shape[2] - 1)] * weight[..., None]

    return at(top, left) + at(top, left + 1) + at(top + 1, left) + at(top + 1, left + 1)
