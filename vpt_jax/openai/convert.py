"""Import OpenAI's weight files as checkpoints, and export checkpoints to OpenAI's format or safetensors."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.openai.pickle_reader import (
    ModelSettings,
    WeightsFile,
    WeightsFileError,
    read_model,
    write_model,
    write_weights,
)
from vpt_jax.openai.weights import (
    aux_value_normalizer_from_openai,
    idm_from_openai,
    idm_to_openai,
    policy_from_openai,
    policy_to_openai,
    value_normalizer_from_openai,
)
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import local_path
from vpt_jax.system.workers import progress_bar
from vpt_jax.training.checkpoints import Checkpoints, TrainedIDM, TrainedPolicy, load_model

SUFFIXES = (".weights", ".safetensors")


class ConversionError(UserError, ValueError):
    """A model that cannot be imported or exported; the message gives the reason and the supported alternatives."""


class _State(NamedTuple):
    """Train state that is stored for an imported inverse dynamics model."""

    step: Any
    params: Any


class _PolicyState(NamedTuple):
    """Train state that is stored for an imported policy."""

    step: Any
    params: Any
    normalizer: Any
    aux_normalizer: Any


def import_weights(model: str | Path, weights: str | Path, workdir: str | Path) -> None:
    """Import OpenAI's `.model` and `.weights` files: creates a work directory as if the model had been trained there.

    `load_policy`, `load_idm` and `--config.init_from` accept it. Its card.json records the source files.

    Args:
        model: the settings, NAME.model.
        weights: the tensors, NAME.weights.
        workdir: the folder to create; must not hold a checkpoint.

    Raises:
        FileNotFoundError: a file is missing.
        WeightsFileError: a file is damaged, or contains more than data.
        ConversionError: the tensors do not fit the settings, the model's size is not a preset, or `workdir` is in use.
    """
    for path in (model, weights, workdir):
        local_path(path)
    settings, workdir = read_model(model), Path(workdir)
    if any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
        raise ConversionError(f"{workdir} holds a checkpoint already: choose another folder")
    with (
        WeightsFile(weights) as file,
        progress_bar(file.nbytes, desc="reading", unit="B", unit_scale=True) as bar,
    ):
        file.on_read = bar.update
        state, metadata = _convert(settings, file, Path(model))
        card = _model_card(settings, Path(model), Path(weights), file)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print("writing the checkpoint ...", flush=True)
    checkpoints = Checkpoints(workdir / "checkpoints", 1, 0.0, metadata | {"card": card})
    checkpoints.save(state, 0)
    checkpoints.close()


def _convert(settings: ModelSettings, tensors: Mapping[str, np.ndarray], model: Path) -> tuple[Any, dict[str, Any]]:
    """Convert settings and tensors to the train state and the metadata of its checkpoint."""
    try:
        return (_convert_idm if "conv3d_params" in settings.net else _convert_policy)(settings, tensors)
    except (WeightsFileError, ConversionError):
        raise
    except (ValueError, TypeError, AttributeError) as error:  # settings of unexpected types
        raise ConversionError(f"{model}: {error}") from error


def _convert_idm(settings: ModelSettings, tensors: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    idm, params = idm_from_openai(settings.net, settings.head, tensors)
    fields = {"preset": _preset(idm, IDMS), "use_last": idm.use_last, "temperature": idm.temperature}
    stream = {"frame_shape": [*settings.net["img_shape"][:2], 3], "length": settings.net["timesteps"]}
    return _State(np.int32(0), params), _run_metadata("idm", stream, fields)


def _convert_policy(settings: ModelSettings, tensors: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    policy, params = policy_from_openai(settings.net, settings.head, tensors)
    fields = {"preset": _preset(policy, POLICIES), "aux_value": policy.aux_value, "temperature": policy.temperature}
    main = value_normalizer_from_openai(tensors)
    aux = aux_value_normalizer_from_openai(tensors) if policy.aux_value else main
    stream = {"frame_shape": [*settings.net["img_shape"][:2], 3]}
    return _PolicyState(np.int32(0), params, main, aux), _run_metadata("policy", stream, fields)


def _preset(module: Policy | InverseDynamicsModel, presets: Mapping[str, Mapping[str, Any]]) -> str:
    for name, sizes in presets.items():
        if module.clone(**sizes) == module:
            return name
    raise ConversionError(
        f"the model is none of {', '.join(presets)} (vpt_jax/models/presets.py): it has {module.layers} layers of "
        f"{module.features} features, {module.heads} heads, and image stacks of {module.widths} channels"
    )


def _run_metadata(stage: str, stream: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    model |= {"dtype": "float32", "remat": False}
    return {"stream": stream, "model": model, "optimizer": {}, "config": {"stage": stage, "model": model}}


def _model_card(settings: ModelSettings, model: Path, weights: Path, file: WeightsFile) -> dict[str, Any]:
    return {
        "source": {path.suffix[1:]: _file_digest(path) for path in (model, weights)},
        "tensors": len(file),
        "bytes_of_tensors": file.nbytes,
        "settings": settings.net,
        "temperature": settings.head.get("temperature", 1.0),
    }


def _file_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def export_weights(workdir: str | Path, out: str | Path) -> None:
    """Export the newest parameters of a work directory to a file, with OpenAI's tensor names.

    Args:
        workdir: of an imported model, or of a training run.
        out: NAME.weights, which OpenAI's code reads, with NAME.model next to it; or NAME.safetensors, with the settings
            in its metadata.

    Raises:
        FileNotFoundError: the work directory holds no checkpoint.
        ConversionError: the file has another suffix, safetensors is not installed, or OpenAI's code does not support
            the model.
    """
    out = local_path(out)
    if out.suffix not in SUFFIXES:
        raise ConversionError(f"{out} must end in one of {', '.join(SUFFIXES)}: the suffix selects the format")
    settings, tensors = _to_openai(load_model(workdir))
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        _write_safetensors(out, settings, tensors)
    else:
        write_weights(out, tensors)
        write_model(out.with_suffix(".model"), settings)


def _to_openai(trained: TrainedPolicy | TrainedIDM) -> tuple[ModelSettings, dict[str, np.ndarray]]:
    try:
        if isinstance(trained, TrainedIDM):
            net, head, tensors = idm_to_openai(trained.module, trained.params, trained.frame_shape, trained.window)
        else:
            normalizers = trained.normalizer, trained.aux_normalizer
            net, head, tensors = policy_to_openai(trained.module, trained.params, trained.frame_shape, *normalizers)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    return ModelSettings(net, head), tensors


def _write_safetensors(out: Path, settings: ModelSettings, tensors: dict[str, np.ndarray]) -> None:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ConversionError(f'{out} needs safetensors: pip install -c constraints.txt -e ".[safetensors]"') from error
    save_file(tensors, out, {"settings": json.dumps(settings._asdict())})
