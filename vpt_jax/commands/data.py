"""Inspect, validate and export a dataset, or select videos by title (fields: configs/data.py).

python launch/data.py stats|validate|show|diff|export|score --config.data=DATASET
python launch/data.py early-game --config.manifest=VIDEOS/segments.parquet --config.titles=VIDEOS/videos.parquet
"""

import sys

from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.system import command_line


def run() -> None:
    """Run the command that the first argument names."""
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        sys.argv[1:1] = ["stats"] if sys.argv[1] not in COMMANDS else []
    if sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS:
        usage = command_line.as_called(f"python launch/data.py {{{','.join(COMMANDS)}}} --config.data=DATASET")
        sys.exit(f"error: choose a command: {usage}")
    command_line.run(COMMANDS[sys.argv.pop(1)], "data", __name__)
