"""Export the newest parameters of a work directory to a file that OpenAI's code, or other programs, can read.

    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.weights
    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.safetensors

The first command also writes NAME.model, next to NAME.weights.
"""

from pathlib import Path

from absl import flags

from vpt_jax.openai.convert import ConversionError, export_weights
from vpt_jax.system import command_line
from vpt_jax.system.disk_errors import raise_disk_errors_as


def run() -> None:
    """Run the command."""
    workdir = flags.DEFINE_string(
        "run", None, "Work directory of a training run, or of an imported model.", required=True
    )
    out = flags.DEFINE_string("out", None, "The file: NAME.weights, or NAME.safetensors.", required=True)

    def export_run() -> None:
        with raise_disk_errors_as(Path(out.value), ConversionError):
            export_weights(workdir.value, out.value)
        print(f"exported: {out.value}")

    command_line.run_plain(export_run, __name__)
