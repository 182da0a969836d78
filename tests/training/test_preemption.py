"""Preemption notices stop all processes, whatever Orbax is doing at that moment."""

import pytest
from jax.experimental import multihost_utils

from tests.cluster import run_together
from tests.training.test_checkpoints import METADATA, state_at
from vpt_jax.training.checkpoints import Checkpoints

RESUMED = """
import os, shutil, signal, sys, time
from functools import partial
from itertools import repeat
from pathlib import Path

import jax
coordinator, number, workdir = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(coordinator, 2, number)

import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from vpt_jax import parallel
from vpt_jax.training.checkpoints import Checkpoints
from vpt_jax.training import loop
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.state import initial_state

OLDER, RESUMED, STEPS = 60_000, 61_000, 65_000
sharding = NamedSharding(parallel.make_mesh(), PartitionSpec())

def begin(step):
    state = initial_state({"kernel": jnp.ones((2, 3))}, optax.adam(0.1), (), jax.random.PRNGKey(1))
    return state._replace(step=jnp.int32(step))

class Noticed(Checkpoints):
    def save(self, state, step):
        super().save(state, step)
        if step > RESUMED:
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(4)  # JAX looks once a second whether the signal has come

metadata = {"stream": {}, "model": {}, "optimizer": {}}
checkpoints = Checkpoints(workdir / "checkpoints", 2, 0.0, metadata)
for step in (OLDER, RESUMED):
    checkpoints.save(jax.jit(begin, static_argnums=0, out_shardings=sharding)(step), step)
checkpoints.close()

# The first host's directory listing is out of date: both hosts use it, or they would restore different steps.
listed = workdir / ("behind" if number == 0 else "checkpoints")
if number == 0:
    shutil.copytree(workdir / "checkpoints" / str(OLDER), listed / str(OLDER))
print("latest", Checkpoints(listed, 2, 0.0, metadata).latest, flush=True)

checkpoints = Noticed(workdir / "checkpoints", 2, 0.0, metadata)
shapes = jax.eval_shape(lambda: begin(0))
state = checkpoints.restore(shapes, jax.tree.map(lambda _: sharding, shapes))
start, quiet = int(state.step), number > 0

def step(state, batch):
    time.sleep(0.01)
    return state._replace(step=state.step + 1), {"loss": jnp.zeros(())}

with loop.StopSignal() as stop:
    state = loop.Trainer(
        schedule=loop.Schedule(STEPS, 1000, STEPS, save_every=61_005),
        train_step=step, batches=repeat(0), stop=stop, evaluate=None, episodes=lambda step: [],
        checkpoints=checkpoints,
        outputs=loop.Outputs(
            MetricsLog(workdir, start, quiet), Progress(start, STEPS, Work(1), quiet),
            Goodput(workdir, start, time.monotonic(), quiet),
        ),
    ).run(state)
checkpoints.close()
print("ended at", int(state.step), stop.received, flush=True)
"""


@pytest.mark.slow
def test_a_notice_after_a_resumed_runs_save_stops_both_processes(tmp_path):
    """Hosts agree on the checkpoint that they restore, even if one lists its directory late (scale row 11)."""
    outputs = run_together(RESUMED, tmp_path, timeout=150)
    ended = [output.splitlines()[-1] for output in outputs]
    assert ended[0] == ended[1]
    step = int(ended[0].split()[2])
    assert ended[0] == f"ended at {step} True"
    assert 61_005 <= step < 65_000
    assert all("latest 60000" in output.splitlines() for output in outputs)
    assert (tmp_path / "checkpoints" / str(step)).is_dir()


def test_orbax_does_not_query_preemption_notices(tmp_path, monkeypatch):
    """It would use its own step count, which `StopSignal` never reaches (scale row 11)."""
    queried = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", queried.append)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    for step in (61_000, 61_001):
        checkpoints.save(state_at(step), step)
    checkpoints.wait()
    checkpoints.close()
    assert queried == []
    assert checkpoints.latest == 61_001
