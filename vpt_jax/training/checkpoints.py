"""Checkpoints: the train state, and what it was trained with, in Orbax's format.

A checkpoint is written in the background under a temporary name and renamed when it is whole, so a run may be killed at
any moment: the newest whole checkpoint is found, unfinished ones are ignored and cleaned away. The position in the data
is the state's step. Checkpoints can be read on any mesh and any number of hosts.

Beside the state lie digests of all its leaves (`digests.py`), taken before it is written and verified by whoever loads
it: bits that have changed on disk are an error that names the leaf. Taking them costs a copy of the state to the host
and a pass over it, before the writing in the background begins: one to two seconds on eight cores for the paper's
largest policy with its optimizer (6 GB), estimated from 1 GB/s and core.
"""

import datetime
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import make_idm, make_policy
from vpt_jax.parallel import path_name, say
from vpt_jax.system.atomic_files import write_text
from vpt_jax.system.disk_errors import system_error_numbers
from vpt_jax.system.paths import local_path
from vpt_jax.system.printable import printable
from vpt_jax.training.digests import damaged, digest, undigested
from vpt_jax.training.state import AnyState, State

POLICY_STAGES, IDM_STAGE = ("policy", "ppg"), "idm"
_FIXED = ("stream", "model", "optimizer")  # facts that must be the same when a run is resumed


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder, and says why."""


class CheckpointDamagedError(CheckpointError):
    """A checkpoint that is damaged, or none of ours; the message says which file or parameter, and what to do."""


class SettingsChangedError(CheckpointError):
    """A run is resumed with other settings than it was begun with; the message names them."""


class WrongStageError(CheckpointError):
    """A work directory holds another kind of model than asked for; the message names both."""


def jsonable(config: Any) -> dict[str, Any]:
    """The config as plain values."""
    return json.loads(config.to_json())


def facts_of(config: Any, stream: Mapping[str, Any], frozen: str = "") -> dict[str, Any]:
    """What is kept beside a state; `stream` says what is trained on, `frozen` what is not trained."""
    model = {name: value for name, value in jsonable(config.model).items() if name != "remat"}
    optimizer = {"name": config.optimizer.name} | ({"frozen": frozen} if frozen else {})
    return {"stream": stream, "model": model, "optimizer": optimizer, "config": jsonable(config)}


def note_settings(workdir: Path, config: Any, sharding_table: str) -> None:
    """For people who look into the work directory; once per job."""
    if jax.process_index() == 0:
        write_text(workdir / "config.json", json.dumps(jsonable(config), indent=1) + "\n")
        write_text(workdir / "sharding.txt", sharding_table + "\n")


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves preemption notices to `loop.StopSignal`.

    JAX tells all hosts to stop at one number that each passes to `reached_preemption_sync_point`, the largest of all
    hosts' plus one. Orbax would pass the step at every save, and `StopSignal` how often it was asked since this start:
    after a resumed run's save, that number is never reached, and the notice lost.
    """

    def reached_preemption(self, step: int) -> bool:
        """No."""
        return False


