"""XLA's cycle estimates, added up from a program's text. The text is a hand-made one in the form of XLA:TPU's.

tests/test_compile.py compiles a real one where libtpu is installed.
"""

import pytest

from vpt_jax.training.cycles import estimate_cycles, is_transfer, readable_source

PROGRAM = """HloModule jit_update, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%convolved (p.1: bf16[2,8]) -> bf16[2,8] {
  %p.1 = bf16[2,8]{1,0} parameter(0)
  %conv.1 = bf16[2,8]{1,0} convolution(%p.1, %p.1), metadata={op_name="jit(update)/jvp(Policy)/encoder/conv/conv"}
  ROOT %max.1 = bf16[2,8]{1,0} maximum(%conv.1, %conv.1), metadata={op_name="jit(update)/jvp(Policy)/encoder/max"}
}

%gathered (p.2: f32[8]) -> f32[4] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %g = f32[4]{0} gather(%p.2, %p.2), metadata={op_name="jit(update)/gather"}
}

%body (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.3 = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %e.3 = f32[8]{0:T(128)} get-tuple-element(%p.3), index=1
  %twice = f32[8]{0} fusion(%e.3), kind=kLoop, calls=%other, backend_config={"window_config":{"estimated_cycles":"7"}}
  ROOT %t.3 = (s32[]{:T(128)}, f32[8]{0}) tuple(%e.3, %twice)
}

%condition (p.4: (s32[], f32[8])) -> pred[] {
  %p.4 = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  ROOT %less = pred[]{:T(128)} compare(%p.4, %p.4), direction=LT
}

%counted (p.7: (s32[], f32[8])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %p.7 = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p.7), index=0
  ROOT %less.7 = pred[]{:T(128)} compare(%i, %three), direction=LT, metadata={op_name="jit(update)/while/cond/lt"}
}

%cheap (p.5: f32[8]) -> f32[8] {
  ROOT %c.5 = f32[8]{0} copy(%p.5), backend_config={"window_config":{"estimated_cycles":"20"}}
}

%dear (p.6: f32[8]) -> f32[8] {
  %inner = (s32[], f32[8]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %c.6 = f32[8]{0} copy(%p.6), backend_config={"window_config":{"estimated_cycles":"1"}}
}

ENTRY %main.9 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %conv_fusion = (bf16[2,8]{1,0:T(8,128)(2,1)S(1)}, pred[2]{0}) fusion(%a), kind=kOutput, calls=%convolved, \
metadata={op_name="jit(update)/jvp(Policy)/encoder/max"}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %cs = (f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)}) copy-start(%a)
  %cd = f32[8]{0:S(1)} copy-done(%cs)
  %gather_fusion = f32[4]{0} fusion(%a), kind=kCustom, calls=%gathered
  %ar = f32[8]{0} all-reduce(%a), replica_groups={}, to_apply=%condition
  %view = f32[8]{0} custom-call(%a), custom_call_target="ConcatBitcast"
  %scalar = f32[] add(%a, %a)
  %loop = (s32[], f32[8]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"},"window_config":{}}
  %scan = (s32[]{:T(128)}, f32[8]{0}) while(%t), condition=%counted, body=%body
  %endless = (s32[]{:T(128)}, f32[8]{0}) while(%t), condition=%condition, body=%body
  %either = f32[8]{0} conditional(%p, %a, %a), branch_computations={%cheap, %dear}
  %sum.1 = f32[8]{0} reduce(%a, %b), to_apply=%dear, metadata={op_name="jit(update)/transpose(jvp(Policy))/encoder/\
checkpoint/rematted_computation/encoder/norm/reduce_sum"}, backend_config={"window_config":{"estimated_cycles":"300"}}
  ROOT %made = f32[8]{0} fusion(%a), kind=kLoop, calls=%other, backend_config={"window_config":{"estimated_cycles":"2"}}
}
"""


def test_cycles_are_added_and_loops_multiplied():
    """Of two branches the larger counts, here by its loop."""
    estimate = estimate_cycles(PROGRAM)
    assert estimate.cycles == 1000 + 5 * 7 + 3 * 7 + 1 * 7 + (5 * 7 + 1) + 300 + 2
    assert estimate.endless == 1
    assert [operation.cycles for operation in estimate.largest(3)] == [1000, 300, 35]


def test_what_has_no_estimate_is_counted():
    uncounted = estimate_cycles(PROGRAM).uncounted
    assert uncounted == {"copy": (1, 4 * 8 * 2 + 4), "gather": (1, 16), "all-reduce": (1, 32), "add": (1, 4)}
    assert [kind for kind in uncounted if is_transfer(kind)] == ["copy", "all-reduce"]


def test_operations_are_named_by_the_module_they_come_from():
    convolution, norm, *_, made = estimate_cycles(PROGRAM).largest(7)
    assert convolution.source == "encoder/conv: conv"  # of the product, not of what is computed with it
    assert norm.source == "encoder/norm: reduce_sum (backward, recomputed)"
    assert made.source == "fusion made by the compiler"


@pytest.mark.parametrize(
    ("op_name", "source"),
    [
        ("jit(update)/transpose(jvp(Policy))/encoder/stack_0/norm/mul", "encoder/stack_0/norm: mul (backward)"),
        ("jit(update)/jvp(Policy)/encoder/stack_0/first_conv/jit(relu)/max", "encoder/stack_0/first_conv: max"),
        ("jit(update)/add", "add"),
        ("add", "add"),
    ],
)
def test_readable_sources(op_name, source):
    assert readable_source(op_name) == source


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        estimate_cycles("HloModule jit_f\n\n%f (a: f32[]) -> f32[] {\n}\n")
