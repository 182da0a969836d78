"""Parameters for acting: a copy on every device, in the type in which the policy computes, made once per rollout.

With sharded parameters (FSDP), every step of a rollout would gather all of them, for a batch of one frame per game; and
a policy that computes in bfloat16 would convert them at every step. With the copy, a step has no collective operation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array

from vpt_jax.parallel import path_name

# Modules that convert their kernels and biases to `dtype`. Norms, the attention's `basis` and the heads use float32.
_CONVERTING = "encoder", "transformer", "last"


def acting_params(mesh: Mesh, dtype: DTypeLike) -> Callable[[Any], Any]:
    """Makes the function that maps a policy's parameters to its copy for acting, on every device of the mesh.

    Acting with the copy gives the same outputs: only parameters that the policy converts itself are converted.

    Args:
        mesh: of the parameters.
        dtype: in which the policy computes.
    """
    dtype = jnp.dtype(dtype)
    if mesh.size == 1 and dtype == jnp.float32:
        return lambda params: params
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(partial(jax.tree.map_with_path, partial(_convert, dtype)), out_shardings=replicated)


def _convert(dtype: jnp.dtype, path: tuple[Any, ...], leaf: Array) -> Array:
    *modules, name = path_name(path).split("/")
    is_linear = name == "kernel" or (name == "bias" and not modules[-1].endswith("norm"))
    return leaf.astype(dtype) if modules[0] in _CONVERTING and is_linear else leaf
