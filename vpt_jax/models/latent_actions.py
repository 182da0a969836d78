"""Latent actions: discrete codes of what changes from a frame to the next, learnt without labels.

The first stage of LAPA (arXiv 2410.11758) and of Genie (arXiv 2402.15391), with convolutions in place of transformers:
an encoder sees a frame and the next one, and passes on a few codes; a decoder sees the frame and these codes, and
predicts the next frame. What it cannot know from the frame has to be in the codes: ideally, the player's action.

The quantizer is that of VQ-VAE (arXiv 1711.00937) with a straight-through gradient. Vectors and codebook have norm 1,
as in ViT-VQGAN (arXiv 2110.04627): distances are cosines, and no code can be out of reach because of its length.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.models.idm import DIFFERENCE_SCALE, InverseDynamicsModel
from vpt_jax.models.impala import EMBEDDING, ImpalaEncoder, ResidualBlock, scale_frames
from vpt_jax.models.layers import NormConv, NormDense, fan_in_normalized
from vpt_jax.models.remat import NONE
from vpt_jax.parallel import BATCH, FRAMES, constrain

PAIRS = 4  # of neighbouring frames, among the five that the temporal convolution of an IDM sees


class LatentActions(NamedTuple):
    """Codes of every frame and the next one, which are `tokens` choices among `codes` each.

    Those of the last frame, which has no next one, mean nothing.
    """

    vectors: Float[Array, "b t tokens f"]  # of norm 1, before quantization
    similarities: Float[Array, "b t tokens codes"]  # cosines of the vectors and the codebook
    codes: Int[Array, "b t tokens"]  # the nearest ones
    quantized: Float[Array, "b t tokens f"]  # codebook vectors of the codes


class LatentActionEncoder(nn.Module):
    """Encoder of frame pairs with its codebook: frames of a window in, codes of each frame and the next one out."""

    widths: tuple[int, ...]  # channels of the image stacks
    tokens: int  # codes per pair, each with a codebook of its own
    codes: int  # vectors of a codebook
    code_features: int  # size of these vectors
    remat: str = NONE
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, frames: UInt8[Array, "b t h w 3"]) -> LatentActions:
        images = scale_frames(frames, jnp.float32)  # in bfloat16, small differences of bright pixels would be lost
        changes = jnp.pad(images[:, 1:] - images[:, :-1], [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0)])
        b, t, *image_shape = images.shape
        pairs = jnp.concatenate([images, DIFFERENCE_SCALE * changes], -1).astype(self.dtype)
        pairs = pairs.reshape(b * t, *image_shape[:2], -1)
        encoder = ImpalaEncoder(self.widths, EMBEDDING, remat=self.remat, dtype=self.dtype, name="encoder")
        vectors = nn.Dense(self.tokens * self.code_features, kernel_init=fan_in_normalized(), name="vectors")(
            encoder(pairs).astype(jnp.float32)
        )
        shape = self.tokens, self.codes, self.code_features
        codebook = _normalized(self.param("codebook", nn.initializers.normal(1.0), shape))
        return quantize(_normalized(vectors.reshape(b, t, self.tokens, self.code_features)), codebook)


def quantize(vectors: Float[Array, "b t tokens f"], codebook: Float[Array, "tokens codes f"]) -> LatentActions:
    """Nearest codebook vectors, of which each token has its own; all vectors have norm 1."""
    similarities = jnp.einsum("btkf,kcf->btkc", vectors, codebook)
    codes = similarities.argmax(-1)
    return LatentActions(vectors, similarities, codes, codebook[jnp.arange(len(codebook)), codes])


def straight_through(actions: LatentActions) -> Float[Array, "b t tokens f"]:
    """Quantized vectors whose gradient is passed to the vectors before quantization."""
    return actions.vectors + jax.lax.stop_gradient(actions.quantized - actions.vectors)


def _normalized(x: Float[Array, "... f"]) -> Float[Array, "... f"]:
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


class NextFrameDecoder(nn.Module):
    """Decoder: a frame and the codes of the pair in, the next frame out, at first a copy of the frame.

    Frames are cut into patches of `patch` pixels, whose pixels are channels of one cell. The codes scale and shift the
    channels of every block (FiLM, arXiv 1709.07871), since movement in the picture is a product of codes and gradients.
    """

    features: int
    blocks: int
    patch: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, frames: UInt8[Array, "b t h w 3"], quantized: Float[Array, "b t tokens f"]
    ) -> Float[Array, "b t h w 3"]:
        b, t, height, width, _ = frames.shape
        images = constrain(scale_frames(frames, jnp.float32).reshape(b * t, height, width, 3), FRAMES)
        codes = quantized.reshape(b * t, 1, 1, -1).astype(self.dtype)
        cells = _to_patches(images, self.patch).astype(self.dtype)
        x = NormConv(self.features, norm=False, dtype=self.dtype, name="first_conv")(cells)
        for i in range(self.blocks):
            film = nn.Dense(2 * self.features, dtype=self.dtype, kernel_init=fan_in_normalized(), name=f"film_{i}")
            scale, shift = jnp.split(film(codes), 2, axis=-1)
            x = ResidualBlock(1.0, dtype=self.dtype, name=f"block_{i}")(x * (1 + scale) + shift)
        zeros = nn.initializers.zeros_init()
        change = nn.Dense(3 * self.patch**2, dtype=self.dtype, kernel_init=zeros, name="change")(x)
        following = images + _from_patches(change.astype(jnp.float32), self.patch)  # in bfloat16, no copy was exact
        return following.reshape(b, t, height, width, 3)


def _to_patches(images: Float[Array, "n h w 3"], size: int) -> Float[Array, "n rows columns c"]:
    n, height, width, channels = images.shape
    if height % size or width % size:
        raise ValueError(f"frames are {height}x{width}; this decoder needs a height and width divisible by {size}")
    rows, columns = height // size, width // size
    cells = images.reshape(n, rows, size, columns, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(n, rows, columns, -1)


def _from_patches(cells: Float[Array, "n rows columns c"], size: int) -> Float[Array, "n h w 3"]:
    n, rows, columns, _ = cells.shape
    images = cells.reshape(n, rows, columns, size, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return images.reshape(n, rows * size, columns * size, 3)


class LatentActionOutput(NamedTuple):
    """Predicted next frame of every frame, with pixels from 0 to 1, and its codes."""

    next_frames: Float[Array, "b t h w 3"]
    actions: LatentActions


class LatentActionModel(nn.Module):
    """Encoder and decoder of latent actions: `model.apply({"params": params}, frames)`, of windows of any length."""

    widths: tuple[int, ...]
    tokens: int
    codes: int
    code_features: int
    decoder_features: int
    decoder_blocks: int
    patch: int
    remat: str = NONE
    dtype: DTypeLike = jnp.float32  # of the computation; parameters, norms and the quantizer are float32

    @nn.compact
    def __call__(self, frames: UInt8[Array, "b t h w 3"]) -> LatentActionOutput:
        encoder = LatentActionEncoder(
            self.widths, self.tokens, self.codes, self.code_features, self.remat, self.dtype, name="latent"
        )
        decoder = NextFrameDecoder(
            self.decoder_features, self.decoder_blocks, self.patch, self.dtype, name="decoder"
        )  # fmt: skip
        actions = encoder(frames)
        return LatentActionOutput(decoder(frames, straight_through(actions)), actions)


class LatentIDM(InverseDynamicsModel):
    """Inverse dynamics model that sees the codes of latent actions in place of frames.

    It differs from an IDM in `embed` alone: the same transformer and heads map the codes of a window to actions, so a
    comparison of both is one of what they see. The encoder, `latent`, is that of a `LatentActionModel`; the config
    freezes it (`frozen_pattern`).
    """

    tokens: int = 4
    codes: int = 8
    code_features: int = 16

    def setup(self) -> None:  # noqa: D102 - Flax's own name
        super().setup()  # `temporal` and `encoder`, which `embed` does not call, have no parameters
        self.latent = LatentActionEncoder(
            self.widths, self.tokens, self.codes, self.code_features, self.remat, self.dtype
        )  # fmt: skip
        self.neighbours = NormDense(self.temporal_features, dtype=self.dtype)
        self.project = NormDense(self.features, dtype=self.dtype)

    def embed(self, frames: UInt8[Array, "b s h w 3"]) -> Float[Array, "b s-4 features"]:
        """Embeddings of all frames except the two outermost on each side: of the codes of the four pairs around it."""
        quantized = self.latent(frames).quantized
        codes = quantized.reshape(*quantized.shape[:2], -1)
        count = codes.shape[1] - PAIRS
        around = jnp.concatenate([codes[:, i : i + count] for i in range(PAIRS)], axis=-1)
        return constrain(self.project(self.neighbours(around.astype(self.dtype))), BATCH)
