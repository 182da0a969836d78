"""Write the newest parameters of a work directory to a file that OpenAI's code, or any other, reads.

    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.weights
    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.safetensors

The first writes NAME.model beside it.
"""

from pathlib import Path

from absl import flags

from vpt_jax.openai.convert import ConversionError, export_weights
from vpt_jax.system import command_line
from vpt_jax.system.disk_errors import raise_disk_errors_as

_RUN = flags.DEFINE_string("run", None, "Work directory of a training run, or of an imported model.", required=True)
_OUT = flags.DEFINE_string("out", None, "The file: NAME.weights, or NAME.safetensors.", required=True)


def main() -> None:
    with raise_disk_errors_as(Path(_OUT.value), ConversionError):
        export_weights(_RUN.value, _OUT.value)
    print(f"exported: {_OUT.value}")


if __name__ == "__main__":
    command_line.run_plain(main)
