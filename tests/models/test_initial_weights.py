"""Initial scale of every parameter, compared with values taken from the released code (fidelity D5).

That code scales its kernels to a norm per output (`FanInInitReLULayer`, `NormedLinear`, `fan_in_linear`), so the tables
hold for any width; they depend on the numbers of stacks and layers. `pytest -s` prints the measured values.
"""

import re
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.evaluation.baselines import FactoredMarginal, Marginal
from vpt_jax.models.idm import DIFFERENCE_SCALE, InverseDynamicsModel
from vpt_jax.models.policy import Policy
from vpt_jax.training.behavioural_cloning import cloning
from vpt_jax.training.inverse_dynamics import inverse_dynamics

FRAME = (8, 8, 3)
TOLERANCE = 0.01
KEY = jax.random.key(0, impl="rbg")  # one operation: the default generator compiles a program for every shape
ZERO, ONE, STD = "all 0", "all 1", "std"  # else: the norm of the weights into every output

COMMON = {  # path: measure, value
    r".*/(norm|final_norm)/scale": (ONE, 1.0),  # PyTorch's default: scale 1, shift 0
    r"(.*/)?(norm|final_norm)/bias": (ZERO, 0.0),
    r"final_norm/scale": (ONE, 1.0),
    r".*/bias|value/bias|aux_value/bias": (ZERO, 0.0),  # util.py: `self.layer.bias.data *= 0`
    r"encoder/stack_\d/first_conv/conv/kernel": ("norm", 1.0),  # util.py: `init_scale: int = 1`
    r"encoder/dense/dense/kernel": ("norm", 1.4),  # impala_cnn.py: `init_scale=1.4`
    r"encoder/project/dense/kernel": ("norm", 1.0),
    r"transformer/block_\d/attention/query/kernel": ("norm", 0.1),  # xf.py: Q_SCALE, K_SCALE, R_SCALE, B_SCALE
    r"transformer/block_\d/attention/key/kernel": ("norm", 0.2),
    r"transformer/block_\d/attention/relative/kernel": ("norm", 0.1),
    r"transformer/block_\d/attention/basis": (STD, 0.2),
    r"transformer/block_\d/mlp_in/dense/kernel": ("norm", 1.0),
    r"last/dense/kernel": ("norm", 1.0),
    r"actions/(buttons|camera)/kernel": ("norm", 0.01),  # action_head.py: `fan_in_linear(..., scale=0.01)`
    r"value/kernel|aux_value/kernel": ("norm", 1.0),  # scaled_mse_head.py: `fan_in_linear(self.linear)`
    r"temporal/conv/kernel": ("norm", 1.0),  # policy.py: the conv3d layer, a `FanInInitReLULayer` too
}
# impala_cnn.py: `init_scale=math.sqrt(len(chans))`, times 1 / sqrt(2) in a block; the square root per convolution.
CONVOLUTIONS = {2: 1.0, 3: 1.1067}
# util.py: `n_block ** -0.5 * 2 ** -0.5` for a block's mlp1; xf.py: its square root for values and projection.
BRANCHES = {1: (0.7071, 0.8409), 2: (0.5, 0.7071), 4: (0.35355, 0.59460)}

POLICY = Policy((8, 8, 8), 32, 2, layers=4, memory_length=4096, aux_value=True)  # long enough to estimate the std
IDM = InverseDynamicsModel(8, (8, 8, 8), 32, 2, layers=2)
SMALL_IDM = InverseDynamicsModel(8, (8, 8), 32, 2, layers=1)  # stacks and layers as in the demo


def expected(stacks, layers):
    mlp, attention = BRANCHES[layers]
    return COMMON | {
        r"encoder/stack_\d/block_\d/conv_\d/conv/kernel": ("norm", CONVOLUTIONS[stacks]),
        r"transformer/block_\d/attention/(value|out)/kernel": ("norm", attention),
        r"transformer/block_\d/mlp_out/kernel": ("norm", mlp),
    }


@lru_cache
def initial(model):
    """Initial parameters by path. Only the initializers are computed."""
    inputs = [jax.ShapeDtypeStruct((1, 1, *FRAME), jnp.uint8)]
    if isinstance(model, Policy):
        inputs += [jax.ShapeDtypeStruct((1, 1), bool), jax.eval_shape(lambda: model.initial_memory(1))]
    return by_path(jax.jit(lambda key: model.lazy_init(key, *inputs)["params"])(KEY))