class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, and besides one for every `keep_every_hours`."""

    def __init__(self, folder: Path, keep_last: int, keep_every_hours: float, facts: dict[str, Any]) -> None:
        """`facts` are stored beside the state; resuming needs the same `stream`, `model` and `optimizer`."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_time_interval=datetime.timedelta(hours=keep_every_hours) if keep_every_hours else None,
            cleanup_tmp_directories=True,
            single_host_load_and_broadcast=True,  # hosts that list a network disk by themselves may see other steps
        )
        self._facts = facts
        folder = local_path(folder, "the work directory")
        _demand_files(folder)
        self._manager = _Manager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: AnyState, step: int) -> None:
        """Starts writing; returns once the state may be changed."""
        facts = ocp.args.JsonSave(self._facts | {"digests": digest(state)})
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), facts=facts))

    def restore(self, shapes: State, shardings: State) -> State:
        """The newest state, laid out as `shardings` say.

        Raises:
            SettingsChangedError: it was trained on other data, or with another model or optimizer than `facts` say.
            CheckpointDamagedError: it cannot be read, or differs from what was saved.
        """
        step = self.latest
        folder = Path(self._manager.directory, str(step))
        with _explained(folder / "facts"):
            facts = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
            self._check(facts)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        with _explained(folder / "state"):
            state = self._manager.restore(step, args=items).state
            _verify(folder, state, facts)
        return state

    def _check(self, stored: dict[str, Any]) -> None:
        changed = [
            f"{part}.{name} was {stored[part].get(name)!r} and is now {self._facts[part].get(name)!r}"
            for part in _FIXED
            for name in sorted(stored[part].keys() | self._facts[part].keys())
            if stored[part].get(name) != self._facts[part].get(name)
        ]
        if changed:
            raise SettingsChangedError(
                f"{self._manager.directory} holds a run with other settings: {'; '.join(changed)}. "
                "Give the old settings to resume it, or another --config.workdir to start anew."
            )

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.close()


class TrainedPolicy(NamedTuple):
    """A policy from a checkpoint, and what it was trained on."""

    module: Policy
    params: Any
    frame_shape: tuple[int, ...]  # height, width, channels
    step: int  # of the checkpoint
    normalizer: ValueNormalizer  # of its value; new, if it was never trained to value anything
    aux_normalizer: ValueNormalizer  # the same of its auxiliary value


def load_policy(workdir: str | Path) -> TrainedPolicy:
    """The policy of a finished or running training, its newest parameters on the first device.

    Raises:
        FileNotFoundError: the work directory holds no checkpoint.
        WrongStageError: it holds another kind of model.
        CheckpointDamagedError: it cannot be read, or differs from what was saved.
    """
    run = _open(workdir, *POLICY_STAGES)
    with _explained(run.folder / "facts"):
        policy, shape = make_policy(run.facts["config"]["model"]), _frame_shape(run.facts)
    new = ValueNormalizer.create()
    state = run.restore(
        lambda: {"params": init_params(policy, shape, jax.random.key(0)), "normalizer": new, "aux_normalizer": new}
    )
    normalizer = state.get("normalizer", new)
    aux_normalizer = state.get("aux_normalizer", normalizer)  # our training has one for both
    return TrainedPolicy(policy, state["params"], shape, run.step, normalizer, aux_normalizer)


class TrainedIDM(NamedTuple):
    """An inverse dynamics model from a checkpoint, and what it was trained on."""

    module: InverseDynamicsModel
    params: Any
    frame_shape: tuple[int, ...]  # height, width, channels
    window: int  # frames
    step: int  # of the checkpoint


def load_idm(workdir: str | Path) -> TrainedIDM:
    """The inverse dynamics model of a finished or running training, its newest parameters on the first device.

    Raises:
        FileNotFoundError: the work directory holds no checkpoint.
        WrongStageError: it holds another kind of model.
        CheckpointDamagedError: it cannot be read, or differs from what was saved.
    """
    run = _open(workdir, IDM_STAGE)
    with _explained(run.folder / "facts"):
        idm, shape = make_idm(run.facts["config"]["model"]), _frame_shape(run.facts)
        window = _size(run.facts["stream"]["length"])
    state = run.restore(partial(idm.init, jax.random.key(0), jnp.zeros((1, 1, *shape), jnp.uint8)))
    return TrainedIDM(idm, state["params"], shape, window, run.step)


def load_model(workdir: str | Path) -> TrainedPolicy | TrainedIDM:
    """Whichever of the two the work directory holds. Raises as `load_policy` and `load_idm`."""
    stage = _open(workdir, *POLICY_STAGES, IDM_STAGE).facts["config"]["stage"]
    return load_idm(workdir) if stage == IDM_STAGE else load_policy(workdir)


