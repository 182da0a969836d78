"""OpenAI's VPT parameters, by the names of their PyTorch `state_dict`, to ours and back.

The conversion is strict: a missing, extra or misshapen tensor, or a setting our modules do not have, is an error that
names it. Linear kernels are transposed, convolutions go from (out, in, h, w) to (h, w, in, out), and the first dense
layer's rows are reordered because we flatten the feature map channel-last.
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vpt_jax.models.attention import NUM_BASIS
from vpt_jax.models.heads import FACTORED_CHOICES, HEAD_CLASSES, ValueNormalizer
from vpt_jax.models.idm import REACH, InverseDynamicsModel
from vpt_jax.models.impala import BLOCKS_PER_STACK
from vpt_jax.models.policy import Policy, init_params

StateDict = Mapping[str, np.ndarray]
Params = Mapping[str, Any]
Convert = Callable[[np.ndarray], np.ndarray]

# Settings of the reference that our modules have in one form only.
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
_LARGEST_SIZE = 1 << 14
_NORMALIZER = {"running_mean": (1,), "running_mean_sq": (1,), "debiasing_term": ()}  # of a value head


@dataclass(frozen=True)
class _Tensor:
    """Where one of our parameters comes from, and how it goes back."""

    ours: str
    theirs: str
    convert: Convert = np.asarray
    revert: Convert = np.asarray


def policy_from_openai(
    policy_kwargs: Mapping[str, Any], head_kwargs: Mapping[str, Any], state_dict: StateDict
) -> tuple[Policy, dict[str, Any]]:
    """The policy that OpenAI's settings describe, with their parameters.

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
    params = _convert(list(_policy_tensors(module, height, width)), expected, state_dict, statistics)
    return module, unflatten_dict(params, sep="/")


