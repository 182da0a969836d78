"""Work directories of untrained models, for tests that need a checkpoint."""

import jax
import optax

from vpt_jax.training.checkpoints import Checkpoints, jsonable
from vpt_jax.training.state import initial_state


def write_checkpoint(workdir, params, config, size, length, step, stream=(), **more_metadata):
    """Writes one checkpoint of a model for `length` frames of `size` x `size` pixels; returns `workdir`."""
    stream = dict(stream) | {"frame_shape": [size, size, 3], "length": length}
    metadata = {"stream": stream, "model": {}, "optimizer": {}, "config": jsonable(config)} | more_metadata
    checkpoints = Checkpoints(workdir / "checkpoints", keep_last=2, keep_every_hours=0.0, metadata=metadata)
    checkpoints.save(initial_state(params, optax.sgd(0.1), (), jax.random.PRNGKey(0)), step)
    checkpoints.close()
    return workdir
