"""Check of a plan before it starts: programs, configs and fields of all stages exist."""

import runpy
from functools import cache
from pathlib import Path

from demo.stages import Stage

from sweeps.plan import Plan
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.renamed_fields import explain_missing_field, field_names


def check_fields(plan: Plan) -> None:
    """Check the commands of all stages: without it, a wrong name ends a sweep only when its stage starts.

    Raises:
        ConfigError: a program, a config, its variant or a field does not exist.
    """
    for stage in plan.stages:
        _check_command(stage)


def _check_command(stage: Stage) -> None:
    _, program, config, *settings = stage.command
    file, _, variant = config.removeprefix("--config=").partition(":")
    for path, field in ((Path(program), "program"), (Path(file), "config")):
        if not path.is_file():
            raise ConfigError(f"config.stages: {stage.name} has the {field} {path.stem!r}, and there is no {path}")
    try:
        names = _fields(file, variant)
    except ValueError as error:  # of a variant
        raise ConfigError(f"config.stages: {stage.name}: {error}") from error
    for setting in settings:
        name = setting.removeprefix("--config.").partition("=")[0]
        if name not in names:
            origin = "config.stages, config.vary or config.seeded"
            raise ConfigError(
                f"{origin} gives {stage.name} the setting {setting.removeprefix('--config.')}, and in "
                f"{Path(file).name}, {explain_missing_field(name, names)}"
            )


@cache
def _fields(file: str, variant: str) -> tuple[str, ...]:
    """Names of a config's fields."""
    get_config = runpy.run_path(file)["get_config"]
    return tuple(field_names(get_config(variant) if variant else get_config()))
