"""Built-in action spaces and mappings, and those of JSON files, by name."""

import json

import numpy as np
import pytest

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import MINERL, PHYSICAL_KEYS
from vpt_jax.actions.space import ActionSpace, ActionSpaceError, Axis
from vpt_jax.actions.spaces import DOOM, MAPPINGS, SPACES, load_mapping, load_space
from vpt_jax.data.bridges.bindings import make_bindings
from vpt_jax.data.bridges.key_names import MOUSE_AXES, mouse_button
from vpt_jax.recording import KEYS, MOUSE_BUTTONS


def action(space, *keys, camera=(0.0, 0.0)):
    buttons = np.zeros((1, len(space.keys)), np.uint8)
    buttons[0, [space.key_index[key] for key in keys]] = 1
    return buttons, np.array([camera], np.float32)


def test_minerl_actions_map_to_dooms_and_back():
    mapping = load_mapping("minerl-to-doom")
    buttons, camera = mapping.apply(
        MINERL, DOOM, *action(MINERL, "forward", "sneak", "sprint", "hotbar.3", "inventory", camera=(1, -2))
    )
    expected = action(DOOM, "forward", "crouch", "run", "weapon.3", camera=(1, -2))
    np.testing.assert_array_equal(buttons, expected[0])
    np.testing.assert_array_equal(camera, expected[1])
    back, _ = load_mapping("doom-to-minerl").apply(DOOM, MINERL, buttons, camera)
    np.testing.assert_array_equal(back, action(MINERL, "forward", "sneak", "sprint", "hotbar.3")[0])
    for slot in (8, 9):
        assert not mapping.apply(MINERL, DOOM, *action(MINERL, f"hotbar.{slot}"))[0].any()


def test_a_keyboard_and_mouse_map_to_minerl_with_minecrafts_default_keys():
    recorder = ActionSpace("keyboard", ("a", "left_shift", "mouse.right", "e", "9", "f"), tuple(map(Axis, MOUSE_AXES)))
    held, counts = action(recorder, "a", "left_shift", "mouse.right", "9", "f", camera=(20, -4, 120))
    buttons, camera = load_mapping("keyboard-to-minerl").apply(recorder, MINERL, held, counts)
    np.testing.assert_array_equal(buttons, action(MINERL, "left", "sneak", "use", "hotbar.9")[0])
    np.testing.assert_allclose(camera, [[-0.6, 3.0]], rtol=1e-6)  # 0.15 degrees per count; pitch, yaw


def test_the_keyboard_of_minerl_is_that_of_recordings_and_exports():
    recorded = {name: key.removeprefix("key.keyboard.").replace(".", "_") for key, name in KEYS.items()}
    assert recorded | {name: mouse_button(number) for number, name in enumerate(MOUSE_BUTTONS)} == PHYSICAL_KEYS
    mapping, bindings = load_mapping("keyboard-to-minerl"), make_bindings(MINERL, {})
    assert dict(mapping.keys) == {physical: name for name, physical in bindings.keys.items()}
    exported = {(bindings.axes[axis], axis, bindings.units_per_count[axis]) for axis in bindings.axes}
    assert set(mapping.axes) == exported


def test_spaces_and_mappings_are_read_from_files(tmp_path):
    for name, space in SPACES.items():
        assert load_space(name) == space == ActionSpace.from_dict(space.to_dict())
    (tmp_path / "space.json").write_text(json.dumps(DOOM.to_dict()))
    assert load_space(str(tmp_path / "space.json")) == DOOM
    for name, mapping in MAPPINGS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(mapping.to_dict()))
        assert load_mapping(str(tmp_path / f"{name}.json")) == load_mapping(name) == mapping
        assert ActionMapping.from_dict(mapping.to_dict()) == mapping


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "holds no valid action space"), ('{"keys": ["a"]}', "`name` must be a text"), ("[1]", "is a JSON object"),
     ('"' + "a" * 2**20 + '"', "larger than 1,048,576 bytes"), ("[" * 10**5, "holds no valid action space")],
)  # fmt: skip
def test_invalid_files_are_named(content, message, tmp_path):
    (tmp_path / "space.json").write_text(content)
    with pytest.raises(ActionSpaceError, match=rf"space.json .*{message}"):
        load_space(str(tmp_path / "space.json"))
    with pytest.raises(ActionSpaceError, match=r"no action mapping 'quake': built in are minerl-to-doom, doom"):
        load_mapping("quake")
