"""The causal VPT policy (paper, appendix E; reference `lib/policy.py`)."""

from typing import Any, Generic, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, UInt8

from vpt_jax.models.heads import JointActionHead
from vpt_jax.models.impala import ImpalaEncoder, scale_frames
from vpt_jax.models.kv_cache import AnyMemory, Memory, Ring, empty_memory, empty_ring, look
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized
from vpt_jax.models.transformer import Transformer
from vpt_jax.parallel import BATCH, constrain


class PolicyOutput(NamedTuple, Generic[AnyMemory]):
    """`logits` of `buttons` `[b, t, 8641]` and `camera` `[b, t, 121]`; `value` in normalised units; the new memory.

    `aux_value` is for PPG's sleep, of policies that have it: learning it shapes what they see in a frame.
    """

    logits: dict[str, Float[Array, "b t classes"]]
    value: Float[Array, "b t"]
    memory: AnyMemory
    aux_value: Float[Array, "b t"] | None = None


class Policy(nn.Module):
    """Frames in, joint action logits and a value out, with a memory carried from chunk to chunk.

    `policy.apply({"params": params}, frames, first, memory)`. A chunk may have any length: feeding the same frames one
    by one gives the same answers. `presets.py` names the paper's sizes.
    """

    widths: tuple[int, ...]  # channels of the image stacks
    features: int  # width of the transformer
    heads: int
    layers: int = 4
    memory_length: int = 128  # frames a frame can look back to, itself included
    temperature: float = 1.0
    aux_value: bool = False  # a second value head (paper, appendix G.1)
    remat: bool = False  # recompute the image stacks in the backward pass, to save memory
    dtype: DTypeLike = jnp.float32  # of the computation; parameters, norms and softmax are float32

    @nn.compact
    def __call__(
        self,
        frames: UInt8[Array | np.ndarray, "b t h w 3"] | Float[Array | np.ndarray, "b t f"],
        first: Bool[Array | np.ndarray, "b t"],
        memory: AnyMemory,
    ) -> PolicyOutput[AnyMemory]:
        """`first[b, t]` marks the first frame of an episode: nothing before it is remembered or attended to.

        A chunk of one frame may come with a `Ring` for a memory, which is faster: give it away (`donate_argnums`), and
        it is changed in place. In place of frames there may be what `embed` has made of them.
        """
        b, t = frames.shape[:2]
        if frames.ndim == 3:
            x = jnp.asarray(frames).astype(self.dtype)
        else:
            x = self.encoder()(scale_frames(frames.reshape(b * t, *frames.shape[2:]), self.dtype))
        x = constrain(x.reshape(b, t, self.features), BATCH)
        mask, memory = look(first, memory)
        transformer = Transformer(self.layers, self.heads, dtype=self.dtype, name="transformer")
        x, memory = transformer(x, mask, memory)
        x = NormDense(self.features, dtype=self.dtype, name="last")(nn.relu(x))
        x = TokenNorm(dtype=self.dtype, name="final_norm")(x)
        logits = JointActionHead(self.temperature, name="actions")(x)
        x = x.astype(jnp.float32)
        value = nn.Dense(1, kernel_init=fan_in_normalized(), name="value")(x)[..., 0]
        if not self.aux_value:
            return PolicyOutput(logits, value, memory)
        aux_value = nn.Dense(1, kernel_init=fan_in_normalized(), name="aux_value")(x)[..., 0]
        return PolicyOutput(logits, value, memory, aux_value)

    @nn.nowrap
    def encoder(self) -> ImpalaEncoder:
        """The image stacks: one embedding per frame."""
        return ImpalaEncoder(self.widths, self.features, remat=self.remat, dtype=self.dtype, name="encoder")

    def initial_memory(self, batch: int) -> Memory:
        """The memory before a stream begins."""
        return empty_memory(batch, self.memory_length, self.features, self.layers, self.dtype)

    def initial_ring(self, batch: int) -> Ring:
        """The memory before a stream begins that is acted on, one frame at a time."""
        return empty_ring(batch, self.memory_length, self.features, self.layers, self.dtype)


def init_params(policy: Policy, frame_shape: tuple[int, ...], rng: jax.Array) -> Any:
    """Random parameters of a policy that sees frames of (height, width, channels)."""
    frames, first = jnp.zeros((1, 1, *frame_shape), jnp.uint8), jnp.zeros((1, 1), bool)
    return policy.init(rng, frames, first, policy.initial_memory(1))["params"]


def embed(policy: Policy, params: Any, frames: UInt8[Array, "n h w 3"]) -> Float[Array, "n f"]:
    """What the policy's image stacks make of each frame, for its transformer."""
    return policy.encoder().apply({"params": params["encoder"]}, scale_frames(frames, policy.dtype))


def look_once(
    policy: Policy, params: Any, frames: UInt8[Array, "b h w 3"], first: Bool[Array, " b"], ring: Ring
) -> PolicyOutput[Ring]:
    """What the policy says of one frame in each of `b` streams, as when it acts: without the axis of time."""
    output = policy.apply({"params": params}, frames[:, None], first[:, None], ring)
    logits = {head: of_head[:, 0] for head, of_head in output.logits.items()}
    return PolicyOutput(logits, output.value[:, 0], output.memory)
