"""Meshes, sharding rules, and the rows of each process; on eight simulated devices (tests/conftest.py)."""

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from configs import foundation
from vpt_jax import parallel
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import POLICIES
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.system.errors import ConfigError
from vpt_jax.training import setup
from vpt_jax.training.checkpoints import TrainedPolicy
from vpt_jax.training.setup import make_mesh
from vpt_jax.training.stages import POLICY


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, -1), (1, 4, 2)), ((2, 4, 1), (2, 4, 1))],
)
def test_mesh_sizes_may_be_inferred(sizes, expected):
    mesh = parallel.make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == expected
    assert tuple(mesh.shape) == parallel.AXES


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_is_refused(sizes):
    with pytest.raises(ValueError, match="8 devices"):
        parallel.make_mesh(*sizes)


@dataclass(frozen=True)
class Chip:
    """A TPU chip of one of several slices of 4x4, as JAX describes it."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def process_index(self):
        return self.id // 4


def slices(number, **changes):
    return [Chip(16 * i + j, i, (j % 4, j // 4, 0), **changes) for i in range(number) for j in range(16)]


@pytest.mark.parametrize(
    ("number", "sizes"), [(1, (4, 4, 1)), (2, (-1, 4, 1)), (2, (2, 16, 1)), (2, (8, 2, 2)), (4, (-1, 8, 2))]
)
def test_only_the_data_axis_spans_several_slices(number, sizes):
    """Each part of the data axis lies in one slice (scale row 9)."""
    mesh = parallel.make_mesh(*sizes, devices=slices(number))
    assert mesh.devices.size == 16 * number
    part = len(mesh.devices) // number
    for i in range(number):
        assert {chip.slice_index for chip in mesh.devices[i * part : (i + 1) * part].flat} == {i}
    assert len({chip.id for chip in mesh.devices.flat}) == 16 * number


@pytest.mark.parametrize(("number", "sizes"), [(2, (1, 32, 1)), (2, (1, 16, 2)), (3, (4, 12, 1)), (2, (1, -1, 1))])
def test_parameters_that_would_be_split_between_slices_are_refused(number, sizes):
    """The error names the remedy, and is no AssertionError of JAX (scale row 9)."""
    config = foundation.get_config()
    config.mesh.update(dict(zip(parallel.AXES, sizes, strict=True)))
    with pytest.raises(ConfigError, match=rf"config.mesh: .* {number} slices, .* must be a multiple of {number}"):
        make_mesh(config, slices(number))


def test_hosts_of_gpus_are_not_slices():
    """JAX numbers hosts of GPUs as if they were slices."""
    mesh = parallel.make_mesh(1, 32, 1, slices(2, platform="gpu", device_kind="NVIDIA H100"))
    assert [chip.id for chip in mesh.devices.flat] == list(range(32))


def test_the_first_matching_rule_applies_and_the_rest_is_replicated():
    rules = [("a/kernel$", P("fsdp")), ("kernel", P("tensor"))]
    assert parallel.find_spec("params/a/kernel", rules) == P("fsdp")
    assert parallel.find_spec("params/b/kernel", rules) == P("tensor")
    assert parallel.find_spec("params/b/bias", rules) == P()


def test_axes_that_do_not_divide_are_left_out():
    mesh = parallel.make_mesh(1, 4, 2)
    shapes = {"kernel": jax.ShapeDtypeStruct((12, 7), jnp.float32)}
    shardings = parallel.tree_shardings(shapes, mesh, [("kernel", P("fsdp", "tensor"))])
    assert shardings["kernel"].spec == P("fsdp", None)
    assert "kernel" in parallel.sharding_table(shapes, shardings)


@pytest.mark.parametrize(("frames", "axes"), [(16, ("fsdp", "data", "tensor")), (20, ("fsdp", "data")), (3, ())])
def test_frames_are_split_as_far_as_they_can_be(frames, axes):
    mesh = parallel.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        constrained = jax.jit(lambda x: parallel.constrain(x, parallel.FRAMES))(jnp.zeros((frames, 5)))
    assert constrained.sharding.is_equivalent_to(jax.NamedSharding(mesh, P(axes)), 2)
    assert parallel.constrain(constrained, parallel.FRAMES) is constrained


@pytest.mark.parametrize("preset", ["1x", "3x"])
def test_default_rules_split_nearly_all_parameters(preset):
    mesh = parallel.make_mesh(1, 4, 2)
    policy = Policy(**POLICIES[preset])
    frames, first = jax.ShapeDtypeStruct((1, 1, 128, 128, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 1), bool)
    memory = jax.eval_shape(lambda: policy.initial_memory(1))
    shapes = jax.eval_shape(policy.init, jax.random.key(0), frames, first, memory)
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES["default"])
    sizes = [
        (leaf.size, int(np.prod(sharding.shard_shape(leaf.shape))))
        for leaf, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    ]
    total, per_device = map(sum, zip(*sizes, strict=True))
    assert per_device < 1.25 * total / 8


def test_rows_and_global_batches():
    mesh = parallel.make_mesh(2, 2, 2)
    assert parallel.local_rows(mesh, 8) == list(range(8))
    batch = {"x": np.arange(16).reshape(8, 2)}
    placed = parallel.global_batch(batch, mesh, 8)["x"]
    np.testing.assert_array_equal(placed, batch["x"])
    assert placed.addressable_shards[0].data.shape == (2, 2)
    with pytest.raises(ValueError, match="batch of 6 cannot be split"):
        parallel.local_rows(mesh, 6)


def test_hosts_with_different_initial_checkpoints_are_refused(monkeypatch):
    """Otherwise each host would train its own parameters."""
    model = TrainedPolicy(SimpleNamespace(), {}, (16, 16, 3), 7, ValueNormalizer.create(), ValueNormalizer.create())
    monkeypatch.setitem(setup.LOADERS, POLICY, lambda workdir: model)
    config = ConfigDict({"stage": "policy", "init_from": "/models/a", "model": {}})
    assert setup.pretrained_model(config).step == 7  # a single host
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    for seen, agree in (([7, 7], True), ([7, 6], False)):
        monkeypatch.setattr(parallel.multihost_utils, "process_allgather", lambda step, seen=seen: np.array(seen))
        with nullcontext() if agree else pytest.raises(ConfigError, match=r"init_from: .* /models/a is .* step 6 or 7"):
            setup.pretrained_model(config)
