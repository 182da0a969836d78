"""Cost of a compiled step: collectives parsed from a program, and memory and traffic on several meshes.

Eight simulated devices (tests/conftest.py).
"""

import re
from functools import cache
from math import prod

import jax
import pytest

from configs import foundation, idm
from vpt_jax import parallel
from vpt_jax.actions.minerl import MINERL
from vpt_jax.training.roofline import Chip, Collective, Cost, by_kind, cost_of, find_collectives
from vpt_jax.training.setup import batch_shapes, make_setup, step_buffers
from vpt_jax.training.stages import STAGES

PROGRAM = """
%add (x: f32[], y: f32[]) -> f32[] {
  %all-reduce.1 = f32[128,256]{1,0} all-reduce(%dot), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add
  %ar = (f32[10]{0}, bf16[4,4]{1,0}) all-reduce(%a, %b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %ags = (bf16[8,16]{1,0}, bf16[64,16]{1,0}) all-gather-start(%c), replica_groups=[1,8]<=[8], dimensions={0}
  %agd = bf16[64,16]{1,0} all-gather-done(%ags)
  %rs = f32[2,16]{1,0:T(8,128)} reduce-scatter(%d), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %cp = s32[7]{0} collective-permute(%e), source_target_pairs={{0,1},{1,0}}
  %cps = (s32[5]{0}, s32[5]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e), source_target_pairs={{0,1}}
  %ars = (f32[3]{0}, f32[5]{0}) all-reduce-start(%x, %y), replica_groups={}, to_apply=%add
  %agv = ((f32[2]{0}, f32[1]{0}), (f32[8]{0}, f32[4]{0})) all-gather-start(%x, %y), replica_groups={{0,1,2,3}}
  %fusion = f32[9]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_collectives_of_a_program():
    assert list(find_collectives(PROGRAM, 8)) == [
        Collective("all-reduce", 4 * 128 * 256, 8),
        Collective("all-reduce", 4 * 10 + 2 * 16, 4),
        Collective("all-gather", 2 * 64 * 16, 8),
        Collective("reduce-scatter", 4 * 2 * 16 * 4, 4),
        Collective("collective-permute", 4 * 7, 2),
        Collective("collective-permute", 4 * 5, 2),
        Collective("all-reduce", 4 * 8, 8),
        Collective("all-gather", 4 * 12, 4),
    ]
    assert by_kind(list(find_collectives(PROGRAM, 8)))["all-reduce"] == (3, 4 * 128 * 256 + 72 + 32)


def test_roofline_equals_manual_arithmetic():
    collectives = [Collective("all-reduce", 800, 8), Collective("all-gather", 400, 4)]
    cost = Cost({"parameters": 3, "batch": 4}, flops=6e3, bytes=5e3, collectives=collectives)
    assert cost.total_memory == 7
    seconds = cost.seconds(Chip(memory=16, flops=1e3, memory_bandwidth=1e3, network_bandwidth=100))
    # A ring sends 7/8 of the tensor twice to reduce it, 3/4 of it once to gather.
    assert seconds == {"arithmetic": 6.0, "memory traffic": 5.0, "network": pytest.approx((1400 + 300) / 100)}


@cache
def compiled_step(stage, sizes):
    config = {"policy": foundation, "idm": idm}[stage].get_config("demo")
    if stage == "policy":  # which every quick run compiles
        config.model.preset, config.optimizer.name = "nano", "adam"
    config.data.batch, config.data.valid_batch, config.data.length = 8, 8, 4
    mesh = parallel.make_mesh(*sizes)
    marginal = next(iter(STAGES[stage].heads.values())).marginal.uniform(MINERL)
    setup = make_setup(config, mesh, (16, 16, 3), marginal, 10_000)
    batch = batch_shapes(config, mesh, (16, 16, 3))
    with jax.set_mesh(mesh):
        compiled = setup.step.lower(setup.shapes, batch).compile()
    return setup, compiled, cost_of(compiled, step_buffers(setup.shapes, batch))


def size_of(tree):
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


stages = pytest.mark.parametrize("stage", ["policy", pytest.param("idm", marks=pytest.mark.slow)])


@stages
def test_data_parallelism_reduces_little_more_than_the_gradients(stage):
    setup, _, cost = compiled_step(stage, (8, 1, 1))
    parameters = size_of(setup.shapes.params)
    assert set(by_kind(cost.collectives)) == {"all-reduce"}
    reduced = by_kind(cost.collectives)["all-reduce"][1]
    assert 0.95 * parameters < reduced < 1.05 * parameters  # parameters without a gradient are not reduced


@stages
def test_under_fsdp_each_device_holds_its_share_and_the_old_state_is_donated(stage):
    setup, compiled, cost = compiled_step(stage, (1, 8, 1))
    for kind, tree in {"parameters": setup.shapes.params, "optimizer": setup.shapes.opt_state}.items():
        assert cost.memory[kind] < 1.1 * size_of(tree) / 8
    state_bytes = sum(cost.memory[kind] for kind in ("parameters", "optimizer", "memory carry"))
    assert compiled.memory_analysis().alias_size_in_bytes >= state_bytes


@stages
def test_every_device_computes_its_share_of_the_frames_on_any_mesh(stage):
    _, compiled, _ = compiled_step(stage, (2, 2, 2))
    frames = re.findall(r"f32\[(\d+),(?:16,16|8,8),\d+\]\S* convolution\(", compiled.as_text())  # before, after pooling
    assert set(frames) == {str(8 * 4 // 8)}
