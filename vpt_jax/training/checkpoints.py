"""Checkpoints in Orbax's format: the train state and the run's metadata, written asynchronously and atomically.

A checkpoint is written in the background under a temporary name and renamed when it is complete (atomic write), so a
run may be killed at any moment: the newest complete checkpoint is found, unfinished ones are ignored and removed. The
position in the data is the state's step. Checkpoints can be read on any mesh and any number of hosts.

Next to the state, CRC-32 checksums of all its leaves are stored (`digests.py`). They are computed before the state is
written and verified on load: bits that have changed on disk are an error that names the leaf. Computing them costs a
copy of the state to the host and a pass over it, before the writing in the background begins: one to two seconds on
eight cores for the paper's largest policy with its optimizer (6 GB), estimated from 1 GB/s and core.
"""

import datetime
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.text_embedders import EmbedderIdentity
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.latent_actions import LatentActionModel
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import TEXT_DEFAULTS, make_latent_actions, make_policy
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.parallel import log, path_name
from vpt_jax.system.atomic_files import write_text
from vpt_jax.system.disk_errors import errno_values
from vpt_jax.system.errors import MissingFileError, UserError
from vpt_jax.system.paths import local_path
from vpt_jax.system.printable import printable
from vpt_jax.system.resumable_folder import describe_changes
from vpt_jax.training.digests import changed_leaves, digest, leaves_without_digest
from vpt_jax.training.stages import (
    IDM,
    LATENT_ACTIONS,
    LATENT_IDM,
    MODEL_OF_STAGE,
    POLICY,
    PPG_STAGE,
    ModelKind,
)
from vpt_jax.training.state import AnyState, State

STEPS_PER_EPOCH = "steps_per_epoch"  # metadata of runs on datasets
_FIXED = ("stream", "model", "optimizer")  # metadata that must be the same when a run is resumed


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used; the message names the folder and the reason."""


class CheckpointDamagedError(CheckpointError):
    """A damaged checkpoint, or one of another program; the message names the file or parameter, and the remedy."""


class SettingsChangedError(CheckpointError):
    """A run is resumed with other settings than it was started with; the message names them."""


class WrongStageError(CheckpointError):
    """A work directory holds a run of another stage than requested; the message names both."""


def jsonable(config: Any) -> dict[str, Any]:
    """Converts a config to JSON values."""
    return json.loads(config.to_json())


def run_metadata(
    config: Any, stream: Mapping[str, Any], frozen: str = "", space: ActionSpace = MINERL
) -> dict[str, Any]:
    """Metadata stored with a state: the config, and the settings that must be the same when the run is resumed.

    Args:
        config: of the run.
        stream: identifies the training data; JSON values.
        frozen: pattern of the parameters that are not trained; empty: all are trained.
        space: of the actions.
    """
    unstated = {"head": "joint", "temporal_convolution": True} | TEXT_DEFAULTS  # earlier runs do not state them
    if not config.model.get("text_features", 0):
        unstated |= {"text_dropout": config.model.get("text_dropout")}
    model = {
        name: value
        for name, value in jsonable(config.model).items()
        if name != "remat" and (name, value) not in unstated.items()
    }
    optimizer = {"name": config.optimizer.name} | ({"frozen": frozen} if frozen else {})
    metadata = {"stream": stream, "model": model, "optimizer": optimizer, "config": jsonable(config)}
    return metadata | {"action_space": space.to_dict()}


def _space(metadata: Mapping[str, Any]) -> ActionSpace:
    """Action space of a checkpoint; MineRL's, if it states none (made before spaces were stored, or imported)."""
    return ActionSpace.from_dict(metadata["action_space"]) if "action_space" in metadata else MINERL


def write_run_config(workdir: Path, config: Any, sharding_table: str) -> None:
    """Writes `config.json` and `sharding.txt` to the work directory, for users; by the first process alone."""
    if jax.process_index() == 0:
        write_text(workdir / "config.json", json.dumps(jsonable(config), indent=1) + "\n")
        write_text(workdir / "sharding.txt", sharding_table + "\n")


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its handling of preemption notices, which `loop.StopSignal` does; it closes completely.

    JAX stops all hosts at one number that each passes to `reached_preemption_sync_point`: the largest of all hosts'
    numbers plus one. Orbax would pass the step at every save, and `StopSignal` passes the number of its calls since
    this start: after a resumed run's save, that number would never be reached, and the notice would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        """Always False."""
        return False

    def close(self) -> None:
        """Also waits for the removal of unfinished checkpoints, which Orbax awaits at the first save only.

        Without it, a program that ends before gets a traceback of Orbax's thread.
        """
        if removal := getattr(self, "_cleanup_tmp_directory_future", None):
            removal.result()
        super().close()


