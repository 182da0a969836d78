"""Interface between a training stage's model and the rest: the launcher and the loop use nothing else of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vpt_jax.actions.quantizer import Array
from vpt_jax.evaluation.metrics import Measure, Predict
from vpt_jax.training.state import Loss


class Objective(NamedTuple):
    """A model's initialization, loss and predictions, as pure functions."""

    init: Callable[[jax.Array], Any]  # random key -> parameters
    initial_memory: Callable[[int], Any]  # number of rows -> memory before the first batch
    loss: Loss
    predict: Predict
    measures: Mapping[str, Measure]  # of the predictions; checkpoints are selected by the first, called `valid`


def start_at_marginal(params: Any, shares: Mapping[str, Float[Array, "..."]], temperature: float) -> Any:
    """Initializes the action heads' biases to the log marginal, so that each class starts near its share of actions.

    Our choice (`config.initial.start_at_marginal`); the paper does not specify it, and OpenAI's heads start with no
    bias. Without a bias, a small model spends its first few hundred steps learning the frequencies through its
    features, which at learning rates above 3e-4 collapse to the same value for every frame and stay there. With it,
    the first thing to learn is how actions depend on the frames.

    Args:
        params: of the model; `params["actions"]` holds the heads.
        shares: marginal probabilities by head.
        temperature: by which the model divides its logits.
    """
    heads = {
        name: params["actions"][name] | {"bias": temperature * jnp.log(jnp.asarray(share, jnp.float32)).reshape(-1)}
        for name, share in shares.items()
        if name in params["actions"]  # a space without axes has no camera
    }
    return params | {"actions": params["actions"] | heads}
