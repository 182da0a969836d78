"""Rematerialization of the image stacks: equal gradients, and the memory and arithmetic that the compiler reports."""

import os
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.programs import ROOT
from vpt_jax.models.impala import ImpalaEncoder
from vpt_jax.models.presets import IDMS, POLICIES, make_idm, make_policy
from vpt_jax.models.remat import REMAT, stored_remat

FRAMES, SIZE, WIDTHS = 16, 16, (8, 16, 32)


@cache
def gradient(remat, dtype=jnp.float32):
    """Compiled gradient of an encoder's parameters, which it takes with frames."""
    encoder = ImpalaEncoder(WIDTHS, 16, remat=remat, dtype=dtype)
    frames = jax.ShapeDtypeStruct((FRAMES, SIZE, SIZE, 3), dtype)
    params = jax.eval_shape(encoder.init, jax.random.key(0), frames)
    total = jax.jit(jax.grad(lambda params, frames: (encoder.apply(params, frames).astype(jnp.float32) ** 2).sum()))
    return total.lower(params, frames).compile()


def gradients(remat, dtype):
    frames = jax.random.uniform(jax.random.key(1), (FRAMES, SIZE, SIZE, 3)).astype(dtype)
    params = ImpalaEncoder(WIDTHS, 16).init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    return gradient(remat, dtype)(params, frames)


def error(actual, expected):
    """Norm of the difference of two trees, relative to the norm of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, actual, expected)) / optax.tree.norm(expected))


@pytest.mark.parametrize("remat", REMAT[1:])
def test_gradients_are_equal_up_to_rounding(remat):
    assert error(gradients(remat, jnp.float32), gradients("none", jnp.float32)) < 1e-5


@pytest.mark.slow
def test_gradients_in_bfloat16_are_as_close_to_those_in_float32():
    """They differ more from each other: of a pool's equal values, rounding decides which gets the gradient."""
    exact = gradients("none", jnp.float32)
    errors = {remat: error(gradients(remat, jnp.bfloat16), exact) for remat in REMAT}
    assert max(errors.values()) < 1.2 * errors["none"]


def test_convolutions_are_computed_again_by_stacks_alone():
    flops = [gradient(remat).cost_analysis()["flops"] for remat in REMAT]
    # Norms and ReLU alone are computed again: with JAX 0.10 that adds 1%; 0.12 fuses them otherwise, and counts less.
    assert abs(flops[1] - flops[0]) < 0.02 * flops[0]
    assert 1.2 * flops[0] < flops[2] < 1.4 * flops[0]  # and convolutions: a third, apart from the rest of the encoder


# XLA's scheduler for CPUs that keeps memory low, as those of GPUs and TPUs do: the default one runs what does not
# depend on each other side by side, the recomputation of one stack with that of another.
LOW_MEMORY = "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=0"
# In bfloat16 and with more channels than in the quick tests: what is kept of the residual blocks then outweighs the
# peak in the first convolution and its pool, which all choices have.
TEMPORARIES = """
import jax.numpy as jnp
from tests.models import test_remat
test_remat.FRAMES, test_remat.SIZE, test_remat.WIDTHS = 32, 64, (16, 32, 32)
programs = [test_remat.gradient(remat, jnp.bfloat16) for remat in test_remat.REMAT]
print(*(program.memory_analysis().temp_size_in_bytes for program in programs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_each_choice_needs_less_memory_than_the_one_before(platform):
    """Also in the form that the model has on GPUs."""
    environment = os.environ | {"XLA_FLAGS": LOW_MEMORY, "VPT_JAX_PLATFORM": platform}
    ended = subprocess.run(
        [sys.executable, "-c", TEMPORARIES], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    none, convolutions, stacks = map(int, ended.stdout.split())
    assert none > 1.1 * convolutions
    assert convolutions > stacks


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="remat is 'half'; choose one of none, convolutions, stacks"):
        jax.eval_shape(ImpalaEncoder((8,), 8, remat="half").init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize(
    ("stored", "remat"), [(True, "stacks"), (False, "none"), ("auto", "none"), *((name, name) for name in REMAT)]
)
def test_models_of_stored_configs_have_the_choice_by_its_name(stored, remat):
    model = {"preset": "nano", "temperature": 1.0, "use_last": True, "dtype": "float32", "remat": stored}
    assert stored_remat(stored) == make_policy(model).remat == make_idm(model).remat == remat
    assert "nano" in POLICIES.keys() & IDMS.keys()
