"""Convert OpenAI's released files to a checkpoint, without executing any code in them.

    python launch/import_weights.py --model=foundation-model-2x.model --weights=foundation-model-2x.weights \
        --out=runs/foundation-2x

Policies of all sizes, also fine-tuned ones and those from reinforcement learning, and the inverse dynamics model can be
imported. The output is a work directory like that of a training run: --config.init_from, launch/play.py and
`vpt_jax.PolicyAgent.load` accept a policy; launch/label.py and `vpt_jax.VideoLabeller` accept the inverse dynamics
model.
"""

from absl import flags

from vpt_jax.openai.convert import import_weights
from vpt_jax.system import command_line

_MODEL = flags.DEFINE_string("model", None, "The settings, a file NAME.model.", required=True)
_WEIGHTS = flags.DEFINE_string("weights", None, "The tensors, a file NAME.weights.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the checkpoint.", required=True)


def main() -> None:
    import_weights(_MODEL.value, _WEIGHTS.value, _OUT.value)
    print(f"imported: {_OUT.value}, described in {_OUT.value}/card.json")


if __name__ == "__main__":
    command_line.run_plain(main)
