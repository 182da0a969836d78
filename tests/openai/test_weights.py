"""Errors of the weight conversion, and its round trip; tests/models/ checks the converted models."""

import json
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.openai.weights import (
    aux_value_normalizer_from_openai,
    idm_from_openai,
    idm_to_openai,
    policy_from_openai,
    policy_to_openai,
    value_normalizer_from_openai,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "policy_tiny.npz")
META = json.loads(str(GOLDEN["meta"]))
STATE_DICT = {name.removeprefix("param/"): GOLDEN[name] for name in GOLDEN.files if name.startswith("param/")}
KEY = "net.recurrent_layer.blocks.1.r.orc_block.k_layer.weight"


def convert(settings=META["policy_kwargs"], state_dict=STATE_DICT):
    return policy_from_openai(settings, META["pi_head_kwargs"], state_dict)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({KEY: None}, f"missing tensor '{KEY}'"),
        ({"value_head.normalizer.running_mean": None}, "missing tensor 'value_head.normalizer.running_mean'"),
        ({"net.new.weight": np.zeros(3)}, "extra tensor 'net.new.weight'"),
        ({KEY: np.zeros((64, 63))}, rf"tensor '{KEY}' of shape \(64, 63\)"),
        ({"net.img_process.cnn.dense.layer.weight": np.zeros((256, 9))}, "cnn.dense.layer.weight"),
        ({"value_head.normalizer.running_mean": np.zeros(2)}, "running_mean' has shape"),
    ],
)
def test_wrong_tensors_are_named(change, message):
    state_dict = {name: value for name, value in {**STATE_DICT, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert(state_dict=state_dict)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidsize": None}, "missing setting 'hidsize'"),
        ({"use_pre_lstm_ln": True}, "setting 'use_pre_lstm_ln' is True"),
        ({"new_option": 1}, "unknown setting 'new_option'"),
    ],
)
def test_wrong_settings_are_named(change, message):
    settings = {name: value for name, value in {**META["policy_kwargs"], **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert(settings)


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name, strict=True)


@pytest.mark.parametrize("aux", [False, True])
def test_round_trip_of_a_policy_is_bit_exact(aux):
    heads = {name.replace("value_head", "aux_value_head"): 3 * value for name, value in STATE_DICT.items()}
    state_dict = STATE_DICT | ({name: value for name, value in heads.items() if name.startswith("aux")} if aux else {})
    module, params = convert(state_dict=state_dict)
    assert module.aux_value == aux
    normalizers = [value_normalizer_from_openai(state_dict)]
    normalizers += [aux_value_normalizer_from_openai(state_dict)] if aux else []
    settings, head, back = policy_to_openai(module, params, META["policy_kwargs"]["img_shape"], *normalizers)
    assert_same(back, state_dict)
    assert policy_from_openai(settings, head, back)[0] == module


def test_round_trip_of_an_inverse_dynamics_model_is_bit_exact():
    golden = np.load(Path(__file__).parents[1] / "golden" / "idm_tiny.npz")
    meta = json.loads(str(golden["meta"]))
    state_dict = {name.removeprefix("param/"): golden[name] for name in golden.files if name.startswith("param/")}
    module, params = idm_from_openai(meta["idm_net_kwargs"], meta["pi_head_kwargs"], state_dict)
    height, width, _ = meta["idm_net_kwargs"]["img_shape"]
    settings, head, back = idm_to_openai(module, params, (height, width, 3), meta["idm_net_kwargs"]["timesteps"])
    assert_same(back, state_dict)
    assert idm_from_openai(settings, head, back)[0] == module
    with pytest.raises(ValueError, match="this model has learnt to use it"):
        idm_to_openai(module.clone(use_last=True), params, (height, width, 3), 16)
