"""Action conversions compared with the reference's tables (tests/golden/actions.*), in NumPy and under jit."""

import hashlib
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from vpt_jax.actions.joint import (
    JointAction,
    factored_from_joint,
    joint_from_factored,
    joint_from_raw,
    joint_tables,
    num_classes,
)
from vpt_jax.actions.minerl import BUTTON_INDEX, BUTTONS, CAMERA, ENV_KEYS, MINERL
from vpt_jax.actions.quantizer import AxisQuantizer

GOLDEN = Path(__file__).parents[1] / "golden"
META = json.loads((GOLDEN / "actions.json").read_text())
TABLES, INVENTORY_CLASS = joint_tables(MINERL), num_classes(MINERL)[0] - 1
QUANTIZERS = {"mu_law": AxisQuantizer(), "linear": AxisQuantizer(mu=None)}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "actions.npz")


@pytest.fixture(params=["numpy", "jit"])
def run(request):
    return jax.jit if request.param == "jit" else lambda function: function


def test_names_and_tables_equal_the_references(golden):
    assert list(BUTTONS) == META["buttons_all"]
    assert set(ENV_KEYS) == set(META["target_action_space_keys"])
    assert len(ENV_KEYS) == 24
    assert num_classes(MINERL)[0] == META["n_buttons_joint"]
    assert num_classes(MINERL)[1] == META["n_camera_joint"]
    assert TABLES.null_camera == META["camera_null_idx"]
    assert INVENTORY_CLASS == META["inventory_idx"]
    np.testing.assert_array_equal(TABLES.buttons, golden["table/button_factored"])
    digest = hashlib.sha256(TABLES.buttons.tobytes()).hexdigest()
    assert digest == META["table"]["button_factored"]["sha256_uint8"]
    # The reference's table has no camera-off entry for `inventory`, which has no camera part at all.
    has_camera = ~golden["table/button_camera_off"]
    has_camera[INVENTORY_CLASS] = False
    np.testing.assert_array_equal(TABLES.has_camera, has_camera)


@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_camera_bins_equal_the_references(golden, scheme):
    quantizer = QUANTIZERS[scheme]
    for inputs in ("grid", "edge", "integer_degrees", "bin_value", "pair"):
        degrees = golden[f"{scheme}/{inputs}"].astype(np.float64)
        np.testing.assert_array_equal(quantizer.to_bins(degrees), golden[f"{scheme}/{inputs}_bin"], inputs)
    np.testing.assert_allclose(quantizer.thresholds, golden[f"{scheme}/threshold"], atol=1e-14)
    np.testing.assert_allclose(quantizer.centres, golden[f"{scheme}/bin_value"], atol=1e-12)
    back = quantizer.to_values(golden[f"{scheme}/pair_bin"])
    np.testing.assert_allclose(back, golden[f"{scheme}/pair_back"], atol=1e-12)


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_float32_is_binned_equally_in_numpy_and_under_jit(quantizer):
    near = quantizer.thresholds.astype(np.float32)
    degrees = np.concatenate([np.nextafter(near, -np.float32(99)), near, np.nextafter(near, np.float32(99))])
    np.testing.assert_array_equal(jax.jit(quantizer.to_bins)(degrees), quantizer.to_bins(degrees))
    assert len(set(quantizer.to_bins(degrees))) == 11


def test_factored_to_joint_and_back(golden, run):
    joint = run(partial(joint_from_factored, MINERL))(
        golden["factored/buttons"].astype(np.uint8), golden["factored/camera"]
    )
    np.testing.assert_array_equal(joint.buttons, golden["factored/joint_buttons"][:, 0])
    np.testing.assert_array_equal(joint.camera, golden["factored/joint_camera"][:, 0])
    buttons, camera = run(partial(factored_from_joint, MINERL))(joint)
    np.testing.assert_array_equal(buttons, golden["factored/back_buttons"])
    np.testing.assert_array_equal(camera, golden["factored/back_camera"])


def test_joint_to_factored_and_back(golden, run):
    joint = JointAction(golden["joint/buttons"][:, 0], golden["joint/camera"][:, 0])
    buttons, camera = run(partial(factored_from_joint, MINERL))(joint)
    np.testing.assert_array_equal(buttons, golden["joint/factored_buttons"])
    np.testing.assert_array_equal(camera, golden["joint/factored_camera"])
    again = run(partial(joint_from_factored, MINERL))(buttons, camera)
    np.testing.assert_array_equal(again.buttons, golden["joint/again_buttons"][:, 0])
    np.testing.assert_array_equal(again.camera, golden["joint/again_camera"][:, 0])
    np.testing.assert_allclose(CAMERA.to_values(np.asarray(camera)), golden["joint/env_camera"], atol=1e-12)


@pytest.mark.parametrize("camera_class", [0, 60])
def test_every_button_class_with_one_camera_class(golden, camera_class):
    all_classes = np.arange(num_classes(MINERL)[0])
    again = partial(joint_from_factored, MINERL)(
        *partial(factored_from_joint, MINERL)(JointAction(all_classes, np.full_like(all_classes, camera_class)))
    )
    np.testing.assert_array_equal(again.buttons, golden[f"all_buttons/camera{camera_class}/again_buttons"].ravel())
    np.testing.assert_array_equal(again.camera, golden[f"all_buttons/camera{camera_class}/again_camera"].ravel())


def test_null_actions_are_tested_after_factored_binning():
    """The reference's rule: none of the 20 buttons, both bins central, whatever the joint class (fidelity D10)."""
    pairs = [("left", "right"), ("back", "forward"), ("jump",), ("inventory",)]
    buttons = np.zeros((3 + len(pairs), 20), np.uint8)
    for row, keys in zip(buttons[3:], pairs, strict=True):
        row[[BUTTON_INDEX[key] for key in keys]] = 1
    camera = np.zeros((len(buttons), 2), np.float32)
    camera[:3] = [(0, 0.27), (0, 0.28), (-0.28, 0)]  # the first bin edge lies at 0.271 degrees
    null = [True, *[False] * (len(buttons) - 1)]
    for rule in (MINERL.is_null, jax.jit(MINERL.is_null)):
        assert rule(buttons, camera).tolist() == null
    assert joint_from_raw(MINERL, buttons, camera).buttons[3:5].tolist() == [0, 0]  # opposite keys: "do nothing"
    assert not MINERL.is_null(np.eye(20, dtype=np.uint8), np.zeros((20, 2), np.float32)).any()


def test_env_dict_round_trip():
    buttons = np.arange(20, dtype=np.uint8) % 2
    env = MINERL.to_env(buttons, np.array([1.5, -3], np.float32))
    assert set(env) == set(ENV_KEYS)
    assert env["ESC"] == env["pickItem"] == env["swapHands"] == 0
    again, camera = MINERL.from_env(env)
    np.testing.assert_array_equal(again, buttons)
    np.testing.assert_array_equal(camera, [1.5, -3])