def by_path(params):
    return {path: np.asarray(leaf, np.float64) for path, leaf in flatten_dict(params, sep="/").items()}


def measure_leaf(measure, leaf):
    """All values of a leaf that must equal the expected one."""
    if measure == STD:
        return np.sqrt(np.mean(leaf**2, keepdims=True))  # the mean is 0
    return leaf if measure in (ZERO, ONE) else np.linalg.norm(leaf.reshape(-1, leaf.shape[-1]), axis=0)


class FixedInitModel:
    """A stub of a model with the given initial parameters."""

    temperature = 1.0
    space, temporal_convolution = MINERL, True

    def __init__(self, params):
        self.params = unflatten_dict(params, sep="/")

    def init(self, *_):
        return {"params": self.params}

    def initial_memory(self, rows):
        return rows


@pytest.mark.parametrize("model", [POLICY, IDM, SMALL_IDM], ids=["policy", "idm", "small idm"])
def test_initial_parameters_have_the_references_scale(model):
    """All parameters of the policy and the inverse dynamics model (fidelity D5)."""
    table = expected(len(model.widths), model.layers)
    largest = 0.0
    for path, leaf in initial(model).items():
        rules = {rule for pattern, rule in table.items() if re.fullmatch(pattern, path)}
        assert len(rules) == 1, f"{path}: {rules}"
        ((measure, size),) = rules
        error = np.abs(measure_leaf(measure, leaf) - size).max() / (size or 1)
        largest = max(largest, error)
        mean = measure_leaf(measure, leaf).mean()
        print(f"{path:55} {measure:5} reference {size:<8g} ours {mean:<8.5g} error {error:.2%}")
        assert error < TOLERANCE, path
    print(f"largest difference: {largest:.3%}")


def test_distance_curves_are_normally_distributed():
    """`th.randn` for every entry, and different in every layer (fidelity D5)."""
    curves = {path: leaf for path, leaf in initial(POLICY).items() if path.endswith("basis")}
    first, *others = curves.values()
    assert all(np.abs(other - first).max() > 0.1 for other in others)
    for curve in curves.values():
        assert np.mean(curve**4) / np.mean(curve**2) ** 2 == pytest.approx(3.0, rel=0.1)


def test_residual_branches_have_the_references_gain():
    """1.2247 with three stacks; 0.41 would be IMPALA's and PPG's (fidelity D5)."""
    params = initial(POLICY)
    norms = [params[f"encoder/stack_1/block_0/conv_{i}/conv/kernel"].reshape(-1, 8) for i in range(2)]
    assert np.prod([np.linalg.norm(kernel, axis=0).mean() for kernel in norms]) == pytest.approx(1.2247, rel=TOLERANCE)


def test_init_options_change_only_their_parameters():
    """Without `start_at_marginal` and `temporal_difference` all equal the reference; with them, only what they name."""
    models = FixedInitModel(initial(SMALL_IDM)), FixedInitModel(initial(POLICY))
    default = inverse_dynamics(models[0], FRAME, None, False, False), cloning(models[1], FRAME, None)
    marginals = FactoredMarginal.uniform(MINERL), Marginal.uniform(MINERL)
    changed = (
        inverse_dynamics(models[0], FRAME, marginals[0], False, False, True),
        cloning(models[1], FRAME, marginals[1]),
    )
    idm_params, policy_params = (
        [by_path(objective.init(KEY)) for objective in both] for both in zip(default, changed, strict=True)
    )

    def differing(some, others):
        return {path for path, leaf in some.items() if not np.array_equal(leaf, others[path])}

    biases = {"actions/buttons/bias", "actions/camera/bias"}
    assert differing(*idm_params) == biases | {"temporal/conv/kernel"}
    assert all(not idm_params[0][path].any() for path in biases)
    changes = np.linalg.norm(idm_params[1]["temporal/conv/kernel"], axis=0)[:6]  # two halves of 4 each
    np.testing.assert_allclose(changes, DIFFERENCE_SCALE * 2**0.5, rtol=1e-5)
    assert differing(*policy_params) == biases
    assert not any(policy_params[0][path].any() for path in biases)
