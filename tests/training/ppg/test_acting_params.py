"""The copy of the parameters for acting: equal outputs, and no collective operation in a step."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vpt_jax import parallel
from vpt_jax.models.kv_cache import RingKVCache
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.acting_params import acting_params
from vpt_jax.training.ppg.rollout import sample_actions

GAMES, SHAPE = 8, (8, 8, 3)
SIZES = dict(widths=(8,), features=16, heads=2, layers=1, memory_length=4, aux_value=True)
COLLECTIVE = re.compile(r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\(")


def make_policy(dtype):
    """A policy with parameters that bfloat16 has to round."""
    policy, rng = Policy(**SIZES, dtype=dtype), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init_params, policy, SHAPE), jax.random.key(0))
    return policy, jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def shard(params, mesh):
    return jax.device_put(params, parallel.tree_shardings(params, mesh, parallel.RULES["default"]))


def observation(mesh):
    rng = np.random.default_rng(1)
    frames, first = rng.integers(0, 256, (GAMES, *SHAPE), np.uint8), np.arange(GAMES) % 3 == 0
    return jax.device_put((frames, first), parallel.batch_sharding(mesh))


def step(policy, mesh):
    """A step of acting, jitted with the shardings of `RolloutCollector`, and its other arguments."""
    rows = parallel.batch_sharding(mesh)
    ring = RingKVCache(rows, rows, rows, NamedSharding(mesh, PartitionSpec()))
    arguments = ValueNormalizer.create(), jax.device_put(policy.initial_ring_memory(GAMES), ring), *observation(mesh)
    act = jax.jit(partial(sample_actions, policy), out_shardings=(rows, ring))
    return act, (*arguments, jax.random.PRNGKey(3), 5, (0, 1))


def test_actions_values_and_log_probs_are_equal_to_the_bit():
    policy, params = make_policy(jnp.bfloat16)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        copy = acting_params(mesh, jnp.bfloat16)(shard(params, mesh))
        act, arguments = step(policy, mesh)
        expected, ring = act(params, *arguments)
        actual, other_ring = act(copy, *arguments)
    jax.tree.map(np.testing.assert_array_equal, (actual, other_ring), (expected, ring))


def test_only_what_the_policy_converts_is_converted():
    _, params = make_policy(jnp.bfloat16)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    copy = acting_params(mesh, jnp.bfloat16)(params)
    types = {parallel.path_name(path): leaf.dtype for path, leaf in jax.tree.leaves_with_path(copy)}
    kept = {name for name, dtype in types.items() if dtype == jnp.float32}
    assert all("norm/" in name or name.endswith("basis") or name.startswith(("actions", "value", "aux_value"))
               for name in kept)  # fmt: skip
    assert not any("norm/" in name for name in types.keys() - kept)
    assert {"encoder/stack_0/first_conv/conv/bias", "transformer/block_0/attention/query/kernel"} <= types.keys() - kept
    assert {"value/kernel", "actions/buttons/kernel", "encoder/dense/norm/scale", "final_norm/bias"} <= kept


def test_a_float32_policy_on_one_device_acts_with_its_own_parameters():
    _, params = make_policy(jnp.float32)
    assert acting_params(parallel.make_mesh(devices=jax.devices()[:1]), jnp.float32)(params) is params


def test_a_step_of_sharded_acting_has_no_collective_operation():
    policy, params = make_policy(jnp.bfloat16)
    mesh = parallel.make_mesh(data=1, fsdp=8)
    with jax.set_mesh(mesh):
        sharded = shard(params, mesh)
        act, arguments = step(policy, mesh)
        compiled = act.lower(acting_params(mesh, jnp.bfloat16)(sharded), *arguments).compile().as_text()
        gathering = act.lower(sharded, *arguments).compile().as_text()
    assert len(COLLECTIVE.findall(gathering)) > 5
    assert not COLLECTIVE.findall(compiled)
