"""Record episodes of the embedded game; fields: configs/record.py.

python launch/record.py --config=configs/record.py:demo --config.out=RECORDINGS
"""

from ml_collections import ConfigDict

from vpt_jax.system import command_line


def main(config: ConfigDict) -> None:
    from vpt_jax.envs.doom.recorder import record  # here, since the game may not be installed

    record(config)


if __name__ == "__main__":
    command_line.run(main, "configs/record.py")
