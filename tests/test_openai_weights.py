"""Strictness of the conversion; that the converted policy is right is shown in tests/models/test_policy.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.openai_weights import policy_from_openai

GOLDEN = np.load(Path(__file__).parent / "golden" / "policy_tiny.npz")
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
