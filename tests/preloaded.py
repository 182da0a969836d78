"""Modules that the server of `tests/programs.py` imports before it is forked: all that programs need."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import checked_types

checked_types.install()

import launch.evaluate
import launch.filter
import launch.label
import launch.play
import launch.train
import vpt_jax.curation.download.contractor
import vpt_jax.curation.download.web
import vpt_jax.curation.validation.commands
import vpt_jax.data.prepare
import vpt_jax.envs.doom.recorder
import vpt_jax.openai.convert