class Checkpoints:
    """Checkpoints of one run: the newest `keep_last` are kept, and one more for every `keep_every_hours`."""

    def __init__(self, folder: Path, keep_last: int, keep_every_hours: float, metadata: dict[str, Any]) -> None:
        """Opens the folder, and removes unfinished checkpoints.

        Args:
            folder: of the checkpoints, one subfolder by step.
            keep_last: number of newest checkpoints that are kept.
            keep_every_hours: one more is kept for each interval of this many hours; 0: none.
            metadata: from `run_metadata`; resuming needs the same `stream`, `model` and `optimizer`.
        """
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_time_interval=datetime.timedelta(hours=keep_every_hours) if keep_every_hours else None,
            cleanup_tmp_directories=True,
            single_host_load_and_broadcast=True,  # hosts that list a network disk separately may find different steps
        )
        self._metadata = metadata
        folder = local_path(folder, "the work directory")
        _refuse_special_files(folder)
        self._manager = _Manager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def save(self, state: AnyState, step: int) -> None:
        """Starts an asynchronous save; returns once the state's buffers may be donated."""
        metadata = ocp.args.JsonSave(self._metadata | {"digests": digest(state)})
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), facts=metadata))

    def restore(self, shapes: State, shardings: State) -> State:
        """Reads the newest state, with the given shapes and shardings.

        Raises:
            SettingsChangedError: its data, model or optimizer differ from those of this run's metadata.
            CheckpointDamagedError: it cannot be read, or differs from what was saved.
        """
        step = self.latest
        folder = Path(self._manager.directory, str(step))
        with _raise_as_damage(folder / "facts"):
            metadata = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
            self._check(metadata)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        with _raise_as_damage(folder / "state"):
            state = self._manager.restore(step, args=items).state
            _verify(folder, state, metadata)
        return state

    def _check(self, stored: dict[str, Any]) -> None:
        before, now = (
            {f"{group}.{name}": value for group in _FIXED for name, value in metadata[group].items()}
            for metadata in (stored, self._metadata)
        )
        if changes := describe_changes(before, now):
            raise SettingsChangedError(
                f"{self._manager.directory} holds a run with other settings: {changes}. "
                "Give the old settings to resume it, or another --config.workdir to start a new run."
            )

    def wait(self) -> None:
        """Waits until all saves are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all saves are on disk, and releases the folder."""
        self._manager.close()


class PolicyState(NamedTuple):
    """State of a policy that is stored without its optimizer: of an imported one, and of the best by play."""

    step: Any
    params: Any
    normalizer: ValueNormalizer
    aux_normalizer: ValueNormalizer


class TrainedPolicy(NamedTuple):
    """Policy from a checkpoint, with the shape of the frames that it was trained on."""

    module: Policy
    params: Any
    frame_shape: tuple[int, ...]  # height, width, channels
    step: int  # of the checkpoint
    normalizer: ValueNormalizer  # of its value; new, if its value was never trained
    aux_normalizer: ValueNormalizer  # of its auxiliary value
    epoch: float = math.nan  # passes over the training data; NaN in reinforcement learning and in earlier versions
    metadata: Mapping[str, Any] | None = None  # of the checkpoint
    embedder: EmbedderIdentity | None = None  # of the texts that it was trained on; None: it reads no text


def load_policy(workdir: str | Path) -> TrainedPolicy:
    """Loads the policy of a finished or running training onto the first device: its newest parameters.

    `FOLDER@STEP` loads those of another checkpoint that the work directory FOLDER keeps, as in all loaders here. The
    parameters that played best, if checkpoints play (`config.play`), have a work directory of their own,
    FOLDER/best_by_play.

    Raises:
        FileNotFoundError: the work directory holds no checkpoint, or none of that step.
        WrongStageError: it holds a run of another stage.
        CheckpointDamagedError: it cannot be read, or differs from what was saved.
    """
    run = _open(workdir, POLICY)
    with _raise_as_damage(run.folder / "facts"):
        policy = make_policy(run.metadata["config"]["model"], _space(run.metadata))
        shape = _frame_shape(run.metadata)
        epoch = run.step / run.metadata.get(STEPS_PER_EPOCH, math.nan)
        embedder = _embedder(run.metadata) if policy.text_features else None
    new = ValueNormalizer.create()
    state = run.restore(
        lambda: {"params": init_params(policy, shape, jax.random.key(0)), "normalizer": new, "aux_normalizer": new}
    )
    normalizer = state.get("normalizer", new)
    aux_normalizer = state.get("aux_normalizer", normalizer)  # this library trains one for both
    facts = epoch, run.metadata, embedder
    return TrainedPolicy(policy, state["params"], shape, run.step, normalizer, aux_normalizer, *facts)