def policy_to_openai(
    module: Policy,
    params: Params,
    frame_shape: tuple[int, ...],
    normalizer: ValueNormalizer,
    aux_normalizer: ValueNormalizer | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Undoes `policy_from_openai`: settings of the network, of the head, and arrays by PyTorch name, to the last bit.

    Args:
        module, params: the policy.
        frame_shape: height, width and channels of what it sees.
        normalizer: of the value head; one that has seen nothing will do for a policy that has no use for it.
        aux_normalizer: of the auxiliary value head, where there is one.
    """
    height, width, _ = frame_shape
    state_dict = _revert(list(_policy_tensors(module, height, width)), params)
    statistics = normalizer, aux_normalizer or ValueNormalizer.create()
    for head, of_head in zip(_value_heads(module), statistics, strict=False):
        for name, value in zip(_NORMALIZER, of_head, strict=True):
            state_dict[f"{head}.normalizer.{name}"] = np.asarray(value)
    return _settings(module, (height, width, 3), module.memory_length, "clipped_causal"), _head(module), state_dict


def idm_from_openai(
    idm_net_kwargs: Mapping[str, Any], head_kwargs: Mapping[str, Any], state_dict: StateDict
) -> tuple[InverseDynamicsModel, dict[str, Any]]:
    """The inverse dynamics model that OpenAI's settings describe, with their parameters.

    It leaves its last dense layer out of the computation, as the released code does (`use_last=False`).

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
    params = _convert(list(_idm_tensors(module, height, width)), expected, state_dict, _no_basis(module))
    return module, unflatten_dict(params, sep="/")


def idm_to_openai(
    module: InverseDynamicsModel, params: Params, frame_shape: tuple[int, ...], window: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Undoes `idm_from_openai`, as `policy_to_openai` does; `window` is how many frames a window has.

    Raises:
        ValueError: the model computes with its last dense layer, which the released code leaves out.
    """
    if module.use_last:
        raise ValueError("OpenAI's code leaves the last dense layer out, and this model has learnt to use it")
    height, width, _ = frame_shape
    state_dict = _revert(list(_idm_tensors(module, height, width)), params)
    state_dict |= {name: np.zeros(shape, np.float32) for name, shape in _no_basis(module).items()}
    settings = _settings(module, (height, width, module.temporal_features), 0, "none", window) | {
        "conv3d_params": {
            "inchan": 3,
            "outchan": module.temporal_features,
            "kernel_size": [2 * REACH + 1, 1, 1],
            "padding": [REACH, 0, 0],
        }
    }
    return settings, _head(module), state_dict


def value_normalizer_from_openai(state_dict: StateDict, head: str = _VALUE_HEAD) -> ValueNormalizer:
    """The running statistics of a value head, which are not parameters."""
    return ValueNormalizer(*(jnp.asarray(state_dict[f"{head}.normalizer.{name}"]) for name in _NORMALIZER))


def aux_value_normalizer_from_openai(state_dict: StateDict) -> ValueNormalizer:
    """The same of the auxiliary value head, of policies that have one."""
    return value_normalizer_from_openai(state_dict, _AUX_VALUE_HEAD)


def _value_heads(module: Policy) -> tuple[str, ...]:
    return (_VALUE_HEAD, _AUX_VALUE_HEAD)[: 1 + module.aux_value]


def _no_basis(module: InverseDynamicsModel) -> dict[str, tuple[int, ...]]:
    """Empty tensors of the released model, whose windows look at all frames alike."""
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
        f"setting '{name}' is {reprlib.repr(settings[name])}, which is no size"
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
    """A number or some, none too large to be built in reasonable time; the temporal convolution is looked at later."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return isinstance(value, Mapping) or all(type(number) is int and 0 < number <= _LARGEST_SIZE for number in numbers)


def _check_temporal_conv(settings: Mapping[str, Any], channels: int) -> None:
    wanted = {"inchan": 3, "outchan": channels, "kernel_size": [2 * REACH + 1, 1, 1], "padding": [REACH, 0, 0]}
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    if given != wanted:
        raise ValueError(
            f"cannot build OpenAI's model: setting 'conv3d_params' is {reprlib.repr(given)}; only {wanted} is supported"
        )


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Shapes by path."""
    return {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}


def _convert(
    tensors: list[_Tensor],
    expected: Mapping[str, tuple[int, ...]],
    state_dict: StateDict,
    not_parameters: Mapping[str, tuple[int, ...]],
) -> dict[str, jax.Array]:
    """Our parameters by path; every tensor of the state dict is used exactly once or is an error."""
    known = {tensor.theirs for tensor in tensors} | not_parameters.keys()
    problems = [f"missing tensor '{name}'" for name in sorted(known - state_dict.keys())]
    problems += [f"extra tensor '{name}'" for name in sorted(state_dict.keys() - known)]
    problems += [
        f"tensor '{name}' has shape {state_dict[name].shape}; expected {shape}"
        for name, shape in not_parameters.items()
        if name in state_dict and state_dict[name].shape != shape
    ]
    params = {}
    for tensor in (tensor for tensor in tensors if tensor.theirs in state_dict):
        source = np.asarray(state_dict[tensor.theirs])
        try:
            params[tensor.ours] = jnp.asarray(tensor.convert(source), jnp.float32)
            fits = params[tensor.ours].shape == expected[tensor.ours]
        except ValueError:
            fits = False
        if not fits:
            problems.append(f"tensor '{tensor.theirs}' of shape {source.shape} does not fit {expected[tensor.ours]}")
    if problems:
        raise ValueError("cannot convert OpenAI's weights: " + "; ".join(problems))
    return params


def _revert(tensors: list[_Tensor], params: Params) -> dict[str, np.ndarray]:
    """Their arrays by name."""
    ours = flatten_dict(params, sep="/")
    return {tensor.theirs: np.ascontiguousarray(tensor.revert(np.asarray(ours[tensor.ours]))) for tensor in tensors}


def _policy_tensors(module: Policy, height: int, width: int) -> Iterator[_Tensor]:
    yield from _trunk_tensors(module, height, width)
    for name in HEAD_CLASSES:
        yield from _affine(f"actions/{name}", f"pi_head.{name}.linear_layer")
    for name, head in zip(("value", "aux_value"), _value_heads(module), strict=False):
        yield from _affine(name, f"{head}.linear")


def _idm_tensors(module: InverseDynamicsModel, height: int, width: int) -> Iterator[_Tensor]:
    def stacked(kernel: np.ndarray) -> np.ndarray:  # (out, in, time, 1, 1) to (time and in, out)
        return np.transpose(kernel[..., 0, 0], (2, 1, 0)).reshape(-1, len(kernel))

    def unstacked(kernel: np.ndarray) -> np.ndarray:
        taps = kernel.reshape(2 * REACH + 1, -1, kernel.shape[-1])
        return np.transpose(taps, (2, 1, 0))[..., None, None]

    yield _Tensor("temporal/conv/kernel", "net.conv3d_layer.layer.weight", stacked, unstacked)
    yield _Tensor("temporal/conv/bias", "net.conv3d_layer.layer.bias")
    trunk = _trunk_tensors(module, height, width, first_norm=True)
    yield from (tensor for tensor in trunk if not tensor.ours.endswith("/basis"))
    for name in FACTORED_CHOICES:
        yield from _affine(f"actions/{name}", f"pi_head.{name}.linear_layer")


def _trunk_tensors(
    module: Policy | InverseDynamicsModel, height: int, width: int, first_norm: bool = False
) -> Iterator[_Tensor]:
    """What policy and inverse dynamics model share: image stacks, transformer, last layers."""
    shrink = 2 ** len(module.widths)
    final = (module.widths[-1], height // shrink, width // shrink)
    yield from _encoder_tensors("encoder", "net.img_process", len(module.widths), final, first_norm)
    for i in range(module.layers):
        yield from _block_tensors(f"transformer/block_{i}", f"net.recurrent_layer.blocks.{i}")
    yield from _dense("last", "net.lastlayer")
    yield from _norm("final_norm", "net.final_ln")


def _encoder_tensors(
    ours: str, theirs: str, stacks: int, final: tuple[int, int, int], first_norm: bool
) -> Iterator[_Tensor]:
    for i in range(stacks):
        stack, source = f"{ours}/stack_{i}", f"{theirs}.cnn.stacks.{i}"
        yield from _conv(f"{stack}/first_conv", f"{source}.firstconv", norm=first_norm or i > 0)
        yield from _norm(f"{stack}/norm", f"{source}.n")
        for j in range(BLOCKS_PER_STACK):
            for k in range(2):
                yield from _conv(f"{stack}/block_{j}/conv_{k}", f"{source}.blocks.{j}.conv{k}")

    def channel_last(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(final + rows.shape[1:]), 0, 2).reshape(rows.shape)

    def channel_first(rows: np.ndarray) -> np.ndarray:
        return np.moveaxis(rows.reshape(final[1:] + final[:1] + rows.shape[1:]), 2, 0).reshape(rows.shape)

    yield _Tensor(f"{ours}/dense/norm/scale", f"{theirs}.cnn.dense.norm.weight", channel_last, channel_first)
    yield _Tensor(f"{ours}/dense/norm/bias", f"{theirs}.cnn.dense.norm.bias", channel_last, channel_first)
    yield _Tensor(
        f"{ours}/dense/dense/kernel",
        f"{theirs}.cnn.dense.layer.weight",
        lambda weight: channel_last(weight.T),
        lambda kernel: channel_first(kernel).T,
    )
    yield from _dense(f"{ours}/project", f"{theirs}.linear")


def _block_tensors(ours: str, theirs: str) -> Iterator[_Tensor]:
    attention, source = f"{ours}/attention", f"{theirs}.r.orc_block"
    yield from _norm(f"{ours}/norm", f"{theirs}.pre_r_ln")
    yield _Tensor(f"{attention}/basis", f"{source}.b_nd")
    for name, layer in {"query": "q_layer", "out": "proj_layer", "relative": "r_layer"}.items():
        yield from _affine(f"{attention}/{name}", f"{source}.{layer}")
    for name, layer in {"key": "k_layer", "value": "v_layer"}.items():
        yield _Tensor(f"{attention}/{name}/kernel", f"{source}.{layer}.weight", np.transpose, np.transpose)
    yield from _dense(f"{ours}/mlp_in", f"{theirs}.mlp0")
    yield from _affine(f"{ours}/mlp_out", f"{theirs}.mlp1.layer")


def _dense(ours: str, theirs: str) -> Iterator[_Tensor]:
    yield from _norm(f"{ours}/norm", f"{theirs}.norm")
    yield _Tensor(f"{ours}/dense/kernel", f"{theirs}.layer.weight", np.transpose, np.transpose)


def _conv(ours: str, theirs: str, norm: bool = True) -> Iterator[_Tensor]:
    yield _Tensor(f"{ours}/conv/kernel", f"{theirs}.layer.weight", _channels_last, _channels_first)
    if norm:
        yield from _norm(f"{ours}/norm", f"{theirs}.norm")
    else:
        yield _Tensor(f"{ours}/conv/bias", f"{theirs}.layer.bias")


def _norm(ours: str, theirs: str) -> Iterator[_Tensor]:
    yield _Tensor(f"{ours}/scale", f"{theirs}.weight")
    yield _Tensor(f"{ours}/bias", f"{theirs}.bias")


def _affine(ours: str, theirs: str) -> Iterator[_Tensor]:
    yield _Tensor(f"{ours}/kernel", f"{theirs}.weight", np.transpose, np.transpose)
    yield _Tensor(f"{ours}/bias", f"{theirs}.bias")


def _channels_last(kernel: np.ndarray) -> np.ndarray:
    return np.transpose(kernel, (2, 3, 1, 0))


def _channels_first(kernel: np.ndarray) -> np.ndarray:
    return np.transpose(kernel, (3, 2, 0, 1))
