"""Checkpoints on disk: retention, restoring, damage. Resuming of runs is tested in test_resume.py."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import evaluate as evaluate_config
from configs import foundation, idm
from tests import programs
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import make_policy
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.programs.evaluate import check, policy_digest
from vpt_jax.training.checkpoints import (
    CheckpointDamagedError,
    CheckpointError,
    Checkpoints,
    SettingsChangedError,
    TrainedPolicy,
    _raise_as_damage,
    checkpoint_steps,
    load_model,
    load_policy,
    run_metadata,
)
from vpt_jax.training.digests import changed_leaves, digest, leaves_without_digest
from vpt_jax.training.state import initial_state

METADATA = {"stream": {"seed": 0}, "model": {"preset": "tiny"}, "optimizer": {"name": "adam"}}


def state_at(step):
    params = {"kernel": jnp.arange(6.0).reshape(2, 3) + step}
    return initial_state(params, optax.adam(0.1), jnp.ones(4), jax.random.PRNGKey(1))._replace(step=jnp.asarray(step))


def restore(folder, metadata=METADATA):
    shapes = jax.eval_shape(lambda: state_at(0))
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    return Checkpoints(folder, keep_last=2, keep_every_hours=0.0, metadata=metadata).restore(shapes, shardings)


def test_the_newest_are_kept_and_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    assert checkpoints.latest is None
    for step in (1, 2, 3, 4):
        checkpoints.save(state_at(step), step)
    checkpoints.close()
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["3", "4"]
    for value, expected in zip(jax.tree.leaves(restore(tmp_path)), jax.tree.leaves(state_at(4)), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_another_checkpoint_than_the_newest_is_loaded(tmp_path, monkeypatch):
    config = foundation.get_config("demo")
    config.model.preset = "nano"
    shapes = jax.eval_shape(lambda key: init_params(make_policy(config.model), (8, 8, 3), key), jax.random.key(0))
    for step in (4, 8):
        params = jax.tree.map(lambda leaf, step=step: np.full(leaf.shape, step, np.float32), shapes)
        write_checkpoint(tmp_path / "run", params, config, 8, 4, step, steps_per_epoch=4)
    assert checkpoint_steps(tmp_path / "run") == [4, 8]
    policy = load_policy(tmp_path / "run@4")
    assert (policy.step, policy.epoch, jax.tree.leaves(policy.params)[0].ravel()[0]) == (4, 1.0, 4.0)
    with pytest.raises(FileNotFoundError, match=r"run has no checkpoint of step 5; it keeps 4, 8"):
        load_policy(tmp_path / "run@5")
    with pytest.raises(FileNotFoundError, match=r"run@x holds no checkpoint"):
        load_policy(tmp_path / "run@x")
    (tmp_path / "run@4").mkdir()  # a folder of that name comes first
    with pytest.raises(FileNotFoundError, match=r"run@4 holds no checkpoint"):
        load_policy(tmp_path / "run@4")
    evaluated = evaluate_config.get_config()
    evaluated.update(policies=("a=run@all", "run"), out="out")
    monkeypatch.chdir(tmp_path)
    assert check(evaluated) == {"a@4": "run@4", "a@8": "run@8", "run": "run"}


@pytest.mark.slow
def test_all_checkpoints_of_a_run_are_played_over_its_epochs(uninterrupted, tmp_path):
    settings = "episodes=2", "num_envs=2", "game.arguments.seconds=0.5", "game.arguments.height=36"
    flags = [f"--config.{setting}" for setting in (*settings, "game.arguments.width=64", f"out={tmp_path}")]
    programs.run("evaluate", f"--config.policies=('run={uninterrupted}@all',)", *flags)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures.keys() == {"run@4", "run@8", "run@10", "random", "scripted"}
    assert [figures[f"run@{step}"]["step"] for step in (4, 8, 10)] == [4, 8, 10]
    assert figures["run@8"]["epoch"] == 2 * figures["run@4"]["epoch"] > 0
    assert {"obtained/places", "obtained_error/places"} <= figures["run@4"].keys()
    assert "by epoch of training" in (tmp_path / "report.html").read_text()


def test_closing_waits_for_the_removal_of_unfinished_checkpoints(tmp_path):
    """A program that ended before printed a traceback of Orbax's thread."""
    for step in range(300):
        (tmp_path / f"{step}.orbax-checkpoint-tmp").mkdir()
        (tmp_path / f"{step}.orbax-checkpoint-tmp" / "array").touch()
    Checkpoints(tmp_path, 1, 0.0, METADATA).close()
    assert not list(tmp_path.glob("*-tmp"))


