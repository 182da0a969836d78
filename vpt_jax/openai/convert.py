"""Read OpenAI's weight files as models or import them as checkpoints; export checkpoints to them or to safetensors."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vpt_jax.actions.minerl import MINERL
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
from vpt_jax.training.checkpoints import Checkpoints, PolicyState, TrainedIDM, TrainedPolicy, load_model

_ARRAYS = "params", "normalizer", "aux_normalizer"  # of a trained model
SUFFIXES = (".weights", ".safetensors")


class ConversionError(UserError, ValueError):
    """A model that cannot be imported or exported; the message gives the reason and the supported alternatives."""


class _State(NamedTuple):
    """Train state that is stored for an imported inverse dynamics model."""

    step: Any
    params: Any


def from_openai(model: str | Path, weights: str | Path) -> TrainedPolicy | TrainedIDM:
    """Read OpenAI's `.model` and `.weights` files as a trained model, onto the first device; writes no file.

    The files are pickles, of which nothing is executed (`pickle_reader.py`). Networks of any size are read;
    `import_weights` needs one of the presets.

    Args:
        model: the settings, NAME.model.
        weights: the tensors, NAME.weights.

    Returns:
        A `TrainedPolicy`, for `PolicyAgent`; for the files of the inverse dynamics model, a `TrainedIDM`, for
        `VideoLabeller`. Parameters are float32, `step` is 0, and `frame_shape` that of the released models: (128, 128,
        3).

    Raises:
        FileNotFoundError: a file is missing.
        WeightsFileError: a file is damaged, or contains more than data.
        ConversionError: the tensors do not fit the settings, or a setting is not supported.
    """
    model, weights = (local_path(path).expanduser() for path in (model, weights))
    settings = read_model(model)
    with WeightsFile(weights) as file:
        trained = _convert(settings, file, model)
    arrays = {name: value for name, value in trained._asdict().items() if name in _ARRAYS}
    return trained._replace(**jax.device_put(arrays, jax.local_devices()[0]))


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
        trained = _convert(settings, file, Path(model))
        metadata = _run_metadata(trained)
        card = _model_card(settings, Path(model), Path(weights), file)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print("writing the checkpoint ...", flush=True)
    with closing(Checkpoints(workdir / "checkpoints", 1, 0.0, metadata | {"card": card})) as checkpoints:
        checkpoints.save(_train_state(trained), 0)


def _convert(settings: ModelSettings, tensors: Mapping[str, np.ndarray], model: Path) -> TrainedPolicy | TrainedIDM:
    """Convert settings and tensors to a trained model, with its arrays on the host."""
    try:
        return (_convert_idm if "conv3d_params" in settings.net else _convert_policy)(settings, tensors)
    except (WeightsFileError, ConversionError):
        raise
    except (ValueError, TypeError, AttributeError) as error:  # settings of unexpected types
        raise ConversionError(f"{model}: {error}") from error


def _convert_idm(settings: ModelSettings, tensors: Mapping[str, np.ndarray]) -> TrainedIDM:
    idm, params = idm_from_openai(settings.net, settings.head, tensors)
    return TrainedIDM(idm, params, (*settings.net["img_shape"][:2], 3), settings.net["timesteps"], 0)


def _convert_policy(settings: ModelSettings, tensors: Mapping[str, np.ndarray]) -> TrainedPolicy:
    policy, params = policy_from_openai(settings.net, settings.head, tensors)
    main = value_normalizer_from_openai(tensors)
    aux = aux_value_normalizer_from_openai(tensors) if policy.aux_value else main
    return TrainedPolicy(policy, params, (*settings.net["img_shape"][:2], 3), 0, main, aux)


def _train_state(trained: TrainedPolicy | TrainedIDM) -> _State | PolicyState:
    if isinstance(trained, TrainedIDM):
        return _State(np.int32(0), trained.params)
    return PolicyState(np.int32(0), trained.params, trained.normalizer, trained.aux_normalizer)


def _run_metadata(trained: TrainedPolicy | TrainedIDM) -> dict[str, Any]:
    module = trained.module
    stream: dict[str, Any] = {"frame_shape": [*trained.frame_shape]}
    model: dict[str, Any] = {"temperature": module.temperature, "dtype": "float32", "remat": "none"}
    if isinstance(trained, TrainedIDM):
        stage, stream["length"] = "idm", trained.window
        model |= {"preset": _preset(trained.module, IDMS), "use_last": trained.module.use_last}
    else:
        stage = "policy"
        model |= {"preset": _preset(trained.module, POLICIES), "aux_value": trained.module.aux_value}
    return {"stream": stream, "model": model, "optimizer": {}, "config": {"stage": stage, "model": model}}


def _preset(module: Policy | InverseDynamicsModel, presets: Mapping[str, Mapping[str, Any]]) -> str:
    for name, sizes in presets.items():
        if module.clone(**sizes) == module:
            return name
    raise ConversionError(
        f"the model is none of {', '.join(presets)} (vpt_jax/models/presets.py): it has {module.layers} layers of "
        f"{module.features} features, {module.heads} heads, and image stacks of {module.widths} channels"
    )


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
        trained.module.space.require_equal(MINERL, "the model", "OpenAI's format")
        if isinstance(trained, TrainedPolicy) and trained.module.head != "joint":
            raise ConversionError(f"the policy has a head {trained.module.head!r}, and OpenAI's format a joint one")
        if isinstance(trained, TrainedPolicy) and trained.module.text_features:
            raise ConversionError("the policy reads text, for which OpenAI's format has no place")
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
