"""The forms of operations for accelerators: where they are taken, and that they compute the same as those for CPUs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.programs import ROOT
from vpt_jax.models import platform
from vpt_jax.models.impala import ImpalaEncoder
from vpt_jax.models.layers import NormConv
from vpt_jax.models.policy import Policy
from vpt_jax.parallel import make_mesh

FRAMES = (3, 16, 16, 3)


def strided_convolutions(encoder, frames, params):
    """Number of convolutions of stride 2 in the encoder's program; those of a pooled convolution are four."""
    text = jax.jit(lambda params, frames: encoder.apply(params, frames)).trace(params, frames).jaxpr.pretty_print()
    return text.count("window_strides=(2, 2)")


@pytest.fixture(scope="module")
def frames():
    return jax.random.uniform(jax.random.key(0), FRAMES)


@pytest.mark.parametrize(
    ("forced", "first_norm", "pooled_convolutions"),
    [("", False, 0), ("cpu", False, 0), ("tpu", False, 2), ("tpu", True, 2), ("gpu", False, 1), ("gpu", True, 0)],
)
def test_convolution_and_pool_are_one_where_it_pays(monkeypatch, frames, forced, first_norm, pooled_convolutions):
    monkeypatch.setattr(platform, "FORCED", forced)
    encoder = ImpalaEncoder((4, 8), 16, first_norm=first_norm)
    params = jax.eval_shape(encoder.init, jax.random.key(1), frames)
    assert strided_convolutions(encoder, frames, params) == 4 * pooled_convolutions


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    monkeypatch.setattr(platform, "FORCED", "")
    assert platform.target_platform() == "cpu"
    with jax.set_mesh(make_mesh()):
        assert platform.target_platform() == "cpu"
        assert not platform.is_accelerator()


@pytest.mark.parametrize(
    ("forced", "features", "apart"), [("tpu", 128, True), ("tpu", 64, False), ("tpu", 192, False), ("gpu", 128, False)]
)
def test_convolutions_of_some_widths_are_apart_from_norms_on_tpus(monkeypatch, forced, features, apart):
    """With the barrier, outputs and gradients are equal to the bit."""
    images, layer = jax.random.normal(jax.random.key(0), (1, 4, 4, 8)), NormConv(features)
    params = layer.init(jax.random.key(1), images)
    monkeypatch.setattr(platform, "FORCED", "gpu")  # one-pass variance, as on a TPU
    grad = jax.grad(lambda params, images: (layer.apply(params, images) ** 2).sum(), (0, 1))
    expected = grad(params, images)
    monkeypatch.setattr(platform, "FORCED", forced)
    assert ("optimization_barrier" in str(jax.make_jaxpr(grad)(params, images))) == apart
    jax.tree.map(np.testing.assert_array_equal, grad(params, images), expected)


@pytest.mark.parametrize(("forced", "first_norm"), [("gpu", False), ("tpu", True)])
def test_accelerators_compute_the_same_encoder(monkeypatch, frames, forced, first_norm):
    encoder = ImpalaEncoder((4,), 16, first_norm=first_norm)
    params = jax.jit(encoder.init)(jax.random.key(1), frames)
    weights = jax.random.normal(jax.random.key(2), (len(frames), 16))

    def outputs_and_gradients():
        loss = lambda params, frames: (encoder.apply(params, frames) * weights).sum()  # noqa: E731
        return jax.jit(lambda *inputs: (encoder.apply(*inputs), jax.grad(loss, (0, 1))(*inputs)))(params, frames)

    monkeypatch.setattr(platform, "FORCED", "cpu")
    expected = outputs_and_gradients()
    monkeypatch.setattr(platform, "FORCED", forced)
    actual = outputs_and_gradients()
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_parameters_do_not_depend_on_the_platform(monkeypatch, frames):
    policy = Policy((4, 8), 16, 2, layers=1)
    arguments = jnp.zeros((1, 1, 16, 16, 3), jnp.uint8), jnp.zeros((1, 1), bool), policy.initial_memory(1)
    monkeypatch.setattr(platform, "FORCED", "cpu")
    shapes = jax.eval_shape(policy.init, jax.random.key(0), *arguments)
    monkeypatch.setattr(platform, "FORCED", "tpu")
    assert jax.eval_shape(policy.init, jax.random.key(0), *arguments) == shapes


@pytest.mark.slow
@pytest.mark.parametrize("forced", ["tpu", "gpu"])
@pytest.mark.parametrize(
    "tests",
    ["tests/models", "tests/training/test_meshes.py tests/training/test_resume.py tests/training/test_roofline.py"],
)
def test_goldens_gradients_meshes_and_resuming_pass_with_the_forms_of_accelerators(forced, tests):
    """The same tests with the same tolerances, goldens of the reference among them, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", *tests.split()]
    environment = os.environ | {"VPT_JAX_PLATFORM": forced}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:]
