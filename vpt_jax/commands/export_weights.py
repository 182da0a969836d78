"""Export the newest parameters of a work directory to a file that OpenAI's code, or other programs, can read.

To a folder, any model is exported; to a file, those that OpenAI's format has a place for.

    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.weights
    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.safetensors
    python launch/export_weights.py --run=runs/showcase/idm-55 --out=weights/idm --dtype=bfloat16

The first command also writes NAME.model, next to NAME.weights. The third writes a work directory, which all programs
take, with the parameters alone.
"""

from pathlib import Path

from absl import flags

from vpt_jax.openai.convert import ConversionError, export_weights
from vpt_jax.system import command_line
from vpt_jax.system.disk_errors import raise_disk_errors_as
from vpt_jax.training.parameters_only import DTYPES, export_parameters


def run() -> None:
    """Run the command."""
    workdir = flags.DEFINE_string(
        "run", None, "Work directory of a training run, or of an imported model.", required=True
    )
    out = flags.DEFINE_string(
        "out", None, "The file, NAME.weights or NAME.safetensors; or a folder, a name without a suffix.", required=True
    )
    dtype = flags.DEFINE_enum(
        "dtype", None, DTYPES, "Precision of the values in a folder (float32). bfloat16 takes half the space."
    )

    def export_run() -> None:
        to_folder = not Path(out.value).suffix
        if dtype.value and not to_folder:
            raise ConversionError(f"--dtype={dtype.value} is for folders, and --out={out.value} is a file: omit it")
        with raise_disk_errors_as(Path(out.value), ConversionError):
            if to_folder:
                export_parameters(workdir.value, out.value, dtype.value or DTYPES[0])
            else:
                export_weights(workdir.value, out.value)
        print(f"exported: {out.value}")

    command_line.run_plain(export_run, __name__)
