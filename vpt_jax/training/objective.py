"""What a stage of training is made of, whatever its model: the one thing the launcher and the loop know of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vpt_jax.actions import Array
from vpt_jax.evaluation.metrics import Predict
from vpt_jax.training.state import Loss


class Objective(NamedTuple):
    """A model's beginning, what it is to minimise, and what it says."""

    init: Callable[[jax.Array], Any]  # a random key to parameters
    initial_memory: Callable[[int], Any]  # a number of rows to the memory before the first batch
    loss: Loss
    predict: Predict


def start_at_marginal(params: Any, shares: Mapping[str, Float[Array, "..."]], temperature: float) -> Any:
    """The parameters, with the action heads' biases such that each class starts near its share of the actions.

    Our choice (`config.initial.start_at_marginal`); the paper is silent, and OpenAI's heads start with no bias. From
    there, a small model's first few hundred steps go into learning the frequencies by way of its features, which at
    learning rates above 1e-4 end up the same for every frame and stay so. From here, the first thing to learn is what
    the frames tell.
    """
    heads = {
        name: head | {"bias": temperature * jnp.log(jnp.asarray(shares[name], jnp.float32)).reshape(-1)}
        for name, head in params["actions"].items()
    }
    return params | {"actions": heads}
