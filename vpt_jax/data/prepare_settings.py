"""Settings of the preparation of a dataset, from the fields of its config (configs/prepare.py)."""

from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.actions.spaces import load_mapping, load_space
from vpt_jax.data import splits
from vpt_jax.data.bridges.facts import read_json_object
from vpt_jax.data.bridges.registry import BRIDGES, load_bridge
from vpt_jax.data.encode import RECORDINGS, EncodingSettings
from vpt_jax.data.errors import PrepareError
from vpt_jax.recording import BrokenRecordingError


def read_settings(config: ConfigDict, source: str) -> EncodingSettings:
    """Reads the settings of a run, and the files of its space, mapping and mouse factors.

    Args:
        config: of the run.
        source: format of the recordings: OpenAI's, or a bridge.

    Raises:
        PrepareError, ActionSpaceError: a field or file is invalid; the message names it and what is valid.
    """
    mapping = load_mapping(config.mapping) if config.mapping else None
    space = load_space(config.space)
    if mapping:
        mapping.require_targets(space)
    factors = _mouse_factors(config.mouse_factors)
    settings = EncodingSettings(
        config.height,
        config.width,
        config.chunk_frames,
        config.quality,
        space=space,
        mapping=mapping,
        source=source,
        frames_per_second=config.frames_per_second,
        mouse_factors=tuple(sorted(factors.items())),
    )
    _check(settings, config)
    return settings


def _mouse_factors(file: str) -> dict[str, float]:
    """Factors of a JSON file, by name of the recording; none if no file is given."""
    if not file:
        return {}
    try:
        factors = read_json_object(Path(file).expanduser())
    except BrokenRecordingError as error:
        raise PrepareError(f"config.mouse_factors: {error}") from error
    for name, value in factors.items():
        if type(value) not in (int, float) or not 0 < value < 1e6:
            raise PrepareError(f"config.mouse_factors: the factor of {name!r} is {value!r}, not above 0")
    return {name: float(value) for name, value in factors.items()}


def _options(source: str) -> tuple[str, ...]:
    """Options that the format's reader heeds."""
    return load_bridge(source).options if source in BRIDGES else ()


def _check(settings: EncodingSettings, config: ConfigDict) -> None:
    valid = config.valid
    if settings.source not in (RECORDINGS, *BRIDGES):
        raise PrepareError(f"--source is {settings.source!r}; choose one of {', '.join((RECORDINGS, *BRIDGES))}")
    if not 0 <= settings.frames_per_second <= 1000:
        raise PrepareError(f"config.frames_per_second is {settings.frames_per_second}, and must be from 0 to 1000")
    if config.join_segments and settings.source != RECORDINGS:
        raise PrepareError("config.join_segments joins segments of OpenAI's format only: leave it out")
    if config.recorder_versions and settings.source != RECORDINGS:
        raise PrepareError("config.recorder_versions is for OpenAI's format only: leave it out")
    if settings.mouse_factors and settings.source == RECORDINGS:
        raise PrepareError("config.mouse_factors is for bridges' formats: those of OpenAI's have degrees. Leave it out")
    if settings.frames_per_second and "frames_per_second" not in _options(settings.source):
        named = ", ".join(name for name in BRIDGES if "frames_per_second" in _options(name))
        raise PrepareError(
            f"config.frames_per_second is for formats that store no times ({named}), and {settings.source} stores "
            "them: leave it out"
        )
    for field in ("height", "width"):
        if (size := getattr(settings, field)) < 8 or size % 8:
            raise PrepareError(f"config.{field} is {size}, and must be divisible by 8, as the model requires")
    if settings.chunk_frames < 1:
        raise PrepareError(f"config.chunk_frames is {settings.chunk_frames}, and must be 1 or more")
    if not 1 <= settings.quality <= 100:
        raise PrepareError(f"config.quality is {settings.quality}, and must be from 1 to 100")
    if not 0 <= valid.fraction < 1:
        raise PrepareError(f"config.valid.fraction is {valid.fraction}, and must be 0 (none) or more, and below 1")
    if valid.by not in splits.UNITS:
        raise PrepareError(f"config.valid.by is {valid.by!r}; choose one of {', '.join(splits.UNITS)}")
