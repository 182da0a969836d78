"""The inverse dynamics model (paper, appendix D; reference `lib/policy.py`: `InverseActionNet`).

It says what was done at every frame of a window, having seen the frames before and after.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from vpt_jax.models.heads import FactoredActionHead
from vpt_jax.models.impala import ImpalaEncoder, scale_frames
from vpt_jax.models.kv_cache import empty_memory
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized
from vpt_jax.models.transformer import Transformer
from vpt_jax.parallel import BATCH, constrain

REACH = 2  # frames to each side that the temporal convolution sees
CHANGES = np.array([(1, 2, 2, 0, 1, 0), (0, -1, 0, -2, -1, -1)])  # later and earlier frame of the initial filters
CHANGE_SCALE = 4.0  # initial norm of one half of such a filter; 1 for the filters of a single frame


class IDMOutput(NamedTuple):
    """`logits` of `buttons` `[b, t, 20, 2]` (up, down) and `camera` `[b, t, 2, 11]` (pitch, yaw)."""

    logits: dict[str, Float[Array, "b t choices classes"]]


def see_motion(key: jax.Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Float[Array, "in features"]:
    """Initial temporal filters: three in four are the change from one frame to another, the rest the frame itself.

    Our choice, where training is asked for it (`config.initial.temporal_difference`); the reference's, which a new
    model has, are all random and of norm 1. A picture hardly differs from the one before, and among random filters
    that small difference drowns: a small model then needs several times the frames until it tells left from right.
    Every change comes with its negative, so that the ReLU loses nothing of it.
    """
    features = shape[-1]
    pairs = 3 * features // 8
    colours = fan_in_normalized()(key, (shape[0] // (2 * REACH + 1), features), dtype).T
    pictures = jnp.zeros((features, 2 * REACH + 1, colours.shape[1]), dtype).at[:, REACH].set(jnp.abs(colours))
    numbers = np.arange(pairs)
    later, earlier = CHANGES[:, numbers % CHANGES.shape[1]] + REACH
    changes = jnp.zeros_like(pictures[:pairs]).at[numbers, later].set(colours[:pairs])
    changes = CHANGE_SCALE * changes.at[numbers, earlier].set(-colours[:pairs])
    return jnp.concatenate([changes, -changes, pictures[2 * pairs :]]).reshape(features, -1).T


class TemporalConv(nn.Module):
    """Convolution over five frames at every pixel, ReLU; "valid": the outermost two frames only lend their pixels.

    As a matrix product over the five frames' channels, which is what a (5, 1, 1) convolution is.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s h w c"]) -> Float[Array, "b s-4 h w features"]:
        frames = x.shape[1] - 2 * REACH
        neighbours = jnp.concatenate([x[:, i : i + frames] for i in range(2 * REACH + 1)], axis=-1)
        conv = nn.Dense(self.features, dtype=self.dtype, kernel_init=fan_in_normalized(), name="conv")
        return nn.relu(conv(neighbours))


class InverseDynamicsModel(nn.Module):
    """Frames of a window in, factored action logits of every frame out.

    `idm.apply({"params": params}, frames)`. A window may have any length; training and labelling use 128. It is two
    parts, which labelling calls by themselves: `embed` looks at a frame and its two neighbours on each side, and
    `attend` at all embeddings of a window, those of later frames too.
    """

    temporal_features: int  # channels out of the temporal convolution
    widths: tuple[int, ...]  # channels of the image stacks
    features: int  # width of the transformer
    heads: int
    layers: int = 2
    temperature: float = 1.0
    # The released model computes its last dense layer and then ignores it; its weights need `use_last=False`.
    use_last: bool = True
    remat: bool = False  # recompute the image stacks in the backward pass, to save memory
    dtype: DTypeLike = jnp.float32  # of the computation; parameters, norms and softmax are float32

    def setup(self) -> None:  # noqa: D102 - Flax's own name
        self.temporal = TemporalConv(self.temporal_features, dtype=self.dtype)
        self.encoder = ImpalaEncoder(
            self.widths, self.features, first_norm=True, remat=self.remat, dtype=self.dtype
        )  # fmt: skip
        self.transformer = Transformer(self.layers, self.heads, dtype=self.dtype)
        self.last = NormDense(self.features, dtype=self.dtype)
        self.final_norm = TokenNorm(dtype=self.dtype)
        self.actions = FactoredActionHead(self.temperature)

    def __call__(
        self, frames: UInt8[Array | np.ndarray, "b t h w 3"], valid: Bool[Array | np.ndarray, "b t"] | None = None
    ) -> IDMOutput:
        """Beyond the window all is black; `valid` (default: all) marks the frames that are to be looked at."""
        beyond = [(0, 0), (REACH, REACH), (0, 0), (0, 0), (0, 0)]
        return self.attend(self.embed(jnp.pad(frames, beyond)), valid)

    def embed(self, frames: UInt8[Array | np.ndarray, "b s h w 3"]) -> Float[Array, "b s-4 features"]:
        """Embeddings of all frames but the outermost two on each side, which are context."""
        x = self.temporal(scale_frames(frames, self.dtype))
        b, t = x.shape[:2]
        return constrain(self.encoder(x.reshape(b * t, *x.shape[2:])).reshape(b, t, self.features), BATCH)

    def attend(
        self, x: Float[Array, "b t features"], valid: Bool[Array | np.ndarray, "b t"] | None = None
    ) -> IDMOutput:
        """The logits of a window from its embeddings."""
        b, t = x.shape[:2]
        valid = jnp.ones((b, t), bool) if valid is None else valid
        mask = jnp.broadcast_to(valid[:, None, :], (b, t, t))
        x, _ = self.transformer(x, mask, empty_memory(b, 0, self.features, self.layers, self.dtype))
        x = nn.relu(x)
        last = self.last(x)
        return IDMOutput(self.actions(self.final_norm(last if self.use_last else x)))
