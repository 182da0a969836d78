"""What launch/data.py can do, by name."""

import sys
from collections.abc import Callable

from ml_collections import ConfigDict

from vpt_jax.curation.validation.diff import diff
from vpt_jax.curation.validation.episodes import InspectionError
from vpt_jax.curation.validation.show import show
from vpt_jax.curation.validation.summarize import summarize
from vpt_jax.curation.validation.validate import validate
from vpt_jax.system.paths import refuse_remote_paths


def _validate(config: ConfigDict) -> None:
    """Ends the program with status 1 if something is found, for scripts."""
    if validate(config):
        sys.exit(1)


def _of_dataset(command: Callable[[ConfigDict], object]) -> Callable[[ConfigDict], None]:
    def checked(config: ConfigDict) -> None:
        refuse_remote_paths(config)
        if not config.data:
            raise InspectionError("say which dataset: --config.data=DATASET")
        if config.workers < 0:
            raise InspectionError("config.workers must not be negative")
        command(config)

    return checked


COMMANDS = {
    name: _of_dataset(command)
    for name, command in {"stats": summarize, "validate": _validate, "show": show, "diff": diff}.items()
}
