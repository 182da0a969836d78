"""The causal VPT policy (paper, appendix E; reference `lib/policy.py`)."""

from dataclasses import field
from typing import Any, Generic, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models.heads import ActionDistribution, make_distribution, make_head
from vpt_jax.models.impala import ImpalaEncoder, scale_frames
from vpt_jax.models.kv_cache import AnyCache, KVCache, RingKVCache, attention_mask, empty_cache, empty_ring_cache
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized
from vpt_jax.models.remat import NONE
from vpt_jax.models.text_projection import TextProjection
from vpt_jax.models.transformer import Transformer
from vpt_jax.parallel import BATCH, constrain


class PolicyOutput(NamedTuple, Generic[AnyCache]):
    """Action logits, normalized value estimates and the updated KV cache.

    `logits` are those of the action head, by name: of the joint head, `buttons` `[b, t, 8641]` and `camera`
    `[b, t, 121]` (MineRL's space). `aux_value` is that of the auxiliary
    value head for PPG's sleep phase, in policies that have one: its loss trains the shared features.
    """

    logits: dict[str, Float[Array, "b t ..."]]
    value: Float[Array, "b t"]
    memory: AnyCache
    aux_value: Float[Array, "b t"] | None = None


class Policy(nn.Module):
    """Causal VPT policy: frames in, action logits and a value estimate out.

    `policy.apply({"params": params}, frames, first, memory)`. The memory is a KV cache (Transformer-XL memory) that is
    carried from chunk to chunk. A chunk may have any length: one frame at a time gives the same outputs.
    `presets.py` has the paper's sizes.
    """

    widths: tuple[int, ...]  # channels of the image stacks
    features: int  # width of the transformer
    heads: int
    layers: int = 4
    memory_length: int = 128  # attention span in frames, including the frame itself
    temperature: float = 1.0
    aux_value: bool = False  # a second value head (paper, appendix G.1)
    remat: str = NONE  # what of the image stacks the backward pass computes again, to save memory
    dtype: DTypeLike = jnp.float32  # of the computation; parameters, norms and softmax are float32
    # Of the actions, one of `heads.HEADS`. Not in the `repr`, by which evaluations recognize a policy.
    head: str = field(default="joint", repr=False)
    space: ActionSpace = field(default=MINERL, repr=False)  # of the actions
    text_features: int = field(default=0, repr=False)  # size of a text embedding; 0: the policy reads no text
    text_dropout: float = field(default=0.0, repr=False)  # share of windows that are trained without their text

    @property
    def distribution(self) -> ActionDistribution:
        """Distribution of actions that the logits describe."""
        return make_distribution(self.head, self.space)

    @nn.compact
    def __call__(
        self,
        frames: UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t f"],
        first: Bool[Array | np.ndarray, "b t"],
        memory: AnyCache,
        text: Float[Array | np.ndarray, "b t e"] | None = None,
    ) -> PolicyOutput[AnyCache]:
        """Compute the outputs of a chunk of frames.

        Args:
            frames: RGB frames, or their embeddings from `embed`.
            first: True at the first frame of an episode: frames before it are masked out of the attention.
            memory: the `KVCache` or, faster with a chunk of one frame, the `RingKVCache` before the chunk. A donated
                ring buffer (`donate_argnums`) is updated in place.
            text: embedding of the text that holds at each frame; zeros, or None for all: no text.

        Raises:
            ValueError: the policy reads no text, and there is one.
        """
        if text is not None and not self.text_features:
            raise ValueError("text is given to a policy that was made without text_features")
        b, t = frames.shape[:2]
        if frames.ndim == 3:
            x = jnp.asarray(frames).astype(self.dtype)
        else:
            x = self.make_encoder()(scale_frames(frames.reshape(b * t, *frames.shape[2:]), self.dtype))
        x = constrain(x.reshape(b, t, self.features), BATCH)
        if self.text_features:
            no_text = jnp.zeros((b, t, self.text_features))
            x = x + self.make_text_projection()(no_text if text is None else jnp.asarray(text))
        mask, memory = attention_mask(first, memory)
        transformer = Transformer(self.layers, self.heads, dtype=self.dtype, name="transformer")
        x, memory = transformer(x, mask, memory)
        x = NormDense(self.features, dtype=self.dtype, name="last")(nn.relu(x))
        x = TokenNorm(dtype=self.dtype, name="final_norm")(x)
        logits = make_head(self.head, self.space, self.temperature)(x)
        x = x.astype(jnp.float32)
        value = nn.Dense(1, kernel_init=fan_in_normalized(), name="value")(x)[..., 0]
        if not self.aux_value:
            return PolicyOutput(logits, value, memory)
        aux_value = nn.Dense(1, kernel_init=fan_in_normalized(), name="aux_value")(x)[..., 0]
        return PolicyOutput(logits, value, memory, aux_value)

    @nn.nowrap
    def make_encoder(self) -> ImpalaEncoder:
        """Build the image encoder, the submodule `encoder`: one embedding per frame.

        The method has another name than the submodule, because `flax.nnx.bridge.ToNNX` stores submodules as attributes.
        """
        return ImpalaEncoder(self.widths, self.features, remat=self.remat, dtype=self.dtype, name="encoder")

    @nn.nowrap
    def make_text_projection(self) -> TextProjection:
        """Build the projection of the text embeddings, the submodule `text`."""
        return TextProjection(self.features, dtype=self.dtype, name="text")

    def initial_memory(self, batch: int) -> KVCache:
        """Empty `KVCache` for the start of a stream."""
        return empty_cache(batch, self.memory_length, self.features, self.layers, self.dtype)

    def initial_ring_memory(self, batch: int) -> RingKVCache:
        """Empty `RingKVCache` for the start of a stream that is processed one frame at a time, as in acting."""
        return empty_ring_cache(batch, self.memory_length, self.features, self.layers, self.dtype)


