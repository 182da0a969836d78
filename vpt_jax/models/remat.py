"""Rematerialization (gradient checkpointing) of the image stacks, by name: what the backward pass computes again.

| name | kept for the backward pass | computed again |
| --- | --- | --- |
| `none` | everything | nothing |
| `convolutions` | of each residual block the input and the outputs of its convolutions | its norms and ReLU |
| `stacks` | a stack's input | everything in a stack, its convolutions too |

The gradient is the same up to rounding: the compiler fuses what is computed again differently.
"""

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

NONE, CONVOLUTIONS, STACKS = "none", "convolutions", "stacks"
REMAT = (NONE, CONVOLUTIONS, STACKS)  # by decreasing memory, and increasing arithmetic
AUTO = "auto"  # the first of them whose step fits into the device's memory (training/remat_choice.py)
_OF_BOOL = {False: NONE, True: STACKS}  # names of the values in configs of earlier versions
_CONV_OUTPUT = "convolution"


def name_output(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Marks a convolution's output, before its ReLU, as one that `convolutions` keeps."""
    return checkpoint_name(x, _CONV_OUTPUT)


def rematerialized_stack(module: type[nn.Module], remat: str) -> type[nn.Module]:
    """Class of image stacks like `module` whose backward pass computes again what the choice of `REMAT` says.

    Raises:
        ValueError: there is no such choice.
    """
    if remat not in REMAT:
        raise ValueError(f"remat is {remat!r}; choose one of {', '.join(REMAT)}")
    return nn.remat(module) if remat == STACKS else module


def rematerialized_block(module: type[nn.Module], remat: str) -> type[nn.Module]:
    """Class of residual blocks like `module` whose backward pass computes again what the choice of `REMAT` says.

    One block at a time, since what is computed again is in memory at once.
    """
    if remat != CONVOLUTIONS:
        return module
    return nn.remat(module, policy=jax.checkpoint_policies.save_only_these_names(_CONV_OUTPUT))


def stored_remat(value: Any) -> str:
    """Choice of a stored config: earlier versions stored True or False; `auto`, for a model by itself, is `none`."""
    name = _OF_BOOL[value] if isinstance(value, bool) else value
    return NONE if name == AUTO else name
