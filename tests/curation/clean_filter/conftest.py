"""An inverse dynamics model, and a small filter that was trained with it."""

from functools import cache

import jax
import numpy as np
import pytest

from configs import filter as filter_config
from configs import idm
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.curation.clean_filter import commands, embedders
from vpt_jax.models.presets import make_idm
from vpt_jax.training.inverse_dynamics import inverse_dynamics

from . import synthetic_set


def new_idm(workdir, size, preset):
    """Writes the work directory of an untrained model; returns it."""
    config = idm.get_config("demo")
    config.model.preset = preset
    module = make_idm(config.model)
    frame_shape, differences = (size, size, 3), config.initial.temporal_difference
    objective = inverse_dynamics(
        module, frame_shape, None, augmented=False, mirrored=False, temporal_difference=differences
    )
    params = jax.jit(objective.init)(jax.random.key(0))
    return write_checkpoint(workdir, params, config, size, length=8, step=1)


@pytest.fixture(scope="session")
def idm_dir(tmp_path_factory):
    """Work directory of a quick model for small pictures."""
    return new_idm(tmp_path_factory.mktemp("idm"), 64, "nano")


embedder_once = cache(embedders.make_embedder)  # compiles once


@pytest.fixture(scope="session", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "make_embedder", embedder_once)
        yield


def settings(idm_dir, classifier, **changes):
    config = filter_config.get_config()
    config.update(weights=str(idm_dir), classifier=str(classifier), workers=1)
    config.update(
        {name: str(value) if name in ("labelled", "videos", "out") else value for name, value in changes.items()}
    )
    return config


@pytest.fixture(scope="session")
def small_labelled(tmp_path_factory):
    """A few labelled frames, quick to train on; without Doom, whose engine takes long to start."""
    rows = synthetic_set.labelled("learn", rate=1, times=1, others=0)
    rng = np.random.default_rng(0)
    rows += [("other", f"menu{i // 4}", "menu", synthetic_set.menu(rng, *synthetic_set.SIZE)) for i in range(16)]
    return synthetic_set.write_folder(tmp_path_factory.mktemp("small"), rows)


@pytest.fixture(scope="session")
def small_filter(idm_dir, small_labelled, tmp_path_factory):
    path = tmp_path_factory.mktemp("filter") / "filter.npz"
    commands.clean_filter(settings(idm_dir, path, labelled=small_labelled, num_folds=2))
    return path
