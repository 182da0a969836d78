"""What training carries from step to step, and the step itself, whatever the objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt32

Metrics = dict[str, Array]
# (params, memory, batch, rng) -> loss, (metrics, new memory)
Loss = Callable[[Any, Any, Any, jax.Array], tuple[Array, tuple[Metrics, Any]]]


class TrainState(NamedTuple):
    """Everything a checkpoint must hold; `step` counts finished steps and is the position in the data as well."""

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    memory: Any  # of every row's stream
    rng: UInt32[Array, "2"]  # a step's randomness is `fold_in(rng, step)`


def initial_state(
    params: Any, optimizer: optax.GradientTransformation, memory: Any, rng: UInt32[Array, "2"]
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), memory, rng)


def train_step(
    loss: Loss, optimizer: optax.GradientTransformation, state: TrainState, batch: Any
) -> tuple[TrainState, Metrics]:
    """One update. The memory is carried on without gradient: truncated backpropagation through time."""
    rng = jax.random.fold_in(state.rng, state.step)
    gradient_of_loss = jax.value_and_grad(loss, has_aux=True)
    (value, (metrics, memory)), gradient = gradient_of_loss(state.params, state.memory, batch, rng)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}
    return TrainState(state.step + 1, params, opt_state, memory, state.rng), metrics