def _embedder(metadata: Mapping[str, Any]) -> EmbedderIdentity:
    """Identity of the text embedder; its folder may have moved since, so the name alone is no part of the data."""
    return EmbedderIdentity(metadata["config"]["data"]["text_embedder"], *metadata["stream"]["text"])


class TrainedIDM(NamedTuple):
    """Inverse dynamics model from a checkpoint, with the shape and number of the frames that it was trained on."""

    module: InverseDynamicsModel
    params: Any
    frame_shape: tuple[int, ...]  # height, width, channels
    window: int  # frames
    step: int  # of the checkpoint
    metadata: Mapping[str, Any] | None = None  # of the checkpoint


def load_idm(workdir: str | Path) -> TrainedIDM:
    """Loads the inverse dynamics model of a finished or running training, with its newest parameters.

    They are placed on the first device. The model may be one on latent actions (`LatentIDM`).

    Raises:
        FileNotFoundError: the work directory holds no checkpoint.
        WrongStageError: it holds a run of another stage.
        CheckpointDamagedError: it cannot be read, or differs from what was saved.
    """
    run = _open(workdir, IDM, LATENT_IDM)
    with _raise_as_damage(run.folder / "facts"):
        config = run.metadata["config"]
        idm = MODEL_OF_STAGE[config["stage"]].make(config["model"], _space(run.metadata))
        shape = _frame_shape(run.metadata)
        window = _dimension(run.metadata["stream"]["length"])
    state = run.restore(partial(idm.init, jax.random.key(0), jnp.zeros((1, 1, *shape), jnp.uint8)))
    return TrainedIDM(idm, state["params"], shape, window, run.step, run.metadata)


class TrainedLatentActions(NamedTuple):
    """Model of latent actions from a checkpoint, with the shape of the frames that it was trained on."""

    module: LatentActionModel
    params: Any
    frame_shape: tuple[int, ...]  # height, width, channels
    step: int  # of the checkpoint


def load_latent_actions(workdir: str | Path) -> TrainedLatentActions:
    """Loads a model of latent actions onto the first device. Raises as `load_idm`."""
    run = _open(workdir, LATENT_ACTIONS)
    with _raise_as_damage(run.folder / "facts"):
        model = make_latent_actions(run.metadata["config"]["model"])
        shape = _frame_shape(run.metadata)
    state = run.restore(partial(model.init, jax.random.key(0), jnp.zeros((1, 2, *shape), jnp.uint8)))
    return TrainedLatentActions(model, state["params"], shape, run.step)


LOADERS: dict[ModelKind, Callable[[str | Path], TrainedPolicy | TrainedIDM | TrainedLatentActions]] = {
    POLICY: load_policy,
    IDM: load_idm,
    LATENT_ACTIONS: load_latent_actions,
    LATENT_IDM: load_idm,
}


def load_model(workdir: str | Path) -> TrainedPolicy | TrainedIDM:
    """Loads a policy or an inverse dynamics model, by the stage of the run. Raises as `load_policy` and `load_idm`."""
    stage = _open(workdir, POLICY, IDM).metadata["config"]["stage"]
    return load_policy(workdir) if MODEL_OF_STAGE[stage] is POLICY else load_idm(workdir)


def stored_space(workdir: str | Path) -> ActionSpace:
    """Action space of the model in a work directory. Raises as `load_policy` and `load_idm`."""
    run = _open(workdir, *LOADERS)
    with _raise_as_damage(run.folder / "facts"):
        return _space(run.metadata)


class _Run(NamedTuple):
    """A checkpoint of a work directory."""

    metadata: dict[str, Any]
    step: int
    folder: Path
    # Takes a function that makes the model's arrays (it is only traced), and returns those that are stored.
    restore: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]


def checkpoint_steps(workdir: str | Path) -> list[int]:
    """Steps of the complete checkpoints in a work directory, in ascending order."""
    return sorted(int(path.name) for path in _checkpoint_folder(workdir).glob("*") if path.name.isdigit())


def split_step(workdir: str | Path) -> tuple[Path, int | None]:
    """Splits `FOLDER@STEP` into the work directory and the step (None: no step is given, or it is part of a name)."""
    path = local_path(workdir, "the work directory").expanduser()
    folder, _, step = str(path).rpartition("@")
    return (Path(folder), int(step)) if folder and step.isdecimal() and not path.is_dir() else (path, None)


