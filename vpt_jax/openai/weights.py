"""Conversion of VPT parameters from OpenAI's PyTorch `state_dict` to the Flax modules, and back.

The conversion is strict: a missing, extra or misshapen tensor, or a setting that the modules do not support, is an
error that names it. Linear kernels are transposed, convolutions go from (out, in, h, w) to (h, w, in, out), and the
first dense layer's rows are reordered because the Flax modules flatten the feature map channel-last.
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.attention import NUM_BASIS
from vpt_jax.models.heads import logit_shapes
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel
from vpt_jax.models.impala import BLOCKS_PER_STACK
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.value_normalizer import ValueNormalizer

StateDict = Mapping[str, np.ndarray]
Params = Mapping[str, Any]
ConvertArray = Callable[[np.ndarray], np.ndarray]

# Settings of the reference for which the Flax modules support one value only.
_FIXED_SETTINGS: dict[str, Any] = {
    "diff_mlp_embedding": False, "impala_kwargs": {"post_pool_groups": 1},
    "init_norm_kwargs": {"batch_norm": False, "group_norm_groups": 1}, "only_img_input": True, "pointwise_ratio": 4,
    "pointwise_use_activation": False, "recurrence_is_residual": True, "recurrence_type": "transformer",
    "use_pointwise_layer": True, "use_pre_lstm_ln": False, "single_output": False, "scale_input_img": True,
}  # fmt: skip
_FIXED_POLICY_SETTINGS = _FIXED_SETTINGS | {"attention_mask_style": "clipped_causal"}
_FIXED_IDM_SETTINGS = _FIXED_SETTINGS | {"attention_mask_style": "none", "single_output": True}
_SIZE_SETTINGS = {
    "attention_heads", "attention_memory_size", "hidsize", "img_shape", "impala_chans", "impala_width",
    "n_recurrence_layers", "timesteps",
}  # fmt: skip
_VALUE_HEAD, _AUX_VALUE_HEAD = "value_head", "aux_value_head"  # the second in models from reinforcement learning
_MAX_SIZE = 1 << 14
_NORMALIZER = {"running_mean": (1,), "running_mean_sq": (1,), "debiasing_term": ()}  # of a value head


@dataclass(frozen=True)
class _TensorMapping:
    """Mapping of a Flax parameter to a PyTorch tensor, with the conversion of the array in both directions."""

    path: str  # of the Flax parameter
    torch_name: str
    from_torch: ConvertArray = np.asarray
    to_torch: ConvertArray = np.asarray


def policy_from_openai(
    policy_kwargs: Mapping[str, Any], head_kwargs: Mapping[str, Any], state_dict: StateDict
) -> tuple[Policy, dict[str, Any]]:
    """Build the policy described by OpenAI's settings, with OpenAI's parameters.

    Args:
        policy_kwargs: the `model.args.net.args` of a `.model` file, such as `{"hidsize": 2048, ...}`.
        head_kwargs: its `pi_head_opts`, such as `{"temperature": 2.0}`.
        state_dict: arrays by PyTorch name.

    Returns:
        The module and its parameters, for `module.apply({"params": params}, frames, first, memory)`.

    Raises:
        ValueError: a setting or tensor is missing, unknown or misshapen.
    """
    _check_settings(policy_kwargs, _SIZE_SETTINGS, _FIXED_POLICY_SETTINGS)
    module = Policy(
        widths=tuple(int(c * policy_kwargs["impala_width"]) for c in policy_kwargs["impala_chans"]),
        features=policy_kwargs["hidsize"],
        heads=policy_kwargs["attention_heads"],
        layers=policy_kwargs["n_recurrence_layers"],
        memory_length=policy_kwargs["attention_memory_size"] - policy_kwargs["timesteps"],
        temperature=float(head_kwargs.get("temperature", 1.0)),
        aux_value=any(name.startswith(_AUX_VALUE_HEAD) for name in state_dict),
    )
    height, width = policy_kwargs["img_shape"][:2]
    expected = _shapes(jax.eval_shape(lambda: init_params(module, (height, width, 3), jax.random.key(0))))
    statistics = {f"{head}.normalizer.{n}": shape for head in _value_heads(module) for n, shape in _NORMALIZER.items()}
    params = _from_torch(list(_policy_tensors(module, height, width)), expected, state_dict, statistics)
    return module, unflatten_dict(params, sep="/")


def policy_to_openai(
    module: Policy,
    params: Params,
    frame_shape: tuple[int, ...],
    normalizer: ValueNormalizer,
    aux_normalizer: ValueNormalizer | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Invert `policy_from_openai` exactly: returns settings of the network, of the head, and arrays by PyTorch name.

    Args:
        module, params: the policy.
        frame_shape: height, width and channels of its frames.
        normalizer: of the value head; a new one will do for a policy without a trained value.
        aux_normalizer: of the auxiliary value head, if there is one.
    """
    height, width, _ = frame_shape
    state_dict = _to_torch(list(_policy_tensors(module, height, width)), params)
    statistics = normalizer, aux_normalizer or ValueNormalizer.create()
    for head, normalizer_state in zip(_value_heads(module), statistics, strict=False):
        for name, value in zip(_NORMALIZER, normalizer_state, strict=True):
            state_dict[f"{head}.normalizer.{name}"] = np.asarray(value)
    return _settings(module, (height, width, 3), module.memory_length, "clipped_causal"), _head(module), state_dict