def test_changed_settings_are_named(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    checkpoints.save(state_at(1), 1)
    checkpoints.close()
    with pytest.raises(SettingsChangedError, match=r"model\.preset was 'tiny' and is now '1x'"):
        restore(tmp_path, METADATA | {"model": {"preset": "1x"}})
    with pytest.raises(SettingsChangedError, match=r"optimizer\.name was 'adam' and is now 'muon'"):
        restore(tmp_path, METADATA | {"optimizer": {"name": "muon"}})


def saved(tmp_path, state=None, **options):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    checkpoints.save(state or state_at(1), 1)
    checkpoints.close()
    return tmp_path / "1"


def data_files(folder):
    """Orbax's files of values, the largest first."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file() and path.parent.name == "d"]
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_every_flipped_bit_is_found(tmp_path):
    """(attack L1) Once 60 of 60 flips in incompressible numbers were loaded as other parameters."""
    noise = jnp.asarray(np.random.default_rng(0).integers(0, 1 << 32, 3000, np.uint32).view(np.float32))
    state = state_at(1)._replace(params={"kernel": jnp.nan_to_num(noise).reshape(30, 100)})
    file = data_files(saved(tmp_path, state))[0]
    original, shapes = file.read_bytes(), jax.eval_shape(lambda: state)
    assert len(original) > 3000 * 4
    shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    for position in np.random.default_rng(1).integers(200, len(original) - 200, 20):
        data = bytearray(original)
        data[position] ^= 1 << (position % 8)
        file.write_bytes(data)
        with pytest.raises(
            CheckpointDamagedError, match=r"/1/state(: not what was saved, in params/kernel: | cannot be read)"
        ):
            checkpoints.restore(shapes, shardings)
    file.write_bytes(original)
    for value, expected in zip(
        jax.tree.leaves(checkpoints.restore(shapes, shardings)), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(value, expected)


def test_a_state_may_be_donated_once_save_returns(tmp_path):
    """The next step donates the state's buffers while the state is written in the background."""
    state = state_at(1)
    expected = jax.tree.map(np.array, state)
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=METADATA)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 + 7, state), donate_argnums=0)
    checkpoints.save(state, 1)
    after = jax.block_until_ready(step(state))
    checkpoints.close()
    for value, wanted in zip(jax.tree.leaves(restore(tmp_path)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert (np.asarray(after.params["kernel"]) == 7).all()


def test_digests_name_the_leaf_that_has_changed():
    state = {"kernel": jnp.arange(6.0), "bias": np.int32(3), "name": (jnp.zeros((2, 3), jnp.bfloat16),)}
    digests = json.loads(json.dumps(digest(state)))
    assert changed_leaves(state, digests) == leaves_without_digest(state, digests) == []
    changed = state | {"bias": np.int32(2), "kernel": jnp.arange(6.0).at[2].set(7)}
    assert changed_leaves(changed, digests) == ["bias", "kernel"]
    assert leaves_without_digest(state | {"new": jnp.zeros(1)}, digests) == ["new"]


def test_digests_do_not_depend_on_memory_layout():
    large = np.random.default_rng(0).normal(size=(700, 900)).astype(np.float32)
    leaves = [large.T, large[::2, 1::3], np.zeros((0, 3)), np.float32(1), np.zeros((3, 0)), np.arange(3)[::-1]]
    assert digest({"a": leaves}) == digest({"a": [np.array(leaf, order="C") for leaf in leaves]})


def test_policy_digests_differ_with_everything_that_changes_results():
    """The same parameters act and label differently with another temperature or normalizer."""
    module = Policy(widths=(4, 8, 8), features=16, heads=2)
    policy = TrainedPolicy(
        module, {"a": np.ones((2, 3), np.float32)}, (16, 16, 3), 1, ValueNormalizer.create(), ValueNormalizer.create()
    )
    others = [
        policy._replace(params={"b": np.ones((2, 3), np.float32)}),
        policy._replace(params={"a": np.ones((3, 2), np.float32)}),
        policy._replace(params={"a": np.ones((2, 3), np.int32)}),
        policy._replace(module=module.clone(temperature=2.0)),
        policy._replace(module=module.clone(dtype=jnp.bfloat16)),
        policy._replace(frame_shape=(32, 32, 3)),
        policy._replace(normalizer=ValueNormalizer(jnp.ones(1), jnp.ones(1), jnp.ones(()))),
        policy._replace(aux_normalizer=ValueNormalizer(jnp.ones(1), jnp.ones(1), jnp.ones(()))),
    ]
    assert len({policy_digest(one) for one in [policy, *others]}) == 1 + len(others)
    copy = policy._replace(module=module.clone(), params=jax.device_put(policy.params), step=2)
    assert policy_digest(copy) == policy_digest(policy)
    assert "0x" not in repr(module)  # no memory address, which differs in every process


def test_digests_do_not_depend_on_sharding():
    """A process with all of a leaf can verify it, however it was sharded when it was saved, and vice versa."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "x")
    values = np.arange(8.0 * len(jax.devices()), dtype=np.float32)
    split = jax.device_put(values, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    assert digest({"a": split}) == digest({"a": values})
    half = len(values) // 2
    halves = {"a": {f"{i}:{i + half}": zlib.crc32(values[i : i + half]) for i in (0, half)}}
    assert changed_leaves({"a": split}, halves) == []
    assert changed_leaves({"a": split.at[-1].set(0)}, halves) == ["a"]


def test_checkpoints_without_digests_are_loaded_with_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vpt_jax.training.checkpoints.digest", lambda state: None)
    folder = saved(tmp_path)
    metadata = next(path for path in (folder / "facts").iterdir() if "digests" in path.read_text())
    metadata.write_text(metadata.read_text().replace('"digests"', '"other"'))
    np.testing.assert_array_equal(restore(tmp_path).params["kernel"], state_at(1).params["kernel"])
    assert f"{folder} has no digests, since it is of an older version" in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Work directory of a policy."""
    model = {"preset": "tiny", "temperature": 1.0, "dtype": "float32", "remat": False}
    config = ConfigDict({"model": model, "optimizer": {"name": "adam"}, "stage": "policy"})
    metadata = run_metadata(config, {"frame_shape": [16, 16, 3]})
    workdir = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(workdir / "checkpoints", 1, 0.0, metadata)
    checkpoints.save(initial_state({"a": jnp.zeros(3)}, optax.sgd(0.1), (), jax.random.PRNGKey(1)), 1)
    checkpoints.close()
    return workdir


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (foundation.get_config(), {"preset", "temperature", "dtype"}),
        (idm.get_config(), {"preset", "temperature", "use_last", "dtype"}),
    ],
    ids=["policy", "idm"],
)
def test_compared_keys_of_the_metadata_equal_those_of_stored_runs(config, model):
    """A run resumes only if these equal the checkpoint's. `config` is stored, but not compared: its fields may be
    renamed."""
    metadata = run_metadata(config, {})
    assert metadata.keys() == {"stream", "model", "optimizer", "config", "action_space"}
    assert metadata["model"].keys() == model
    assert metadata["optimizer"].keys() == {"name"}


