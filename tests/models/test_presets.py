"""Exact numbers of parameters of all presets, for MineRL's actions, at one size of the frames."""

import jax
import jax.numpy as jnp
import pytest

from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.latent_actions import LatentActionModel, LatentIDM
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import IDMS, LATENT_ACTIONS, LATENT_IDMS, POLICIES

POLICY_PARAMETERS = {  # preset -> height and width of the frames, parameters
    "nano": (16, 1_518_051),
    "tiny": (16, 1_674_251),
    "1m": (64, 1_088_619),
    "5m": (64, 5_028_211),
    "20m": (64, 20_117_819),
    "1x": (128, 70_998_651),
    "2x": (128, 248_495_291),
    "3x": (128, 532_504_315),
}
IDM_PARAMETERS = {
    "nano": (16, 211_378),
    "tiny": (16, 1_424_806),
    "1m": (64, 1_094_734),
    "5m": (64, 5_317_622),
    "20m": (64, 18_892_206),
    "paper": (128, 482_330_046),
    "paper_text": (128, 838_843_966),
}
LATENT_ACTION_PARAMETERS = {
    "nano": (16, 208_280),
    "tiny": (16, 316_508),
    "full": (128, 18_081_792),
}
LATENT_IDM_PARAMETERS = {
    "nano": (16, 263_186),
    "tiny": (16, 1_214_486),
    "full": (128, 38_145_822),
}


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_preset_is_counted():
    assert (POLICIES.keys(), IDMS.keys()) == (POLICY_PARAMETERS.keys(), IDM_PARAMETERS.keys())
    latent = LATENT_ACTION_PARAMETERS.keys(), LATENT_IDM_PARAMETERS.keys()
    assert (LATENT_ACTIONS.keys(), LATENT_IDMS.keys()) == latent


@pytest.mark.parametrize("preset", POLICY_PARAMETERS)
def test_parameters_of_policies(preset):
    size, parameters = POLICY_PARAMETERS[preset]
    policy = Policy(**POLICIES[preset])
    assert count(jax.eval_shape(lambda key: init_params(policy, (size, size, 3), key), jax.random.key(0))) == parameters


@pytest.mark.parametrize("preset", IDM_PARAMETERS)
def test_parameters_of_inverse_dynamics_models(preset):
    size, parameters = IDM_PARAMETERS[preset]
    frames = jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.uint8)
    assert count(jax.eval_shape(InverseDynamicsModel(**IDMS[preset]).init, jax.random.key(0), frames)) == parameters


@pytest.mark.parametrize("preset", LATENT_ACTION_PARAMETERS)
def test_parameters_of_latent_action_models(preset):
    size, parameters = LATENT_ACTION_PARAMETERS[preset]
    frames = jax.ShapeDtypeStruct((1, 2, size, size, 3), jnp.uint8)
    assert (
        count(jax.eval_shape(LatentActionModel(**LATENT_ACTIONS[preset]).init, jax.random.key(0), frames)) == parameters
    )


@pytest.mark.parametrize("preset", LATENT_IDM_PARAMETERS)
def test_parameters_of_inverse_dynamics_models_on_latent_actions(preset):
    size, parameters = LATENT_IDM_PARAMETERS[preset]
    frames = jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.uint8)
    assert count(jax.eval_shape(LatentIDM(**LATENT_IDMS[preset]).init, jax.random.key(0), frames)) == parameters
