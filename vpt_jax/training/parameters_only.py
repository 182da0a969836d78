"""Work directories with a model's parameters alone, without the state of an optimizer."""

import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vpt_jax.system.paths import local_path
from vpt_jax.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    PolicyState,
    TrainedIDM,
    TrainedPolicy,
    checkpoint_steps,
    load_model,
)

DTYPES = ("float32", "bfloat16")


class _IDMState(NamedTuple):
    step: Any
    params: Any


def export_parameters(workdir: str | Path, out: str | Path, dtype: str = "float32") -> None:
    """Export the newest parameters of a work directory to another one, which all programs read.

    It is small enough for a repository: the optimizer's state and the settings of the run, with its local paths, are
    left out. Training cannot be resumed, but `--config.init_from` takes it.

    Args:
        workdir: of a training run, or of an imported model: a policy or an IDM, in any action space.
        out: the folder to create.
        dtype: "float32", the same values; "bfloat16", rounded to bfloat16: stored as float32, but compressed to
            about half.

    Raises:
        FileNotFoundError: `workdir` holds no checkpoint.
        WrongStageError: it holds a run of another stage.
        CheckpointError: `out` holds one already, or the dtype is another.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"the dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    out = local_path(out)
    if checkpoint_steps(out):
        raise CheckpointError(f"{out} holds a checkpoint already: choose another folder")
    trained = load_model(workdir)
    state = _state(trained)._replace(params=jax.tree.map(lambda leaf: _rounded(leaf, dtype), trained.params))
    with closing(Checkpoints(out / "checkpoints", 1, 0.0, _metadata(trained.metadata or {}))) as checkpoints:
        checkpoints.save(state, trained.step)
    for note in out.rglob("commit_success.txt"):  # Orbax's, with the absolute path
        note.write_text("Checkpoint commit was successful\n")


def save_policy(workdir: Path, policy: TrainedPolicy) -> None:
    """Saves a loaded policy, without the state of its optimizer, as the only checkpoint of a work directory.

    Earlier checkpoints there are removed once it is complete; those of later steps before, since Orbax saves none that
    is earlier than the newest.
    """
    if policy.metadata is None:
        raise ValueError("the policy was not loaded from a checkpoint: it has no metadata")
    if max(checkpoint_steps(workdir), default=0) > policy.step:
        shutil.rmtree(workdir / "checkpoints")
    with closing(Checkpoints(workdir / "checkpoints", 1, 0.0, dict(policy.metadata))) as checkpoints:
        if checkpoints.latest != policy.step:
            checkpoints.save(_state(policy), policy.step)


def _state(trained: TrainedPolicy | TrainedIDM) -> PolicyState | _IDMState:
    step = np.int32(trained.step)
    if isinstance(trained, TrainedPolicy):
        return PolicyState(step, trained.params, trained.normalizer, trained.aux_normalizer)
    return _IDMState(step, trained.params)


def _rounded(leaf: jax.Array, dtype: str) -> jax.Array:
    return leaf.astype(dtype).astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without the settings of the run: only what loading the model needs."""
    stream = {name: value for name, value in metadata["stream"].items() if name in ("frame_shape", "length", "text")}
    config = {name: metadata["config"][name] for name in ("stage", "model")}
    if "text" in stream:  # of a folder, its name without the path: who asks for something gives the folder
        config["data"] = {"text_embedder": Path(metadata["config"]["data"]["text_embedder"]).name}
    return {name: value for name, value in metadata.items() if name != "play"} | {
        "stream": stream, "config": config, "optimizer": {},
    }  # fmt: skip