def test_a_run_resumes_from_a_checkpoint_with_old_names_in_its_config(tmp_path):
    old = METADATA | {"config": {"stage": "policy", "data": {"parts": 2, "nulls": "drop"}}}
    new = METADATA | {"config": {"stage": "policy", "data": {"grad_accum_steps": 4, "null_actions": "drop"}}}
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every_hours=0.0, metadata=old)
    checkpoints.save(state_at(1), 1)
    checkpoints.close()
    assert restore(tmp_path, new).step == 1


INVALID_METADATA = [
    "", "{", "[]", "7", "null", "[" * 100_000, '{"a":' * 5_000, "{}", '{"config": 1}', '{"config": {"stage": []}}',
    '{"config": {"stage": "policy"}, "stream": {}}',
    '{"config": {"stage": "policy", "model": 1}, "stream": {"frame_shape": [16, 16, 3]}}',
    '{"config": {"stage": "policy", "model": {}}, "stream": {"frame_shape": [16, 16, 3]}}',
    '{"config": {"stage": "policy", "model": {"preset": "\\u001b[2J"}}, "stream": {"frame_shape": [16, 16, 3]}}',
    '{"config": {"stage": "policy", "model": {"preset": "tiny"}}, "stream": {"frame_shape": "none"}}',
    '{"config": {"stage": "policy", "model": {"preset": "tiny"}}, "stream": {"frame_shape": [16, -16, 3]}}',
    '{"config": {"stage": "policy", "model": {"preset": "tiny"}}, "stream": {"frame_shape": [1e99, true, 3]}}',
    '{"config": {"stage": "idm", "model": {"preset": "tiny"}}, "stream": {"frame_shape": [16, 16, 3], "length": {}}}',
    '{"config": {"stage": "idm", "model": {"preset": ["tiny"]}}, "stream": {"frame_shape": [16, 16, 3], "length": 8}}',
]  # fmt: skip


