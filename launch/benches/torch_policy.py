"""The policy in PyTorch, for `launch/bench.py --against=torch` alone: the same parameters, the same outputs.

Eager mode, like the reference code: images channel-first, operations one after another; bfloat16 is PyTorch's autocast.
The same functions by `torch.compile`, which on CPUs needs a C++ compiler.
`x` is a tensor, `p` the subtree of parameters that belongs to a layer.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vpt_jax.models.kv_cache import causal_band, relative_distance
from vpt_jax.models.layers import NORM_EPSILON
from vpt_jax.models.policy import Policy

Params = Mapping[str, Any]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.set_default_device(DEVICE)
State = list[tuple[Tensor, Tensor]]  # KV cache: keys and values of every layer, all valid
_GRADIENT_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5}  # norm of the difference, relative to that of the gradient


class Attention(NamedTuple):
    """Constants of the attention for one chunk length."""

    heads: int
    memory_length: int
    band: Tensor
    distance: Tensor


class TorchPolicy:
    """PyTorch policy as `launch/bench.py` measures it; it carries a full KV cache from call to call."""

    def __init__(
        self, policy: Policy, params: Params, frames: np.ndarray, dtype: str = "float32", compiled: bool = False
    ) -> None:
        self.params, self.dtype = to_torch(params), dtype
        self.attention = make_attention(policy, frames.shape[1])
        self.compiled = compiled
        self.apply = torch.compile(apply, dynamic=False) if compiled else apply
        self.frames = torch.from_numpy(np.array(frames)).to(DEVICE)
        self.state = initial_state(policy, len(frames))

    def forward(self) -> dict[str, Tensor]:
        """Logits and values, without gradients."""
        with torch.no_grad(), self._cast():
            outputs, self.state = self.apply(self.attention, self.params, self.frames, self.state)
        if self.compiled:  # a state of other strides than the first would be compiled for again
            self.state = [(_dense_copy(keys), _dense_copy(values)) for keys, values in self.state]
        return synchronized(outputs)

    def gradient(self) -> tuple[Tensor, ...]:
        """Gradients of the sum of all outputs with respect to every parameter."""
        with self._cast():
            outputs, _ = self.apply(self.attention, self.params, self.frames, self.state)
        total = torch.stack([output.float().sum() for output in outputs.values()]).sum()
        return synchronized(torch.autograd.grad(total, list(_leaves(self.params))))

    def check_gradient(self, expected: Params) -> None:
        """Raises an `AssertionError` unless the gradient is close to JAX's, of the same dtype, from an empty memory."""
        actual = torch.cat([leaf.float().flatten() for leaf in self.gradient()])
        exact = torch.cat([leaf.detach().flatten() for leaf in _leaves(to_torch(expected))])
        error = float((actual - exact).norm() / exact.norm())
        assert error < _GRADIENT_TOLERANCE[self.dtype], f"the gradient differs from JAX's by {error:.1%} of its norm"  # noqa: S101

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == "bfloat16")


def exact_products() -> AbstractContextManager[Any]:
    """Context manager for float32 without TF32, which PyTorch otherwise uses for convolutions on a GPU."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def synchronized(value: Any) -> Any:
    """Waits until a value is computed: CUDA kernels run asynchronously."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return value


def _leaves(params: Params) -> Iterator[Tensor]:
    for leaf in params.values():
        yield from _leaves(leaf) if isinstance(leaf, Mapping) else [leaf]


def _dense_copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def to_torch(params: Params) -> Params:
    """Converts JAX parameters to tensors that require a gradient, convolution kernels to `[out, in, 3, 3]`."""
    return {name: to_torch(leaf) if isinstance(leaf, Mapping) else _tensor(leaf) for name, leaf in params.items()}


def _tensor(leaf: Any) -> Tensor:
    array = np.asarray(leaf)
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.array(array, order="C")).to(DEVICE).requires_grad_()


def initial_state(policy: Policy, batch: int) -> State:
    """Full KV cache of zeros, `[batch, memory_length, features]`."""
    shape = batch, policy.memory_length, policy.features
    return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(policy.layers)]


def make_attention(policy: Policy, length: int) -> Attention:
    """Constants of the attention for chunks of `length` frames."""
    memory = policy.memory_length
    tables = causal_band(length, memory + length, memory), relative_distance(length, memory)
    return Attention(policy.heads, memory, *(torch.from_numpy(np.array(table)).to(DEVICE) for table in tables))


def apply(attention: Attention, p: Params, frames: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
    """Applies the policy to `frames` `[b, t, h, w, 3]`, uint8. Returns logits and values, and the next state."""
    b, t = frames.shape[:2]
    x = frames.flatten(0, 1).permute(0, 3, 1, 2).contiguous().float() / 255
    x = _encode(p["encoder"], x).reshape(b, t, -1)
    next_state = []
    for i, memory in enumerate(state):
        x, memory = _block(attention, p["transformer"][f"block_{i}"], x, memory)
        next_state.append(memory)
    x = _norm(p["final_norm"], _norm_dense(p["last"], x.relu()))
    heads = {**p["actions"], "value": p["value"]}
    return {name: _dense(head, x) for name, head in heads.items()}, next_state


def _encode(p: Params, x: Tensor) -> Tensor:
    for i in range(sum(name.startswith("stack") for name in p)):
        stack = p[f"stack_{i}"]
        x = functional.max_pool2d(_norm_conv(stack["first_conv"], x), 3, 2, 1)
        x = _image_norm(stack["norm"], x)
        for block in (stack["block_0"], stack["block_1"]):
            x = x + _norm_conv(block["conv_1"], _norm_conv(block["conv_0"], x))
    return _norm_dense(p["project"], _norm_dense(p["dense"], x.permute(0, 2, 3, 1).flatten(1)))


def _block(
    sizes: Attention, p: Params, x: Tensor, memory: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    (b, t, f), heads, attention = x.shape, sizes.heads, p["attention"]
    x = _norm(p["norm"], x)
    key, value = (
        torch.cat([old, _dense(attention[name], x)], 1)
        for old, name in zip(memory, ("key", "value"), strict=True)
    )  # fmt: skip
    q, k, v = (a.reshape(b, -1, heads, f // heads).transpose(1, 2) for a in (_dense(attention["query"], x), key, value))
    mix = _dense(attention["relative"], x).reshape(b, t, heads, -1)
    basis = attention["basis"][:, sizes.distance.clamp(0, sizes.memory_length - 1)] * sizes.band
    logits = q @ k.transpose(2, 3) / q.shape[-1] + torch.einsum("bthn,nts->bhts", mix, basis)
    attended = logits.masked_fill(~sizes.band, -1e9).softmax(-1) @ v
    x = x + _dense(attention["out"], attended.transpose(1, 2).reshape(b, t, f))
    x = x + _dense(p["mlp_out"], _norm_dense(p["mlp_in"], x))
    return x, (key[:, t:], value[:, t:])


def _norm_conv(p: Params, x: Tensor) -> Tensor:
    if "norm" in p:
        x = _image_norm(p["norm"], x)
    return functional.conv2d(x, p["conv"]["kernel"], p["conv"].get("bias"), padding=1).relu()


def _norm_dense(p: Params, x: Tensor) -> Tensor:
    return _dense(p["dense"], _norm(p["norm"], x)).relu()


def _dense(p: Params, x: Tensor) -> Tensor:
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def _norm(p: Params, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], NORM_EPSILON)


def _image_norm(p: Params, x: Tensor) -> Tensor:
    return functional.group_norm(x, 1, p["scale"], p["bias"], NORM_EPSILON)
