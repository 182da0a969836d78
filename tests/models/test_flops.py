"""The FLOP formulas compared with XLA's cost analysis of the forward pass."""

import jax
import jax.numpy as jnp
import pytest

from vpt_jax.models.flops import idm_flops, latent_action_flops, latent_idm_flops, policy_flops
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.latent_actions import LatentActionModel, LatentIDM
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import IDMS, LATENT_ACTIONS, LATENT_IDMS, POLICIES


def count_flops(module, *inputs):
    """FLOPs by XLA's cost analysis of the program before optimization."""
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.jit(module.apply).lower(params, *inputs).cost_analysis()["flops"]


@pytest.mark.parametrize(("preset", "length"), [("1x", 128), ("1x", 16), ("3x", 16)])
def test_policy_flops(preset, length):
    policy = Policy(**POLICIES[preset])
    frames = jax.ShapeDtypeStruct((1, length, 128, 128, 3), jnp.uint8)
    first, memory = jax.ShapeDtypeStruct((1, length), bool), jax.eval_shape(lambda: policy.initial_memory(1))
    # XLA counts norms, ReLUs and softmax too: about 1%.
    assert count_flops(policy, frames, first, memory) / length == pytest.approx(
        policy_flops(policy, 128, 128, length), rel=0.01
    )


@pytest.mark.parametrize(("length", "temporal_convolution"), [(16, True), (128, True), (16, False)])
def test_idm_flops(length, temporal_convolution):
    idm = InverseDynamicsModel(**IDMS["paper"], temporal_convolution=temporal_convolution)
    frames = jax.ShapeDtypeStruct((1, length, 128, 128, 3), jnp.uint8)
    assert count_flops(idm, frames) / length == pytest.approx(idm_flops(idm, 128, 128, length), rel=0.01)


def test_latent_action_flops():
    frames = jax.ShapeDtypeStruct((1, 16, 128, 128, 3), jnp.uint8)
    model, idm = LatentActionModel(**LATENT_ACTIONS["full"]), LatentIDM(**LATENT_IDMS["full"])
    assert count_flops(model, frames) / 16 == pytest.approx(latent_action_flops(model, 128, 128, 16), rel=0.02)
    # Four of the frames that the encoder sees are the window's padding.
    counted, encoder = count_flops(idm, frames), latent_idm_flops(idm.clone(layers=0), 128, 128, 16)
    assert counted / 16 == pytest.approx(latent_idm_flops(idm, 128, 128, 16) + encoder / 4, rel=0.02)
