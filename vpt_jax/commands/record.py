"""Record episodes of the embedded game; fields: configs/record.py.

python launch/record.py --config=configs/record.py:demo --config.out=RECORDINGS
"""

from ml_collections import ConfigDict

from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(_record, "record", __name__)


def _record(config: ConfigDict) -> None:
    from vpt_jax.envs.doom.recorder import record  # here, since the game may not be installed

    record(config)