def idm_from_openai(
    idm_net_kwargs: Mapping[str, Any], head_kwargs: Mapping[str, Any], state_dict: StateDict
) -> tuple[InverseDynamicsModel, dict[str, Any]]:
    """Build the inverse dynamics model described by OpenAI's settings, with OpenAI's parameters.

    It does not use its last dense layer, like the released code (`use_last=False`).

    Args:
        idm_net_kwargs: the `model.args.net.args` of a `.model` file; `img_shape` is that of the encoder's input.
        head_kwargs: its `pi_head_opts`, such as `{"temperature": 4.0}`.
        state_dict: arrays by PyTorch name.

    Returns:
        The module and its parameters, for `module.apply({"params": params}, frames)`.

    Raises:
        ValueError: a setting or tensor is missing, unknown or misshapen.
    """
    _check_settings(idm_net_kwargs, _SIZE_SETTINGS | {"conv3d_params"}, _FIXED_IDM_SETTINGS)
    height, width, channels = idm_net_kwargs["img_shape"]
    _check_temporal_conv(idm_net_kwargs["conv3d_params"], channels)
    module = InverseDynamicsModel(
        temporal_features=channels,
        widths=tuple(int(c * idm_net_kwargs["impala_width"]) for c in idm_net_kwargs["impala_chans"]),
        features=idm_net_kwargs["hidsize"],
        heads=idm_net_kwargs["attention_heads"],
        layers=idm_net_kwargs["n_recurrence_layers"],
        temperature=float(head_kwargs.get("temperature", 1.0)),
        use_last=False,
    )
    frames = jax.ShapeDtypeStruct((1, 1, height, width, 3), jnp.uint8)
    expected = _shapes(jax.eval_shape(module.init, jax.random.key(0), frames)["params"])
    params = _from_torch(list(_idm_tensors(module, height, width)), expected, state_dict, _empty_basis_tensors(module))
    return module, unflatten_dict(params, sep="/")


