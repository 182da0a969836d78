"""Record episodes of the embedded game, or human games from demo files; fields: configs/record.py.

python launch/record.py --config=configs/record.py:demo --config.out=RECORDINGS
python launch/record.py --player=demos --config.out=RECORDINGS
"""

from absl import flags
from ml_collections import ConfigDict

from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    player = flags.DEFINE_enum(
        "player",
        "config",
        ["config", "demos"],
        "config: the players of config.players play; demos: people have played (config.demos), dsda-doom draws it.",
    )

    def record_player(config: ConfigDict) -> None:
        if player.value == "demos":
            from vpt_jax.envs.doom.demos.recorder import record_demos

            record_demos(config)
            return
        from vpt_jax.envs.doom.recorder import record  # here, since the game may not be installed

        record(config)

    command_line.run(record_player, "record", __name__)
