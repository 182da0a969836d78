"""Checkpoints: the train state, and what it was trained with, in Orbax's format.

A checkpoint is written in the background under a temporary name and renamed when it is whole, so a run may be killed at
any moment: the newest whole checkpoint is found, unfinished ones are ignored and cleaned away. The position in the data
is the state's step. Checkpoints can be read on any mesh and any number of hosts.
"""

import datetime
import json
from collections.abc import Callable, Mapping
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
from vpt_jax.training.state import AnyState, State

POLICY_STAGES, IDM_STAGE = ("policy", "ppg"), "idm"
_FIXED = ("stream", "model", "optimizer")  # facts that must be the same when a run is resumed


class SettingsChangedError(ValueError):
    """A run is resumed with other settings than it was begun with; the message names them."""


class WrongStageError(ValueError):
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
        (workdir / "config.json").write_text(json.dumps(jsonable(config), indent=1) + "\n")
        (workdir / "sharding.txt").write_text(sharding_table + "\n")


class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, and besides one for every `keep_every_hours`."""

    def __init__(self, folder: Path, keep_last: int, keep_every_hours: float, facts: dict[str, Any]) -> None:
        """`facts` are stored beside the state; resuming needs the same `stream`, `model` and `optimizer`."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep_last,
            keep_time_interval=datetime.timedelta(hours=keep_every_hours) if keep_every_hours else None,
            cleanup_tmp_directories=True,
        )
        self._facts = facts
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: AnyState, step: int) -> None:
        """Starts writing; returns once the state may be changed."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(self._facts))
        self._manager.save(step, args=items)

    def restore(self, shapes: State, shardings: State) -> State:
        """The newest state, laid out as `shardings` say.

        Raises:
            SettingsChangedError: it was trained on other data, or with another model or optimizer than `facts` say.
        """
        step = self.latest
        facts = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
        self._check(facts)
        target = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=items).state

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
    """
    run = _open(workdir, *POLICY_STAGES)
    policy, shape = make_policy(run.facts["config"]["model"]), tuple(run.facts["stream"]["frame_shape"])
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
    """
    run = _open(workdir, IDM_STAGE)
    idm, shape = make_idm(run.facts["config"]["model"]), tuple(run.facts["stream"]["frame_shape"])
    state = run.restore(partial(idm.init, jax.random.key(0), jnp.zeros((1, 1, *shape), jnp.uint8)))
    return TrainedIDM(idm, state["params"], shape, run.facts["stream"]["length"], run.step)


def load_model(workdir: str | Path) -> TrainedPolicy | TrainedIDM:
    """Whichever of the two the work directory holds. Raises `FileNotFoundError` if it holds no checkpoint."""
    stage = _open(workdir, *POLICY_STAGES, IDM_STAGE).facts["config"]["stage"]
    return load_idm(workdir) if stage == IDM_STAGE else load_policy(workdir)


class _Run(NamedTuple):
    """What a work directory holds."""

    facts: dict[str, Any]
    step: int  # of the newest checkpoint
    restore: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]  # of what a function makes, what is stored


def _open(workdir: str | Path, *stages: str) -> _Run:
    options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
    manager = ocp.CheckpointManager(Path(workdir, "checkpoints").expanduser().absolute(), options=options)
    if (step := manager.latest_step()) is None:
        raise FileNotFoundError(f"{workdir} holds no checkpoint: give the --config.workdir of a training run")
    facts = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
    if (there := facts["config"]["stage"]) not in stages:
        wanted = " or ".join(map(repr, stages))
        raise WrongStageError(f"{workdir} holds a training run of stage {there!r}, and this needs one of {wanted}")

    valued = {"normalizer", "aux_normalizer"} if "card" in facts else {"normalizer"} if there == "ppg" else set()
    stored = {"params"} | valued  # a model that was imported has a card

    def restore(init: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = {name: tree for name, tree in jax.eval_shape(init).items() if name in stored}
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
        where = ocp.checkpoint_utils.construct_restore_args(target)
        state = ocp.args.PyTreeRestore(target, restore_args=where, partial_restore=True)  # no optimiser, no memory
        return manager.restore(step, args=ocp.args.Composite(state=state)).state

    return _Run(facts, step, restore)
