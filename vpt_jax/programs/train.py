"""Training runs: behavioural cloning, inverse dynamics and reinforcement learning, each as its config describes."""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.parallel import log
from vpt_jax.programs.play_process import checkpoint_play
from vpt_jax.programs.supervised import make_supervised_run
from vpt_jax.system.renamed_fields import refuse_renamed_fields
from vpt_jax.system.workers import locked
from vpt_jax.training.ppg.train import make_ppg_run
from vpt_jax.training.run import Run, train_run
from vpt_jax.training.setup import make_mesh
from vpt_jax.training.stages import PPG_STAGE


def train(config: ConfigDict) -> bool:
    """Trains a policy or an inverse dynamics model, or resumes the run in `config.workdir` from its newest checkpoint.

    One run at a time works in a work directory: the first process of a job locks it.

    Args:
        config: as one of the training configs in configs/ returns it; `config.stage` is "policy" (behavioural cloning),
            "idm" or "ppg" (reinforcement learning).

    Returns:
        Whether all steps are done; False: a signal stopped it, and a checkpoint was saved.

    Raises:
        ConfigError: a field has an invalid value.
        RenamedFieldError: a field has the name of an earlier version; the message has its present name.
        UserError: other errors that name their remedy, such as a missing dataset or a damaged checkpoint.
    """
    start_time = time.monotonic()
    refuse_renamed_fields(config)
    parallel.start_processes(**config.distributed)
    with locked(Path(config.workdir)) if jax.process_index() == 0 else nullcontext():
        mesh = make_mesh(config)
        devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        log(f"{jax.process_count()} process(es), {devices}, {dict(mesh.shape)}")
        run: Run = make_ppg_run(config, mesh) if config.stage == PPG_STAGE else make_supervised_run(config, mesh)
        with checkpoint_play(config) as wait_for_play:

            def report(state: Any) -> None:
                wait_for_play()
                run.report(state)

            return train_run(replace(run, report=report), config, mesh, start_time)
