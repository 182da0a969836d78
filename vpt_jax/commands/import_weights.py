"""Convert OpenAI's released files to a checkpoint, without executing any code in them.

    python launch/import_weights.py --model=foundation-model-2x.model --weights=foundation-model-2x.weights \
        --out=runs/foundation-2x

Policies of all sizes, also fine-tuned ones and those from reinforcement learning, and the inverse dynamics model can be
imported. The output is a work directory like that of a training run: --config.init_from, launch/play.py and
`vpt_jax.PolicyAgent.load` accept a policy; launch/label.py and `vpt_jax.VideoLabeller` accept the inverse dynamics
model.
"""

from pathlib import Path

from absl import flags

from vpt_jax.openai.convert import ConversionError, import_weights
from vpt_jax.system import command_line
from vpt_jax.system.disk_errors import raise_disk_errors_as


def run() -> None:
    """Run the command."""
    model = flags.DEFINE_string("model", None, "The settings, a file NAME.model.", required=True)
    weights = flags.DEFINE_string("weights", None, "The tensors, a file NAME.weights.", required=True)
    out = flags.DEFINE_string("out", None, "Folder of the checkpoint.", required=True)

    def import_files() -> None:
        with raise_disk_errors_as(Path(out.value), ConversionError):
            import_weights(model.value, weights.value, out.value)
        print(f"imported: {out.value}, described in {out.value}/card.json")

    command_line.run_plain(import_files, __name__)
