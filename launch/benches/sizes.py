"""The table of sizes: parameters, memory and speed of the presets in training and acting. Needs no data libraries."""

import sys
from collections.abc import Iterator

import jax
from absl import flags
from benches.measuring import BATCH, DTYPE, LENGTH, SIZE, Row, repeat
from benches.policy import IDM_PREFIX, PRESET, compile_single_step, random_inputs
from benches.training import compile_update, make_task

from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.training.roofline import program_bytes

_PRESETS = flags.DEFINE_list(
    "presets", ["tiny", "1m", "5m", "20m", *(IDM_PREFIX + name for name in ("tiny", "1m", "5m", "20m"))],
    f"Presets of policies, and {IDM_PREFIX}SIZE of inverse dynamics models.",
)  # fmt: skip
_SIZES = flags.DEFINE_list("sizes", ["64", "128"], "Heights and widths of frames.")

ERRORS: tuple[type[Exception], ...] = (ValueError,)


def sizes() -> list[Row]:
    """A row for every preset and size of the frames; progress goes to stderr."""
    choices = [*POLICIES, *(IDM_PREFIX + name for name in IDMS)]
    if unknown := [preset for preset in _PRESETS.value if preset not in choices]:
        raise ValueError(f"--presets has no {unknown[0]!r}; choose of {', '.join(choices)}")
    if not all(size.isdecimal() for size in _SIZES.value):
        raise ValueError(f"--sizes={','.join(_SIZES.value)}: give numbers of pixels, such as 64,128")
    return list(_rows())


def _rows() -> Iterator[Row]:
    for preset in _PRESETS.value:
        for size in map(int, _SIZES.value):
            # The functions of the other benchmarks read these.
            flags.FLAGS[PRESET.name].value, flags.FLAGS[SIZE.name].value = preset, size
            row = _row(preset, size)
            print(" | ".join(row.values()), file=sys.stderr, flush=True)
            yield row


def _row(preset: str, size: int) -> Row:
    task = make_task()
    update, compiled, _ = compile_update(task)
    rate = repeat(update) * BATCH.value * LENGTH.value
    parameters = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    acting = ""
    if not preset.startswith(IDM_PREFIX):
        single_step, _ = compile_single_step(*random_inputs(1, 1))
        acting = f"{repeat(single_step):,.0f}"
    return {
        "preset": preset, "frames": f"{size}x{size}", "parameters": f"{parameters:,}", "dtype": DTYPE.value,
        "rows x length": f"{BATCH.value} x {LENGTH.value}", "step MB": f"{program_bytes(compiled) / 1e6:,.0f}",
        "training frames/s": f"{rate:,.0f}", "acting frames/s": acting,
    }  # fmt: skip
