"""Action spaces of any game: validation, JSON, joint classes, mirroring, and mappings between spaces."""

import json
from dataclasses import replace
from itertools import product

import jax
import numpy as np
import pytest

from tests.actions.spaces import LARGE, SMALL
from vpt_jax.actions.joint import (
    MAX_CLASSES,
    JointAction,
    factored_from_joint,
    joint_from_factored,
    joint_from_raw,
    joint_tables,
    num_classes,
    raw_from_joint,
)
from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, ActionSpaceError, Axis
from vpt_jax.actions.spaces import DOOM, SPACES

FIELDS = {"name": "s", "keys": ["a", "b"], "axes": [{"name": "x"}]}
INVALID = {
    "twice": ({"keys": ["a", "a"]}, "a name is used twice: a"),
    "axis named like a key": ({"axes": [{"name": "a"}]}, "used twice: a"),
    "no keys": ({"keys": []}, "0 keys"),
    "camera": ({"keys": ["camera"]}, "denotes all axes"),
    "unknown group": ({"groups": [["a", "c"]]}, "unknown keys: c"),
    "two groups": ({"groups": [["a"], ["a", "b"]]}, "in two groups"),
    "cancelling": ({"cancelling": [["a", "b"]]}, "not one of `groups`"),
    "bins": ({"axes": [{"name": "x"}, {"name": "y", "quantizer": {"bin_size": 1}}]}, "different numbers of bins"),
    "no list": ({"keys": "ab"}, "`keys` must be a list"),
    "no pair": ({"mirrored": [["a"]]}, "pairs of keys"),
    "unknown field": ({"key": []}, "unknown fields key"),
    "axis field": ({"axes": [{"name": "x", "bins": 3}]}, "unknown fields bins"),
    "axis type": ({"axes": [{"name": "x", "limit": True}]}, "`limit` is True"),
    "axis range": ({"axes": [{"name": "x", "limit": 0}]}, "from a millionth"),
    "no middle": ({"axes": [{"name": "x", "quantizer": {"bin_size": 3}}]}, "a multiple of `bin_size`"),
    "many bins": ({"axes": [{"name": "x", "quantizer": {"bin_size": 1e-6}}]}, "3 to 1001"),
    "empty group": ({"groups": [[]]}, "a group is empty"),
    "one cancels": ({"groups": [["a"]], "cancelling": [["a"]]}, "has a single key"),
    "unpredicted camera": ({"unpredicted": ["camera"]}, "denotes all axes"),
    "many keys": ({"keys": [f"k{i}" for i in range(200_000)]}, "200000 keys"),
    "axis without a name": ({"axes": [{}]}, "an object with `name`"),
}


@pytest.mark.parametrize("space", [MINERL, DOOM, SMALL, LARGE], ids=lambda space: space.name)
def test_a_space_survives_json_and_is_hashable(space):
    again = ActionSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space
    assert hash(again) == hash(space)
    assert not space.differences(again)
    assert SPACES.get(space.name, space) is space


@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_space_is_refused(kind):
    changes, problem = INVALID[kind]
    with pytest.raises(ActionSpaceError, match=problem):
        ActionSpace.from_dict(FIELDS | changes)


@pytest.mark.parametrize("values", [None, [], {}, {"name": 3}, {"name": "s", "keys": ["a"], "axes": 1}])
def test_json_of_another_type_is_refused(values):
    with pytest.raises(ActionSpaceError):
        ActionSpace.from_dict(values)


def test_differences_are_named():
    other = replace(SMALL, name="other", keys=(*SMALL.keys[:-1], "dive"), axes=(replace(SMALL.axes[0], limit=45),))
    with pytest.raises(
        ActionSpaceError, match=r"a has the action space 'small', and b has 'other'.*boost.*dive"
    ) as error:
        SMALL.require_equal(other, "a", "b")
    assert "axis aim" in str(error.value)
    assert "boost" in str(error.value)
    assert not SMALL.differences(replace(SMALL, name="renamed"))
    assert SMALL.differences(replace(SMALL, keys=SMALL.keys[::-1])) == ["keys are in another order"]


def test_joint_classes_are_the_product_of_the_groups():
    """(2+1) up or down, (2+1) left or right, fire, boost, camera on or off; and `menu` alone."""
    assert num_classes(SMALL) == (3 * 3 * 2 * 2 * 2 + 1, 7)
    tables = joint_tables(SMALL)
    assert len({row.tobytes() for row in tables.buttons[~tables.has_camera]}) == 37
    assert tables.null_camera == 3
    with pytest.raises(ActionSpaceError, match="head=autoregressive or factored"):
        joint_tables(LARGE)
    assert num_classes(LARGE)[0] == 2**64 > MAX_CLASSES


