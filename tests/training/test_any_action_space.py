"""Two made-up action spaces end to end: an IDM is trained, labels a video, a policy is cloned from it, and plays."""

import av
import numpy as np
import pytest

import vpt_jax
from configs import foundation, idm, label, play
from tests.actions.spaces import LARGE, SMALL
from tests.data.tiny import SIZE, write_dataset
from vpt_jax.actions.space import ActionSpaceError
from vpt_jax.data.dataset import load_index, read_space
from vpt_jax.envs.games import make_env_spec
from vpt_jax.programs.play import play as play_films
from vpt_jax.system.errors import ConfigError
from vpt_jax.video import VideoWriter

HEAD_OF = {SMALL: "joint", LARGE: "autoregressive"}


def train_two_steps(config, workdir, data, valid=None, **model):
    config.update(workdir=str(workdir), steps=2, evaluate_every=2, save_every=2, report=False)
    config.data.update(
        train=str(data), valid=str(valid or data), batch=8, valid_batch=8, length=8, workers=0, valid_workers=0
    )
    config.model.update(preset="nano", **model)
    config.optimizer.warmup_steps = 0
    vpt_jax.train(config)
    return workdir


@pytest.fixture(
    scope="module", params=[LARGE, pytest.param(SMALL, marks=pytest.mark.slow)], ids=lambda space: space.name
)
def space(request):
    return request.param


@pytest.fixture(scope="module")
def data(space, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("space") / "data", [40, 30], splits=("train", "valid"), space=space)


@pytest.fixture(scope="module")
def idm_dir(data):
    return train_two_steps(idm.get_config("demo"), data.parent / "idm", data)


@pytest.fixture(scope="module")
def video(data):
    path = data.parent / "videos" / "play.mp4"
    path.parent.mkdir()
    with VideoWriter(path, 48, 64) as writer:
        for i in range(30):
            writer.write(np.full((48, 64, 3), 8 * i, np.uint8))
    return path


def test_play_is_learnt_labelled_cloned_and_played(space, data, idm_dir, video, tmp_path):
    config = label.get_config()
    config.update(videos=str(video.parent), idm=str(idm_dir), out=str(tmp_path / "labels"), workers=1, num_films=1)
    labels = vpt_jax.label(config)
    index = load_index(labels, "train")
    assert read_space(labels) == index.space == space
    assert index.buttons.shape == (30, len(space.keys))
    assert index.camera.shape == (30, len(space.axes))
    assert set(np.unique(index.camera)) <= set(space.centres.astype(np.float32).ravel())
    with av.open(str(labels / "films" / "play.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 30

    merged = foundation.get_config("demo")
    merged.data.null_actions = "keep"
    policy_dir = train_two_steps(merged, tmp_path / "policy", data, head=HEAD_OF[space])
    policy = vpt_jax.load_policy(policy_dir)
    assert policy.module.space == space
    action = vpt_jax.PolicyAgent(policy, seed=1).act({"pov": np.zeros((SIZE, SIZE, 3), np.uint8)})
    assert set(action) == {*space.env_keys, "camera"}
    assert action["camera"].shape == (len(space.axes),)

    films = play.get_config("video")
    films.update(policy=str(policy_dir), out=str(tmp_path / "films"))
    films.game.arguments.path = str(video)
    play_films(films)
    assert len(list((tmp_path / "films").glob("*.mp4"))) == 1


def test_a_model_of_another_space_is_refused(space, data, idm_dir, tmp_path):
    other = write_dataset(tmp_path / "other", [40], splits=("train", "valid"))
    config = idm.get_config("demo")
    config.init_from = str(idm_dir)
    with pytest.raises(ConfigError, match=rf"has the action space '{space.name}', and the data has 'minerl'.*keys"):
        train_two_steps(config, tmp_path / "run", other)
    with pytest.raises(ConfigError, match=r"config\.data: .* has the action space"):
        train_two_steps(idm.get_config("demo"), tmp_path / "mixed", data, valid=other)
    with pytest.raises(ActionSpaceError, match=f"the game doom has the action space .*{space.name}"):
        make_env_spec("doom", {}, space=space)
