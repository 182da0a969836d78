"""The inverse dynamics model (paper, appendix D; reference `lib/policy.py`: `InverseActionNet`).

It predicts the action at every frame of a window from the frames before and after it (non-causal).
"""

from dataclasses import field
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models.factored_head import FactoredActionHead
from vpt_jax.models.impala import ImpalaEncoder, scale_frames
from vpt_jax.models.kv_cache import empty_cache
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized
from vpt_jax.models.remat import NONE
from vpt_jax.models.transformer import Transformer
from vpt_jax.parallel import BATCH, constrain

TEMPORAL_RADIUS = 2  # context frames on each side of the temporal convolution
FRAME_PAIRS = np.array([(1, 2, 2, 0, 1, 0), (0, -1, 0, -2, -1, -1)])  # offsets of later and earlier frame
DIFFERENCE_SCALE = 4.0  # initial norm of each frame's weights in a difference filter; 1 in single-frame filters


class IDMOutput(NamedTuple):
    """`logits` of `buttons` `[b, t, keys, 2]` (up, down) and `camera` `[b, t, axes, bins]`."""

    logits: dict[str, Float[Array, "b t choices classes"]]


def temporal_difference_init(
    key: jax.Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "in features"]:
    """Initializer of the temporal filters: three in four are a difference of two frames, the rest the frame itself.

    Our choice, used with `config.initial.temporal_difference`. By default a new model has the reference's initial
    filters, all random and of norm 1. Consecutive frames differ little, and random filters hardly pass that difference
    on: a small model then needs several times the frames until it tells left from right. Every difference filter has a
    negated copy, so that the ReLU loses nothing of it.
    """
    features, frames = shape[-1], 2 * TEMPORAL_RADIUS + 1
    pairs = 3 * features // 8
    colours = fan_in_normalized()(key, (shape[0] // frames, features), dtype).T
    zeros = jnp.zeros((features, frames, colours.shape[1]), dtype)
    single_frame = zeros.at[:, TEMPORAL_RADIUS].set(jnp.abs(colours))
    index = np.arange(pairs)
    later, earlier = FRAME_PAIRS[:, index % FRAME_PAIRS.shape[1]] + TEMPORAL_RADIUS
    differences = zeros[:pairs].at[index, later].set(colours[:pairs])
    differences = DIFFERENCE_SCALE * differences.at[index, earlier].set(-colours[:pairs])
    return jnp.concatenate([differences, -differences, single_frame[2 * pairs :]]).reshape(features, -1).T


class TemporalConv(nn.Module):
    """Temporal 3-D convolution (Conv3D) over five frames at every pixel, then ReLU.

    The padding is "valid": two frames fewer on each side. A (5, 1, 1) convolution, computed as a
    matrix product over the five frames' channels.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s h w c"]) -> Float[Array, "b s-4 h w features"]:
        frames = x.shape[1] - 2 * TEMPORAL_RADIUS
        neighbours = jnp.concatenate([x[:, i : i + frames] for i in range(2 * TEMPORAL_RADIUS + 1)], axis=-1)
        conv = nn.Dense(self.features, dtype=self.dtype, kernel_init=fan_in_normalized(), name="conv")
        return nn.relu(conv(neighbours))


class InverseDynamicsModel(nn.Module):
    """Inverse dynamics model (IDM): frames of a window in, factored action logits of every frame out.

    `idm.apply({"params": params}, frames)`. A window may have any length; training and labelling use 128. Labelling
    calls its two parts separately: `embed` depends on a frame and its two neighbours on each side, and `attend` on all
    embeddings of a window, including those of later frames.
    """

    temporal_features: int  # channels out of the temporal convolution
    widths: tuple[int, ...]  # channels of the image stacks
    features: int  # width of the transformer
    heads: int
    layers: int = 2
    temperature: float = 1.0
    # The released code computes the last dense layer and ignores its output; released weights need `use_last=False`.
    use_last: bool = True
    # False: no temporal convolution, so that frames are compared by attention alone (the paper's ablation, figure 14).
    temporal_convolution: bool = field(default=True, repr=False)  # digests of earlier versions contain the `repr`
    remat: str = NONE  # what of the image stacks the backward pass computes again, to save memory
    dtype: DTypeLike = jnp.float32  # of the computation; parameters, norms and softmax are float32
    space: ActionSpace = field(default=MINERL, repr=False)  # of the actions

    def setup(self) -> None:  # noqa: D102 - Flax's own name
        if self.temporal_convolution:
            self.temporal = TemporalConv(self.temporal_features, dtype=self.dtype)
        self.encoder = ImpalaEncoder(
            self.widths, self.features, first_norm=self.temporal_convolution, remat=self.remat, dtype=self.dtype
        )
        self.transformer = Transformer(self.layers, self.heads, dtype=self.dtype)
        self.last = NormDense(self.features, dtype=self.dtype)
        self.final_norm = TokenNorm(dtype=self.dtype)
        self.actions = FactoredActionHead(self.space, self.temperature)

    def __call__(
        self, frames: UInt8[Array | np.ndarray, "b t h w 3"], valid: Bool[Array | np.ndarray, "b t"] | None = None
    ) -> IDMOutput:
        """Action logits of a window, padded with black frames; `valid` (default: all) marks frames to attend to."""
        padding = [(0, 0), (TEMPORAL_RADIUS, TEMPORAL_RADIUS), (0, 0), (0, 0), (0, 0)]
        return self.attend(self.embed(jnp.pad(frames, padding)), valid)

    def embed(self, frames: UInt8[Array | np.ndarray, "b s h w 3"]) -> Float[Array, "b s-4 features"]:
        """Embeddings of all frames except the two outermost on each side, which are context only."""
        if self.temporal_convolution:
            x = self.temporal(scale_frames(frames, self.dtype))
        else:
            x = scale_frames(frames[:, TEMPORAL_RADIUS:-TEMPORAL_RADIUS], self.dtype)
        b, t = x.shape[:2]
        return constrain(self.encoder(x.reshape(b * t, *x.shape[2:])).reshape(b, t, self.features), BATCH)

    def attend(
        self, x: Float[Array, "b t features"], valid: Bool[Array | np.ndarray, "b t"] | None = None
    ) -> IDMOutput:
        """Action logits of a window from its embeddings, with full (non-causal) attention over the `valid` frames."""
        b, t = x.shape[:2]
        valid = jnp.ones((b, t), bool) if valid is None else valid
        mask = jnp.broadcast_to(valid[:, None, :], (b, t, t))
        x, _ = self.transformer(x, mask, empty_cache(b, 0, self.features, self.layers, self.dtype))
        x = nn.relu(x)
        last = self.last(x)
        return IDMOutput(self.actions(self.final_norm(last if self.use_last else x)))