@pytest.mark.parametrize("compile_it", [lambda f: f, jax.jit], ids=["numpy", "jit"])
def test_every_combination_of_keys_follows_the_rules(compile_it):
    held = np.array(list(product((0, 1), repeat=7)), np.uint8)
    bins = np.tile([[5]], (len(held), 1))
    joint = compile_it(lambda b, c: joint_from_factored(SMALL, b, c))(held, bins)
    buttons, again = compile_it(lambda a: factored_from_joint(SMALL, a))(joint)
    for row, keys, turned in zip(held, np.asarray(buttons), np.asarray(again), strict=True):
        up, down, left, right, fire, menu, boost = row
        if menu:
            assert keys.tolist() == [0, 0, 0, 0, 0, 1, 0]
            assert turned == [3]
        else:  # of exclusive keys the last counts, opposite ones cancel
            expected = [up and not down, down, left and not right, right and not left, fire, 0, boost]
            assert keys.tolist() == expected
            assert turned == [5]


def test_raw_actions_and_axes_of_different_ranges():
    two = replace(SMALL, axes=(SMALL.axes[0], Axis("lift", "metres", AxisQuantizer(3, 1, None))))
    buttons = np.zeros((3, 7), np.uint8)
    camera = np.array([[-31, 0.4], [12, -2.9], [0, 0]], np.float32)
    assert two.to_bins(camera).tolist() == [[0, 3], [4, 0], [3, 3]]
    assert two.to_movement(two.to_bins(camera)).tolist() == [[-30, 0], [10, -3], [0, 0]]
    assert two.is_null(buttons, camera).tolist() == [False, False, True]
    raw = raw_from_joint(two, joint_from_raw(two, buttons, camera))
    assert raw[1].tolist() == [[-30, 0], [10, -3], [0, 0]]


def test_a_space_without_axes():
    keys = replace(SMALL, axes=())
    buttons, camera = np.eye(7, dtype=np.uint8), np.zeros((7, 0), np.float32)
    joint = joint_from_raw(keys, buttons, camera)
    assert num_classes(keys) == (37, 1)
    assert joint.camera.tolist() == [0] * 7
    again = raw_from_joint(keys, JointAction(*joint))
    np.testing.assert_array_equal(again[0], buttons)
    assert again[1].shape == (7, 0)
    assert not keys.is_null(buttons, camera).any()


def test_mirrored_frames():
    assert [SMALL.keys[i] for i in SMALL.mirrored_keys] == ["up", "down", "right", "left", "fire", "menu", "boost"]
    assert SMALL.mirrored_axes.tolist() == [-1]
    assert LARGE.mirrored_axes.tolist() == [-1, 1]
    assert MINERL.mirrored_axes.tolist() == [1, -1]


def test_environment_actions_and_descriptions():
    action = SMALL.to_env(np.array([1, 0, 0, 0, 0, 0, 1], np.uint8), np.array([2.5], np.float32))
    assert set(action) == {*SMALL.keys, "pause", "camera"}
    assert action["pause"] == 0
    buttons, camera = SMALL.from_env({"up": 1, "boost": 1, "camera": [2.5], "unknown": 1})
    assert SMALL.describe(buttons, camera) == "up, boost; aim +2.5 degrees"
    assert SMALL.describe(*SMALL.from_env({})) == "no key; still"


def test_a_mapping_joins_keys_and_scales_axes():
    mapping = ActionMapping.from_dict({
        "keys": {"key.1": "up", "key.2": "up", "mouse.left": "fire"},
        "axes": {"mouse.x": {"to": "aim", "factor": 0.1}},
    })  # fmt: skip
    buttons = np.zeros((3, 63), np.uint8)
    buttons[0, [1, 2]] = buttons[1, LARGE.key_index["mouse.left"]] = buttons[2, 5] = 1
    camera = np.array([[50, 9], [-5000, 0], [0, 0]], np.float32)
    held, moved = mapping.apply(LARGE, SMALL, buttons, camera)
    assert [SMALL.describe(*row) for row in zip(held, moved, strict=True)] == [
        "up; aim +5.0 degrees", "fire; aim -90.0 degrees", "no key; still",
    ]  # fmt: skip
    assert ActionMapping.from_dict(mapping.to_dict()) == mapping
    with pytest.raises(ActionSpaceError, match="goes to aim, fire, up, which the action space 'large' lacks"):
        mapping.apply(SMALL, LARGE, held, moved)


@pytest.mark.parametrize(
    "values", [[], {"key": {}}, {"keys": {"a": 1}}, {"axes": {"x": 1}}, {"axes": {"x": {"to": "y", "factor": "2"}}},
               {"axes": {"x": {"to": "y", "factor": float("nan")}}},
               {"axes": {"x": {"to": "y", "factor": 10**400}}}, {"axes": {"x": {"factor": 2}}}],
)  # fmt: skip
def test_an_invalid_mapping_is_refused(values):
    with pytest.raises(ActionSpaceError, match="mapping"):
        ActionMapping.from_dict(values)