def _checkpoint_folder(workdir: str | Path) -> Path:
    return (local_path(workdir, "the work directory").expanduser() / "checkpoints").absolute()


def _open(workdir: str | Path, *kinds: ModelKind) -> _Run:
    path, step = split_step(workdir)
    folder, stored = _checkpoint_folder(path), list[int]()
    if folder.is_dir():
        with _raise_as_damage(folder):
            _refuse_special_files(folder)
            options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
            manager = ocp.CheckpointManager(folder, options=options)
            stored = sorted(manager.all_steps())
    if not stored:
        raise MissingFileError(f"{path} holds no checkpoint: give the --config.workdir of a training run")
    step = stored[-1] if step is None else step
    if step not in stored:
        raise MissingFileError(f"{path} has no checkpoint of step {step}; it keeps {', '.join(map(str, stored))}")
    folder = folder / str(step)
    with _raise_as_damage(folder / "facts"):
        metadata = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        stage, imported = str(metadata["config"]["stage"]), "card" in metadata  # an imported model has a card
    if MODEL_OF_STAGE.get(stage) not in kinds:
        wanted = " or ".join(repr(name) for name, kind in MODEL_OF_STAGE.items() if kind in kinds)
        raise WrongStageError(f"{workdir} holds a training run of stage {stage!r}, and this needs one of {wanted}")

    normalizers = {"normalizer", "aux_normalizer"} if imported else {"normalizer"} if stage == PPG_STAGE else set()
    fields = {"params"} | normalizers

    def restore(init: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with _raise_as_damage(folder / "facts"):
            shapes = {name: tree for name, tree in jax.eval_shape(init).items() if name in fields}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        # Partial: without the optimizer state and the memory.
        state = ocp.args.PyTreeRestore(target, restore_args=restore_args, partial_restore=True)
        with _raise_as_damage(folder / "state"):
            restored = manager.restore(step, args=ocp.args.Composite(state=state)).state
            _verify(folder, restored, metadata)
        return restored

    return _Run(metadata, step, folder, restore)


@contextmanager
def _raise_as_damage(place: Path) -> Iterator[None]:
    """Context manager that turns errors caused by a file's content into a `CheckpointDamagedError` naming `place`.

    Orbax and TensorStore raise nearly any kind of exception. Errors of the machine or its disk (no memory, no file
    descriptors, no space, no permission, I/O errors) are not damage, and are raised unchanged.
    """
    try:
        yield
    except (CheckpointError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if errno_values(error) & _MACHINE_ERRORS:
            raise
        why = printable(f"{type(error).__name__}: {error}", length=500)
        raise CheckpointDamagedError(
            f"{place} cannot be read as part of a checkpoint ({why}). Is it damaged, or from another program? {_REMEDY}"
        ) from error


_MACHINE_ERRORS = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EACCES,
    errno.EPERM,
}  # fmt: skip
_REMEDY = "Copy the folder again, or remove it, so that the checkpoint before it is used"


def _refuse_special_files(folder: Path) -> None:
    """Raises for pipes, devices and broken links anywhere below a folder: reading a pipe would wait forever."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _refuse_special_files(Path(entry.path))
            elif not (entry.is_file() or entry.is_dir()):
                raise CheckpointDamagedError(f"{entry.path} is a pipe, a device or a broken link: remove it")


def _verify(folder: Path, state: Any, metadata: Mapping[str, Any]) -> None:
    """Compares a restored state with its checksums.

    Raises:
        CheckpointDamagedError: a leaf differs or is missing; the message has its path.
    """
    digests = metadata.get("digests")
    leaves = jax.tree.leaves_with_path(state)
    missing = [path_name(path) for path, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    if missing := missing or (leaves_without_digest(state, digests) if digests is not None else []):
        raise CheckpointDamagedError(f"{folder}/state lacks {_shortened(missing)}: it is damaged, or of another model")
    if digests is None:
        log(f"{folder} has no digests, since it is of an older version: damage to its parameters would not be detected")
    elif changed := changed_leaves(state, digests):
        raise CheckpointDamagedError(
            f"{folder}/state: not what was saved, in {_shortened(changed)}: the files have changed on disk. {_REMEDY}"
        )


def _shortened(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if paths[5:] else "")


def _frame_shape(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    height, width, channels = map(_dimension, metadata["stream"]["frame_shape"])
    return height, width, channels


def _dimension(number: Any) -> int:
    if type(number) is not int or not 0 < number < 1 << 20:
        raise ValueError(f"invalid size {number!r}")
    return number
