"""Train a policy by behavioural cloning or reinforcement learning (PPG), or an inverse dynamics model.

    python launch/train.py --config=configs/foundation.py:500m --config.data.train=DATASET --config.workdir=FOLDER
    python launch/train.py --config=configs/idm.py:paper --config.data.train=DATASET --config.workdir=FOLDER
    python launch/train.py --config=configs/rl_doom.py --config.init_from=FOLDER --config.workdir=FOLDER

The same command resumes from the newest checkpoint in the work directory; SIGTERM (or Ctrl-C, in a job of one process)
saves and exits with 0 (or --config.stopped_status). On several hosts, or in several processes of one, start it in each
by launch/pods/, or by hand with --config.distributed.coordinator=HOST:PORT, .num_processes and .process_id.
"""

import sys

from ml_collections import ConfigDict

from vpt_jax.programs.train import train
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(_train, "foundation", __name__)


def _train(config: ConfigDict) -> None:
    if not train(config):
        sys.exit(config.stopped_status)
