"""Let the checkpoints of a training run play: loss against play, and the checkpoint that plays best.

    python launch/follow.py --config.workdir=runs/mine

Fields: configs/follow.py.
"""

from vpt_jax.programs.follow import follow
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(follow, "follow", __name__)


if __name__ == "__main__":  # launch/train.py starts this module
    run()
