"""Train state and train step of any objective: gradient accumulation, truncated backpropagation through time."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, UInt32

Metrics = dict[str, Any]  # scalars
# (params, memory, batch, rng) -> loss, (metrics, new memory)
Loss = Callable[[Any, Any, Any, jax.Array], tuple[Array, tuple[Metrics, Any]]]


class TrainState(NamedTuple):
    """Everything a checkpoint must hold; `step` counts finished steps and is the position in the data as well."""

    step: Int[Array, ""]
    params: Any
    opt_state: optax.OptState
    memory: Any  # recurrent state of every row's stream
    rng: UInt32[Array, "2"]  # a step's randomness is `fold_in(rng, step)`


class AnyState(Protocol):
    """Fields of a train state that the loop and checkpoints use."""

    @property
    def step(self) -> Int[Array, ""]:
        """Number of finished steps."""

    @property
    def params(self) -> Any:
        """Parameters of the model."""


State = TypeVar("State", bound=AnyState)


def initial_state(
    params: Any, optimizer: optax.GradientTransformation, memory: Any, rng: UInt32[Array | np.ndarray, "2"]
) -> TrainState:
    """Train state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), memory, jnp.asarray(rng))


def train_step(
    loss: Loss, optimizer: optax.GradientTransformation, state: TrainState, batch: Any, grad_accum_steps: int = 1
) -> tuple[TrainState, Metrics]:
    """One optimizer update. The memory is passed on without gradient: truncated backpropagation through time.

    Gradient accumulation: the rows of the batch are computed in `grad_accum_steps` microbatches, one after the other,
    which divides the memory for activations by that number.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    loss_and_gradient = jax.value_and_grad(loss, has_aux=True)
    if grad_accum_steps > 1:
        loss_and_gradient = _accumulate_gradients(loss_and_gradient, grad_accum_steps)
    (value, (metrics, memory)), gradient = loss_and_gradient(state.params, state.memory, batch, rng)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}
    return TrainState(state.step + 1, params, opt_state, memory, state.rng), metrics


def _accumulate_gradients(loss_and_gradient: Callable[..., Any], grad_accum_steps: int) -> Callable[..., Any]:
    """Computes loss and gradient of a batch as a sum over microbatches (gradient accumulation).

    A microbatch is weighted by its `valid_frames`, so the result is the mean over all valid frames, as for the whole
    batch at once.
    """

    def split(rows: Array) -> Array:  # each microbatch has rows of every device, so that no row has to move
        return jnp.moveaxis(rows.reshape(len(rows) // grad_accum_steps, grad_accum_steps, *rows.shape[1:]), 1, 0)

    def join(rows: Array) -> Array:
        return jnp.moveaxis(rows, 0, 1).reshape(-1, *rows.shape[2:])

    def accumulated(params: Any, memory: Any, batch: Any, rng: jax.Array) -> Any:
        def add(sums: Any, microbatch: Any) -> tuple[Any, Any]:
            index, memory, batch = microbatch
            microbatch_rng = jax.random.fold_in(rng, index)
            (value, (metrics, memory)), gradient = loss_and_gradient(params, memory, batch, microbatch_rng)
            weight = metrics["valid_frames"]
            sums = jax.tree.map(lambda total, term: total + weight * term, sums, (value, gradient))
            return sums, (weight, memory)

        zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        microbatches = jax.tree.map(split, (memory, batch))
        sums, (weights, memory) = jax.lax.scan(add, zeros, (jnp.arange(grad_accum_steps), *microbatches))
        count = weights.sum()
        value, gradient = jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
        return (value, ({"valid_frames": count}, jax.tree.map(join, memory))), gradient

    return accumulated
