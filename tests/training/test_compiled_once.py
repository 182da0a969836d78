"""Runs of one experiment have the same programs, so that they hit the persistent compilation cache."""

import jax
import numpy as np
import optax
import pytest

from configs import foundation, idm
from vpt_jax import parallel
from vpt_jax.actions.minerl import MINERL
from vpt_jax.training.optimizers import linear_schedule
from vpt_jax.training.setup import batch_shapes, make_setup
from vpt_jax.training.stages import STAGES

FRAME = (16, 16, 3)


def programs(stage, steps, seed):
    """Lowered step and initialization of a run of `steps` steps on its own data, as text."""
    config = {"policy": foundation, "idm": idm}[stage].get_config("demo")
    config.model.preset = "nano"  # quicker to trace
    config.optimizer.name = {"policy": "adam", "idm": "muon"}[stage]  # Muon takes long to lower
    config.data.batch = config.data.valid_batch = 4
    config.data.length = 4
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    marginal = next(iter(STAGES[stage].heads.values())).marginal.uniform(MINERL)
    rng = np.random.default_rng(seed)
    marginal = type(marginal)(*(rng.dirichlet(np.ones(shares.shape[-1]), shares.shape[:-1]) for shares in marginal))
    setup = make_setup(config, mesh, FRAME, marginal, steps)
    with jax.set_mesh(mesh):
        step = setup.step.lower(setup.shapes, batch_shapes(config, mesh, FRAME))
        init = setup.init.func.lower(*setup.init.args)
    return step.as_text(), init.as_text()


@pytest.mark.parametrize("stage", ["policy", pytest.param("idm", marks=pytest.mark.slow)])
def test_runs_of_other_lengths_and_data_have_the_same_programs(stage):
    """The length of the learning rate's schedule and the data's frequencies are arguments, not constants."""
    for one, other in zip(programs(stage, 100, seed=0), programs(stage, 1500, seed=1), strict=True):
        assert one == other


@pytest.mark.parametrize(("warmup", "total"), [(20, 100), (0, 50), (30, 31)])
def test_a_schedule_of_traced_length_equals_optax(warmup, total):
    up, down = optax.linear_schedule(0, 1e-3, warmup), optax.linear_schedule(1e-3, 0, total - warmup)
    expected = optax.join_schedules([up, down], [warmup])
    steps = np.arange(total + 5)
    traced = jax.jit(lambda steps, total: linear_schedule(1e-3, warmup, total)(steps))(steps, total)
    np.testing.assert_allclose(traced, expected(steps), rtol=1e-6, atol=1e-9)  # optax rounds more