@pytest.mark.parametrize("metadata", INVALID_METADATA, ids=range(len(INVALID_METADATA)))
def test_invalid_metadata_is_a_checkpoint_error(run, tmp_path, metadata):
    """(attack L4) No KeyError, TypeError, RecursionError or exception of Orbax is raised."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "1" / "facts" / "metadata").write_text(metadata)
    with pytest.raises(CheckpointError, match=r"checkpoints/1/facts cannot be read|holds a training run") as refused:
        load_model(tmp_path / "run")
    assert str(refused.value).isprintable()


def test_an_invalid_state_is_a_checkpoint_error(run, tmp_path):
    with pytest.raises(CheckpointDamagedError, match=r"checkpoints/1/state lacks params/actions/.* and 94 more: "):
        load_model(run)  # other parameters than those of a policy
    shutil.copytree(run, tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "1" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointDamagedError, match=r"checkpoints/1/state cannot be read"):
        load_model(tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: Error opening file: Too many open files [os_error_code='24']"),
        ValueError("RESOURCE_EXHAUSTED: Cannot allocate memory [os_error_code='12']"),
        ValueError("RESOURCE_EXHAUSTED: No space left on device"),
        ValueError("Disk quota exceeded"),
        ValueError("UNAVAILABLE: Input/output error [os_error_code='5']"),
        ValueError("Stale file handle"),
        OSError(errno.EIO, "x"),
        OSError(errno.ESTALE, "x"),
        ExceptionGroup("all", [OSError(errno.EMFILE, "x")]),
    ],
    ids=repr,
)
def test_errors_of_the_machine_are_not_reported_as_damage(error, tmp_path):
    """Too many open files or a missing network disk must not lead a user to remove an intact checkpoint."""
    with pytest.raises(type(error)) as raised, _raise_as_damage(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [ValueError("DATA_LOSS: checksum"), OSError(errno.ENOENT, "x"), KeyError("input")])
def test_errors_of_a_file_are_reported_as_damage(error, tmp_path):
    with pytest.raises(CheckpointDamagedError, match="cannot be read as part"), _raise_as_damage(tmp_path):
        raise error


@pytest.mark.parametrize("place", ["1/facts/metadata", "1/_CHECKPOINT_METADATA", "1/state/_METADATA", "descriptor"])
def test_a_pipe_in_a_checkpoint_is_refused(run, tmp_path, place):
    """(attack L4) Opening it would block."""
    shutil.copytree(run, tmp_path / "run")
    pipe = tmp_path / "run" / "checkpoints" / place
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(CheckpointDamagedError, match=f"{place} is a pipe, a device or"):
        load_model(tmp_path / "run")
    with pytest.raises(CheckpointDamagedError, match=f"{place} is a pipe, a device or"):
        Checkpoints(tmp_path / "run" / "checkpoints", 1, 0.0, METADATA)


# Two processes with two devices each save a state whose leaves have several shardings, and read it with the same and
# with others; process 0 then reads all of it alone, as load_policy does.
TWO_PROCESSES = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from vpt_jax.training.digests import changed_leaves, digest, leaves_without_digest
from vpt_jax.parallel import start_processes
coordinator, processes, number = (argument.rpartition("=")[2] for argument in sys.argv[-3:])
start_processes(coordinator, int(processes), int(number))
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
whole = {name: np.arange(32, dtype=np.float32).reshape(8, 4) + i for i, name in enumerate("opqr")} | {"s": np.int32(3)}
specs = {"o": P("a", "b"), "p": P("b"), "q": P(), "r": P(None, ("a", "b")), "s": P()}
def place(values, specs):
    return {n: jax.make_array_from_callback(v.shape, NamedSharding(mesh, specs[n]), lambda i, v=v: v[i])
            for n, v in values.items()}
state = place(whole, specs)
digests = digest(state)
assert {n: len(parts) for n, parts in digests.items()} == {"o": 4, "p": 2, "q": 1, "r": 4, "s": 1}, digests
assert changed_leaves(state, digests) == leaves_without_digest(state, digests) == []
assert changed_leaves(whole, digests) == [], "a process with all of a leaf can verify it"
spoilt = {**whole, "o": whole["o"] * 2, "q": whole["q"] * 2, "s": np.int32(4)}
assert changed_leaves(spoilt, digests) == ["o", "q", "s"]
assert changed_leaves(place(spoilt, specs), digests) == ["o", "q", "s"]
assert changed_leaves(place(whole, dict(zip("opqrs", [P("b", "a"), P("a"), P(), P("a"), P()]))), digests) == []
print("verified", number, flush=True)
"""


@pytest.mark.slow  # its quick sibling is test_digests_do_not_depend_on_sharding
def test_two_processes_verify_their_parts_of_a_state(tmp_path):
    (tmp_path / "child.py").write_text(TWO_PROCESSES)
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root),
    }  # fmt: skip
    command = [sys.executable, "launch/pods/local.py", "--processes=2", "--", str(tmp_path / "child.py")]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert ended.stdout.count("verified") == 2
