"""Checkpoints on disk: which are kept, and what comes back. How runs resume is tested in tests/training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax.checkpoints import Checkpoints, SettingsChangedError
from vpt_jax.training.state import initial_state

FACTS = {"stream": {"seed": 0}, "model": {"preset": "tiny"}, "optimizer": {"name": "adam"}}


def state_at(step):
    params = {"kernel": jnp.arange(6.0).reshape(2, 3) + step}
    return initial_state(params, optax.adam(0.1), jnp.ones(4), jax.random.PRNGKey(1))._replace(step=jnp.asarray(step))


def restore(folder, facts=FACTS):
    shapes = jax.eval_shape(lambda: state_at(0))
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    return Checkpoints(folder, keep_last=2, keep_every_hours=0.0, facts=facts).restore(shapes, shardings)


def test_the_newest_are_kept_and_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, facts=FACTS)
    assert checkpoints.latest is None
    for step in (1, 2, 3, 4):
        checkpoints.save(state_at(step), step)
    checkpoints.close()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["3", "4"]
    for value, expected in zip(jax.tree.leaves(restore(tmp_path)), jax.tree.leaves(state_at(4)), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_other_facts_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, facts=FACTS)
    checkpoints.save(state_at(1), 1)
    checkpoints.close()
    with pytest.raises(SettingsChangedError, match=r"model\.preset was 'tiny' and is now '1x'"):
        restore(tmp_path, FACTS | {"model": {"preset": "1x"}})
    with pytest.raises(SettingsChangedError, match=r"optimizer\.name was 'adam' and is now 'muon'"):
        restore(tmp_path, FACTS | {"optimizer": {"name": "muon"}})