def idm_to_openai(
    module: InverseDynamicsModel, params: Params, frame_shape: tuple[int, ...], window: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Invert `idm_from_openai`, like `policy_to_openai`; `window` is the number of frames in a window.

    Raises:
        ValueError: the model uses its last dense layer, which the released code ignores; or it has no temporal
            convolution.
    """
    if not module.temporal_convolution:
        raise ValueError("OpenAI's model has a temporal convolution, and this one has none")
    if module.use_last:
        raise ValueError(
            "OpenAI's code ignores the last dense layer, and this model has learnt to use it: train with use_last=False"
        )
    height, width, _ = frame_shape
    state_dict = _to_torch(list(_idm_tensors(module, height, width)), params)
    state_dict |= {name: np.zeros(shape, np.float32) for name, shape in _empty_basis_tensors(module).items()}
    settings = _settings(module, (height, width, module.temporal_features), 0, "none", window) | {
        "conv3d_params": {
            "inchan": 3,
            "outchan": module.temporal_features,
            "kernel_size": [2 * TEMPORAL_RADIUS + 1, 1, 1],
            "padding": [TEMPORAL_RADIUS, 0, 0],
        }
    }
    return settings, _head(module), state_dict


def value_normalizer_from_openai(state_dict: StateDict, head: str = _VALUE_HEAD) -> ValueNormalizer:
    """Running statistics of a value head, which are not trained parameters."""
    return ValueNormalizer(*(jnp.asarray(state_dict[f"{head}.normalizer.{name}"]) for name in _NORMALIZER))


def aux_value_normalizer_from_openai(state_dict: StateDict) -> ValueNormalizer:
    """Running statistics of the auxiliary value head, in policies that have one."""
    return value_normalizer_from_openai(state_dict, _AUX_VALUE_HEAD)


def _value_heads(module: Policy) -> tuple[str, ...]:
    return (_VALUE_HEAD, _AUX_VALUE_HEAD)[: 1 + module.aux_value]


def _empty_basis_tensors(module: InverseDynamicsModel) -> dict[str, tuple[int, ...]]:
    """Empty tensors in the released IDM, whose attention has no relative position bias."""
    return {f"net.recurrent_layer.blocks.{i}.r.orc_block.b_nd": (NUM_BASIS, 0) for i in range(module.layers)}


def _head(module: Policy | InverseDynamicsModel) -> dict[str, Any]:
    return {"temperature": module.temperature}


def _settings(
    module: Policy | InverseDynamicsModel,
    img_shape: tuple[int, int, int],
    memory: int,
    style: str,
    timesteps: int = 128,
) -> dict[str, Any]:
    return _FIXED_SETTINGS | {
        "attention_heads": module.heads,
        "attention_mask_style": style,
        "attention_memory_size": memory + timesteps,
        "hidsize": module.features,
        "img_shape": list(img_shape),
        "impala_chans": list(module.widths),
        "impala_width": 1,
        "n_recurrence_layers": module.layers,
        "single_output": style == "none",
        "timesteps": timesteps,
    }


def _check_settings(settings: Mapping[str, Any], sizes: set[str], fixed: Mapping[str, Any]) -> None:
    problems = [f"missing setting '{name}'" for name in sorted(sizes - settings.keys())]
    problems += [
        f"setting '{name}' is {reprlib.repr(settings[name])}, which is not a valid size"
        for name in sorted(sizes & settings.keys())
        if not _is_size(settings[name])
    ]
    problems += [f"unknown setting '{name}'" for name in sorted(settings.keys() - sizes - fixed.keys())]
    problems += [
        f"setting '{name}' is {reprlib.repr(settings[name])}; only {value!r} is supported"
        for name, value in fixed.items()
        if settings.get(name, value) != value
    ]
    if problems:
        raise ValueError("cannot build OpenAI's model: " + "; ".join(problems))


def _is_size(value: Any) -> bool:
    """Return True for positive integers of a plausible size; the temporal convolution's mapping is checked later."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return isinstance(value, Mapping) or all(type(number) is int and 0 < number <= _MAX_SIZE for number in numbers)


def _check_temporal_conv(settings: Mapping[str, Any], channels: int) -> None:
    kernel, padding = [2 * TEMPORAL_RADIUS + 1, 1, 1], [TEMPORAL_RADIUS, 0, 0]
    expected = {"inchan": 3, "outchan": channels, "kernel_size": kernel, "padding": padding}
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    if given != expected:
        raise ValueError(
            f"cannot build OpenAI's model: setting 'conv3d_params' is {reprlib.repr(given)}; "
            f"only {expected} is supported"
        )


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters by path."""
    return {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}


def _from_torch(
    tensors: list[_TensorMapping],
    expected: Mapping[str, tuple[int, ...]],
    state_dict: StateDict,
    not_parameters: Mapping[str, tuple[int, ...]],
) -> dict[str, jax.Array]:
    """Convert a state dict to parameters by path; every tensor in it is used exactly once or is an error."""
    known = {tensor.torch_name for tensor in tensors} | not_parameters.keys()
    problems = [f"missing tensor '{name}'" for name in sorted(known - state_dict.keys())]
    problems += [f"extra tensor '{name}'" for name in sorted(state_dict.keys() - known)]
    problems += [
        f"tensor '{name}' has shape {state_dict[name].shape}; expected {shape}"
        for name, shape in not_parameters.items()
        if name in state_dict and state_dict[name].shape != shape
    ]
    params = {}
    for tensor in (tensor for tensor in tensors if tensor.torch_name in state_dict):
        source = np.asarray(state_dict[tensor.torch_name])
        try:
            params[tensor.path] = jnp.asarray(tensor.from_torch(source), jnp.float32)
            fits = params[tensor.path].shape == expected[tensor.path]
        except ValueError:
            fits = False
        if not fits:
            shape = expected[tensor.path]
            problems.append(f"tensor '{tensor.torch_name}' of shape {source.shape} does not fit {shape}")
    if problems:
        raise ValueError("cannot convert OpenAI's weights: " + "; ".join(problems))
    return params


def _to_torch(tensors: list[_TensorMapping], params: Params) -> dict[str, np.ndarray]:
    """Convert parameters to arrays by PyTorch name."""
    leaves = flatten_dict(params, sep="/")
    return {
        tensor.torch_name: np.ascontiguousarray(tensor.to_torch(np.asarray(leaves[tensor.path]))) for tensor in tensors
    }


def _policy_tensors(module: Policy, height: int, width: int) -> Iterator[_TensorMapping]:
    yield from _trunk_tensors(module, height, width)
    for name in logit_shapes(module.head, MINERL):
        yield from _affine(f"actions/{name}", f"pi_head.{name}.linear_layer")
    for name, head in zip(("value", "aux_value"), _value_heads(module), strict=False):
        yield from _affine(name, f"{head}.linear")


def _idm_tensors(module: InverseDynamicsModel, height: int, width: int) -> Iterator[_TensorMapping]:
    def to_matrix(kernel: np.ndarray) -> np.ndarray:  # (out, in, time, 1, 1) to (time and in, out)
        return np.transpose(kernel[..., 0, 0], (2, 1, 0)).reshape(-1, len(kernel))

    def to_filters(kernel: np.ndarray) -> np.ndarray:
        taps = kernel.reshape(2 * TEMPORAL_RADIUS + 1, -1, kernel.shape[-1])
        return np.transpose(taps, (2, 1, 0))[..., None, None]

    yield _TensorMapping("temporal/conv/kernel", "net.conv3d_layer.layer.weight", to_matrix, to_filters)
    yield _TensorMapping("temporal/conv/bias", "net.conv3d_layer.layer.bias")
    trunk = _trunk_tensors(module, height, width, first_norm=True)
    yield from (tensor for tensor in trunk if not tensor.path.endswith("/basis"))
    for name in logit_shapes("factored", MINERL):
        yield from _affine(f"actions/{name}", f"pi_head.{name}.linear_layer")


def _trunk_tensors(
    module: Policy | InverseDynamicsModel, height: int, width: int, first_norm: bool = False
) -> Iterator[_TensorMapping]:
    """Tensors that policy and inverse dynamics model share: image stacks, transformer, last layers."""
    shrink = 2 ** len(module.widths)
    final = (module.widths[-1], height // shrink, width // shrink)
    yield from _encoder_tensors("encoder", "net.img_process", len(module.widths), final, first_norm)
    for i in range(module.layers):
        yield from _block_tensors(f"transformer/block_{i}", f"net.recurrent_layer.blocks.{i}")
    yield from _dense("last", "net.lastlayer")
    yield from _norm("final_norm", "net.final_ln")


def _encoder_tensors(
    path: str, torch_name: str, stacks: int, final: tuple[int, int, int], first_norm: bool
) -> Iterator[_TensorMapping]:
    for i in range(stacks):
        stack, source = f"{path}/stack_{i}", f"{torch_name}.cnn.stacks.{i}"
        yield from _conv(f"{stack}/first_conv", f"{source}.firstconv", norm=first_norm or i > 0)
        yield from _norm(f"{stack}/norm", f"{source}.n")
        for j in range(BLOCKS_PER_STACK):
            for k in range(2):
                yield from _conv(f"{stack}/block_{j}/conv_{k}", f"{source}.blocks.{j}.conv{k}")

    def channel_last(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(final + rows.shape[1:]), 0, 2).reshape(rows.shape)

    def channel_first(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(final[1:] + final[:1] + rows.shape[1:]), 2, 0).reshape(rows.shape)

    yield _TensorMapping(f"{path}/dense/norm/scale", f"{torch_name}.cnn.dense.norm.weight", channel_last, channel_first)
    yield _TensorMapping(f"{path}/dense/norm/bias", f"{torch_name}.cnn.dense.norm.bias", channel_last, channel_first)
    yield _TensorMapping(
        f"{path}/dense/dense/kernel",
        f"{torch_name}.cnn.dense.layer.weight",
        lambda weight: channel_last(weight.T),
        lambda kernel: channel_first(kernel).T,
    )
    yield from _dense(f"{path}/project", f"{torch_name}.linear")


def _block_tensors(path: str, torch_name: str) -> Iterator[_TensorMapping]:
    attention, source = f"{path}/attention", f"{torch_name}.r.orc_block"
    yield from _norm(f"{path}/norm", f"{torch_name}.pre_r_ln")
    yield _TensorMapping(f"{attention}/basis", f"{source}.b_nd")
    for name, layer in {"query": "q_layer", "out": "proj_layer", "relative": "r_layer"}.items():
        yield from _affine(f"{attention}/{name}", f"{source}.{layer}")
    for name, layer in {"key": "k_layer", "value": "v_layer"}.items():
        yield _TensorMapping(f"{attention}/{name}/kernel", f"{source}.{layer}.weight", np.transpose, np.transpose)
    yield from _dense(f"{path}/mlp_in", f"{torch_name}.mlp0")
    yield from _affine(f"{path}/mlp_out", f"{torch_name}.mlp1.layer")


def _dense(path: str, torch_name: str) -> Iterator[_TensorMapping]:
    yield from _norm(f"{path}/norm", f"{torch_name}.norm")
    yield _TensorMapping(f"{path}/dense/kernel", f"{torch_name}.layer.weight", np.transpose, np.transpose)


def _conv(path: str, torch_name: str, norm: bool = True) -> Iterator[_TensorMapping]:
    yield _TensorMapping(f"{path}/conv/kernel", f"{torch_name}.layer.weight", _channels_last, _channels_first)
    if norm:
        yield from _norm(f"{path}/norm", f"{torch_name}.norm")
    else:
        yield _TensorMapping(f"{path}/conv/bias", f"{torch_name}.layer.bias")


def _norm(path: str, torch_name: str) -> Iterator[_TensorMapping]:
    yield _TensorMapping(f"{path}/scale", f"{torch_name}.weight")
    yield _TensorMapping(f"{path}/bias", f"{torch_name}.bias")


def _affine(path: str, torch_name: str) -> Iterator[_TensorMapping]:
    yield _TensorMapping(f"{path}/kernel", f"{torch_name}.weight", np.transpose, np.transpose)
    yield _TensorMapping(f"{path}/bias", f"{torch_name}.bias")


def _channels_last(kernel: np.ndarray) -> np.ndarray:
    return np.transpose(kernel, (2, 3, 1, 0))


def _channels_first(kernel: np.ndarray) -> np.ndarray:
    return np.transpose(kernel, (3, 2, 0, 1))