class _Run(NamedTuple):
    """What a work directory holds."""

    facts: dict[str, Any]
    step: int  # of the newest checkpoint
    folder: Path  # of that
    restore: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]  # of what a function makes, what is stored


def _open(workdir: str | Path, *stages: str) -> _Run:
    folder = (local_path(workdir, "the work directory").expanduser() / "checkpoints").absolute()
    step = None
    if folder.is_dir():
        with _explained(folder):
            _demand_files(folder)
            options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
            manager = ocp.CheckpointManager(folder, options=options)
            step = manager.latest_step()
    if step is None:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: give the --config.workdir of a training run")
    folder = folder / str(step)
    with _explained(folder / "facts"):
        facts = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        there, imported = str(facts["config"]["stage"]), "card" in facts  # a model that was imported has a card
    if there not in stages:
        wanted = " or ".join(map(repr, stages))
        raise WrongStageError(f"{workdir} holds a training run of stage {there!r}, and this needs one of {wanted}")

    valued = {"normalizer", "aux_normalizer"} if imported else {"normalizer"} if there == "ppg" else set()
    stored = {"params"} | valued

    def restore(init: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with _explained(folder / "facts"):
            shapes = {name: tree for name, tree in jax.eval_shape(init).items() if name in stored}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        where = ocp.checkpoint_utils.construct_restore_args(target)
        state = ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)  # no optimiser, no memory
        with _explained(folder / "state"):
            restored = manager.restore(step, args=ocp.args.Composite(state=state)).state
            _verify(folder, restored, facts)
        return restored

    return _Run(facts, step, folder, restore)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Whatever goes wrong with what a file holds is a `CheckpointDamagedError` that names it.

    Orbax and TensorStore raise nearly everything there is. What the machine lacks, or its disk, is no damage, and
    raised as it is.
    """
    try:
        yield
    except (CheckpointError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if system_error_numbers(error) & _LACKS:
            raise
        why = printable(f"{type(error).__name__}: {error}", length=500)
        raise CheckpointDamagedError(
            f"{place} cannot be read as part of a checkpoint ({why}). Is it damaged, or from another program? {_REMEDY}"
        ) from error


_LACKS = {
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EACCES,
    errno.EPERM,
}  # fmt: skip
_REMEDY = "Copy the folder anew, or remove it, so that the checkpoint before it counts"


def _demand_files(folder: Path) -> None:
    """Refuses pipes and devices in a folder, however deep: reading them would wait for ever."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _demand_files(Path(entry.path))
            elif not (entry.is_file() or entry.is_dir()):
                raise CheckpointDamagedError(f"{entry.path} is no file but a pipe or a device, or leads nowhere")


def _verify(folder: Path, state: Any, facts: Mapping[str, Any]) -> None:
    """Compares what has been read with its digests.

    Raises:
        CheckpointDamagedError: something differs; the message has its path.
    """
    digests = facts.get("digests")
    leaves = jax.tree.leaves_with_path(state)
    lacking = [path_name(path) for path, leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    if lacking := lacking or (undigested(state, digests) if digests is not None else []):
        raise CheckpointDamagedError(f"{folder}/state lacks {_listed(lacking)}: it is damaged, or of another model")
    if digests is None:
        say(f"{folder} has no digests, since it is of an older version: damage to its parameters would not be noticed")
    elif changed := damaged(state, digests):
        raise CheckpointDamagedError(
            f"{folder}/state: not what was saved, in {_listed(changed)}: the files have changed on disk. {_REMEDY}"
        )


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if paths[5:] else "")


def _frame_shape(facts: Mapping[str, Any]) -> tuple[int, ...]:
    height, width, channels = map(_size, facts["stream"]["frame_shape"])
    return height, width, channels


def _size(number: Any) -> int:
    if type(number) is not int or not 0 < number < 1 << 20:
        raise ValueError(f"a size is {number!r}")
    return number
