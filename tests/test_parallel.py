"""Meshes, rules, and who reads which rows; eight fake devices (tests/conftest.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vpt_jax import parallel
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import POLICIES


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, -1), (1, 4, 2)), ((2, 4, 1), (2, 4, 1))],
)
def test_mesh(sizes, expected):
    mesh = parallel.make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == expected
    assert tuple(mesh.shape) == parallel.AXES


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (16, 1, 1), (-1, -1, 1), (0, 1, 1)])
def test_a_mesh_that_does_not_fit_says_why(sizes):
    with pytest.raises(ValueError, match="8 devices"):
        parallel.make_mesh(*sizes)


def test_the_first_matching_rule_counts_and_the_rest_is_replicated():
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
        laid = jax.jit(lambda x: parallel.constrain(x, parallel.FRAMES))(jnp.zeros((frames, 5)))
    assert laid.sharding.is_equivalent_to(jax.NamedSharding(mesh, P(axes)), 2)
    assert parallel.constrain(laid, parallel.FRAMES) is laid


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
    total, held = map(sum, zip(*sizes, strict=True))
    assert held < 1.25 * total / 8


def test_rows_and_global_batches():
    mesh = parallel.make_mesh(2, 2, 2)
    assert parallel.local_rows(mesh, 8) == list(range(8))
    batch = {"x": np.arange(16).reshape(8, 2)}
    placed = parallel.global_batch(batch, mesh, 8)["x"]
    np.testing.assert_array_equal(placed, batch["x"])
    assert placed.addressable_shards[0].data.shape == (2, 2)
    with pytest.raises(ValueError, match="batch of 6 cannot be split"):
        parallel.local_rows(mesh, 6)