def init_params(policy: Policy, frame_shape: tuple[int, ...], rng: jax.Array) -> Any:
    """Random initial parameters of a policy; `frame_shape` is (height, width, channels)."""
    frames, first = jnp.zeros((1, 1, *frame_shape), jnp.uint8), jnp.zeros((1, 1), bool)
    return policy.init(rng, frames, first, policy.initial_memory(1))["params"]


def init_text_params(policy: Policy, rng: jax.Array) -> Any:
    """Initial parameters of the text projection alone, to add to an unconditional policy."""
    return policy.make_text_projection().init(rng, jnp.zeros((1, 1, policy.text_features)))["params"]


def embed(policy: Policy, params: Any, frames: UInt8[Array, "n h w 3"]) -> Float[Array, "n f"]:
    """Embeddings of frames by the policy's image encoder: the input of its transformer."""
    return policy.make_encoder().apply({"params": params["encoder"]}, scale_frames(frames, policy.dtype))


def apply_single_step(
    policy: Policy,
    params: Any,
    frames: UInt8[Array, "b h w 3"] | Float[Array, "b f"],
    first: Bool[Array, " b"],
    ring: RingKVCache,
    text: Float[Array, "b e"] | None = None,
) -> PolicyOutput[RingKVCache]:
    """Apply the policy to one frame in each of `b` streams, as in acting; the outputs have no time axis."""
    steps = None if text is None else text[:, None]
    output = policy.apply({"params": params}, frames[:, None], first[:, None], ring, steps)
    logits = {head: head_logits[:, 0] for head, head_logits in output.logits.items()}
    return PolicyOutput(logits, output.value[:, 0], output.memory)


def apply_guided_step(
    policy: Policy,
    params: Any,
    frames: UInt8[Array, "b h w 3"],
    first: Bool[Array, " b"],
    ring: RingKVCache,
    text: Float[Array, "b e"],
    guidance: float | Float[Array, ""],
) -> PolicyOutput[RingKVCache]:
    """Apply the policy with text and without it: classifier-free guidance (Ho and Salimans, 2022), as in acting.

    Logits are unconditional + guidance * (conditional - unconditional): 0 is the policy without the text, 1 with it,
    and more exaggerates what the text changes. The value is that with the text.

    Args:
        policy: conditional on text.
        params: of the policy.
        frames: one in each of `b` streams.
        first: as of `Policy`.
        ring: of `2 * b` rows, those with text first.
        text: embedding for each stream.
        guidance: the weight.
    """
    rows, embedded = len(frames), embed(policy, params, frames)  # the image encoder runs once for both
    twice = jnp.concatenate([embedded, embedded]), jnp.concatenate([first, first])
    output = apply_single_step(policy, params, *twice, ring, jnp.concatenate([text, jnp.zeros_like(text)]))
    logits = {
        head: without + guidance * (given - without)
        for head, both in output.logits.items()
        for given, without in [(both[:rows], both[rows:])]
    }
    return PolicyOutput(logits, output.value[:rows], output.memory)
