"""Text from recordings to play: training with captions, from an unconditional policy, and what is refused."""

import shutil

import numpy as np
import pytest

from configs import foundation
from vpt_jax import PolicyAgent
from vpt_jax.data.captions import Caption, write_captions
from vpt_jax.data.dataset import load_index
from vpt_jax.data.text_embedders import TextEmbedderError
from vpt_jax.programs.supervised import check_text
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import load_policy, run_metadata
from vpt_jax.training.setup import batch_shapes, make_mesh

FLAGS = ("--config.data.text_embedder=hashed", "--config.model.text_features=256", "--config.data.workers=1")


def text_config(**changes):
    config = foundation.get_config("demo")
    config.update_from_flattened_dict({"model.preset": "nano"} | changes)
    return config


@pytest.mark.parametrize(
    ("embedder", "features", "message"),
    [
        ("hashed", 0, "set --config.model.text_features=256"),
        ("", 256, "set --config.model.text_features=0"),
        ("nowhere", 256, "config.data.text_embedder: there is no text embedder nowhere"),
    ],
)
def test_an_embedder_and_a_model_that_do_not_fit_are_refused(embedder, features, message):
    with pytest.raises(ConfigError, match=message):
        check_text(text_config(**{"data.text_embedder": embedder, "model.text_features": features}))
    check_text(text_config(**{"data.text_embedder": "hashed", "model.text_features": 256}))


def test_runs_without_text_are_as_before():
    config = text_config()
    assert batch_shapes(config, make_mesh(config), (16, 16, 3)).text is None
    assert not [name for name in run_metadata(config, {})["model"] if name.startswith("text")]
    with_text = text_config(**{"model.text_features": 256})
    assert batch_shapes(with_text, make_mesh(config), (16, 16, 3)).text.shape == (16, 32, 256)
    assert run_metadata(with_text, {})["model"]["text_dropout"] == 0.1


@pytest.fixture(scope="module")
def captioned(dataset_dir, tmp_path_factory):
    """The small dataset with captions."""
    folder = tmp_path_factory.mktemp("captioned") / "dataset"
    shutil.copytree(dataset_dir, folder)
    for split in ("train", "valid"):
        index = load_index(folder, split)
        write_captions(folder / "index" / split, [[Caption(3, "turn left"), Caption(20, "jump")] for _ in index.names])
    return folder


@pytest.mark.slow
def test_text_from_a_dataset_to_play(launcher, uninterrupted, captioned, tmp_path):
    data = (f"--config.data.train={captioned}", f"--config.data.valid={captioned}")
    start = f"--config.init_from={uninterrupted}"
    launcher.run(tmp_path / "run", *FLAGS, *data, start)
    policy, plain = load_policy(tmp_path / "run"), load_policy(uninterrupted)
    assert policy.embedder == ("hashed", "hashed-1", 256)
    assert np.abs(policy.params["text"]["out"]["kernel"]).max() > 0
    assert set(policy.params) == {*plain.params, "text"}
    frames = list(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8))

    def values(**request):
        agent = PolicyAgent(policy, temperature=0.0, **request)
        return [float(agent.sample_action([frame]).value[0]) for frame in frames]

    assert values(text="jump") == values(text="Jump!") != values()
    np.testing.assert_allclose(values(text="jump"), values(text="jump", guidance=3.0), rtol=1e-4)
    with pytest.raises(TextEmbedderError, match="the policy reads none"):
        PolicyAgent(plain, text="jump")
    resumed = launcher.run(tmp_path / "run", *FLAGS, *data, start, "--config.steps=11")
    assert "resumed from step 10" in resumed
    refused = launcher.run(tmp_path / "other", *FLAGS, expected=1)
    assert "no frame of the training data has text" in refused
