"""Recordings of evaluated episodes, in any action space, and their preparation for training."""

import json

import numpy as np
import pytest

from configs.prepare import get_config
from tests.actions.spaces import LARGE, SMALL
from vpt_jax.actions.minerl import MINERL
from vpt_jax.data.dataset import load_index
from vpt_jax.data.prepare import prepare
from vpt_jax.evaluation.episode_files import actions_file, episode_writer, read_actions

STEPS = 12


def random_actions(space):
    rng = np.random.default_rng(0)
    buttons = (rng.random((STEPS, len(space.keys))) < 0.3).astype(np.uint8)
    return buttons, np.round(rng.normal(0, 3, (STEPS, len(space.axes))), 1).astype(np.float32)


def write_episode(path, space):
    actions = random_actions(space)
    with episode_writer(path, 32, 32, space) as writer:
        for i, (buttons, camera) in enumerate(zip(*actions, strict=True)):
            writer.write(np.full((32, 32, 3), 20 * i, np.uint8), buttons, camera)
    return actions


@pytest.mark.parametrize("space", [SMALL, LARGE, MINERL], ids=lambda space: space.name)
def test_actions_are_read_back(space, tmp_path):
    buttons, camera = write_episode(tmp_path / "episode", space)
    assert actions_file(tmp_path / "episode").suffix == (".jsonl" if space is MINERL else ".csv")
    again = read_actions(tmp_path / "episode", space, limit=10)
    assert again.space == space
    if space is not MINERL:  # in OpenAI's format, a scrolled hotbar is a key press
        np.testing.assert_array_equal(again.buttons, buttons[:10])
    np.testing.assert_allclose(again.camera, camera[:10], atol=1e-5)


def test_an_episode_is_prepared_for_training(tmp_path):
    (tmp_path / "recordings").mkdir()
    buttons, camera = write_episode(tmp_path / "recordings" / "episode", SMALL)
    (tmp_path / "small.json").write_text(json.dumps(SMALL.to_dict()))
    config = get_config()
    config.update(recordings=str(tmp_path / "recordings"), out=str(tmp_path / "data"), height=32, width=32, workers=1)
    config.space = str(tmp_path / "small.json")
    index = load_index(prepare(config, "event_table"), "train")
    assert index.space == SMALL
    np.testing.assert_array_equal(index.buttons, buttons)
    np.testing.assert_array_equal(index.camera, camera)


def test_a_failed_episode_leaves_no_actions(tmp_path):

    def lose_the_game():
        with episode_writer(tmp_path / "episode", 32, 32, SMALL) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8), np.zeros(7, np.uint8), np.zeros(1, np.float32))
            raise ValueError("the game was lost")

    with pytest.raises(ValueError, match="lost"):
        lose_the_game()
    assert not actions_file(tmp_path / "episode").exists()
