"""Exact numbers of parameters of all presets, for MineRL's actions."""

import jax
import jax.numpy as jnp
import pytest

from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import IDMS, POLICIES

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


def count(shapes):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_preset_is_counted():
    assert (POLICIES.keys(), IDMS.keys()) == (POLICY_PARAMETERS.keys(), IDM_PARAMETERS.keys())


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
