"""Export the newest parameters of a work directory to a file that OpenAI's code, or other programs, can read.

    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.weights
    python launch/export_weights.py --run=runs/foundation-2x --out=foundation-model-2x.safetensors

The first command also writes NAME.model, next to NAME.weights.
"""

from absl import flags

from vpt_jax.openai.convert import export_weights
from vpt_jax.system import command_line

_RUN = flags.DEFINE_string("run", None, "Work directory of a training run, or of an imported model.", required=True)
_OUT = flags.DEFINE_string("out", None, "The file: NAME.weights, or NAME.safetensors.", required=True)


def main() -> None:
    export_weights(_RUN.value, _OUT.value)
    print(f"exported: {_OUT.value}")


if __name__ == "__main__":
    command_line.run_plain(main)
