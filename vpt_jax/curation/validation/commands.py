"""Commands of launch/data.py, by name."""

import sys
from collections.abc import Callable

from ml_collections import ConfigDict

from vpt_jax.curation.download.early_game import early_game
from vpt_jax.curation.export.run import export
from vpt_jax.curation.validation.diff import diff
from vpt_jax.curation.validation.episodes import InspectionError
from vpt_jax.curation.validation.score import score
from vpt_jax.curation.validation.show import show
from vpt_jax.curation.validation.summarize import summarize
from vpt_jax.curation.validation.validate import validate
from vpt_jax.system.paths import refuse_remote_paths


def _validate(config: ConfigDict) -> None:
    """Validates a dataset; exits with status 1 if there are findings, for scripts."""
    if validate(config):
        sys.exit(1)


def _with_checked_config(command: Callable[[ConfigDict], object]) -> Callable[[ConfigDict], None]:
    def checked(config: ConfigDict) -> None:
        refuse_remote_paths(config)
        if not config.data:
            raise InspectionError("config.data is empty; give a dataset: --config.data=DATASET")
        if config.workers < 0:
            raise InspectionError("config.workers must not be negative")
        command(config)

    return checked


COMMANDS = {
    name: _with_checked_config(command)
    for name, command in {
        "stats": summarize,
        "validate": _validate,
        "show": show,
        "diff": diff,
        "export": export,
        "score": score,
    }.items()
} | {"early-game": early_game}
