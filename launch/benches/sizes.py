"""The table of sizes: parameters, memory and speed of the presets in training and acting. Needs no data libraries."""

import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from absl import flags
from benches.measuring import BATCH, DTYPE, LENGTH, SIZE, Row, repeat
from benches.policy import IDM_PREFIX, PRESET, compile_single_step, random_inputs
from benches.training import compile_update, make_task

from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.training.roofline import program_bytes

_PRESETS = flags.DEFINE_list(
    "presets", ["tiny", "1m", "5m", "20m", *(IDM_PREFIX + name for name in ("tiny", "1m", "5m", "20m"))],
    f"Presets of policies, and {IDM_PREFIX}SIZE of inverse dynamics models.",
)  # fmt: skip
_COUNTED = flags.DEFINE_list(
    "counted", ["1x", "2x", "3x", *(IDM_PREFIX + name for name in ("paper", "paper_text"))],
    "Presets whose parameters are counted, without a measurement: they need no memory.",
)  # fmt: skip
_SIZES = flags.DEFINE_list("sizes", ["64", "128"], "Heights and widths of frames.")

_MEASURED = ("rows x length, dtype", "step MB", "training frames/s", "acting frames/s")
ERRORS: tuple[type[Exception], ...] = (ValueError,)


def sizes() -> list[Row]:
    """A row for every preset and size of the frames; progress goes to stderr."""
    choices = [*POLICIES, *(IDM_PREFIX + name for name in IDMS)]
    for flag in (_PRESETS, _COUNTED):
        if unknown := [preset for preset in flag.value if preset not in choices]:
            raise ValueError(f"--{flag.name} has no {unknown[0]!r}; choose of {', '.join(choices)}")
    if not all(size.isdecimal() for size in _SIZES.value):
        raise ValueError(f"--sizes={','.join(_SIZES.value)}: give numbers of pixels, such as 64,128")
    return list(_rows())


def _rows() -> Iterator[Row]:
    for preset in dict.fromkeys([*_PRESETS.value, *_COUNTED.value]):
        for size in map(int, _SIZES.value):
            row = {"preset": preset, "frames": f"{size}x{size}", "parameters": f"{count_parameters(preset, size):,}"}
            row |= _measure(preset, size) if preset in _PRESETS.value else dict.fromkeys(_MEASURED, "")
            print(" | ".join(row.values()), file=sys.stderr, flush=True)
            yield row


def count_parameters(preset: str, size: int) -> int:
    """Number of parameters of a preset for frames of `size` x `size` pixels, and MineRL's actions."""
    key = jax.random.key(0)
    if preset.startswith(IDM_PREFIX):
        idm = InverseDynamicsModel(**IDMS[preset.removeprefix(IDM_PREFIX)])
        shapes = jax.eval_shape(idm.init, key, jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.uint8))
    else:
        shapes = jax.eval_shape(lambda key: init_params(Policy(**POLICIES[preset]), (size, size, 3), key), key)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _measure(preset: str, size: int) -> Row:
    # The functions of the other benchmarks read these.
    flags.FLAGS[PRESET.name].value, flags.FLAGS[SIZE.name].value = preset, size
    update, compiled, _ = compile_update(make_task())
    rate = repeat(update) * BATCH.value * LENGTH.value
    acting = ""
    if not preset.startswith(IDM_PREFIX):
        single_step, _ = compile_single_step(*random_inputs(1, 1))
        acting = f"{repeat(single_step):,.0f}"
    setting = f"{BATCH.value} x {LENGTH.value}, {DTYPE.value}"
    figures = setting, f"{program_bytes(compiled) / 1e6:,.0f}", f"{rate:,.1f}", acting
    return dict(zip(_MEASURED, figures, strict=True))
