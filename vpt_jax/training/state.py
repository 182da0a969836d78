"""What training carries from step to step, and the step itself, whatever the objective."""

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
    memory: Any  # of every row's stream
    rng: UInt32[Array, "2"]  # a step's randomness is `fold_in(rng, step)`


class AnyState(Protocol):
    """What the loop and checkpoints need to know of a state."""

    @property
    def step(self) -> Int[Array, ""]:
        """How many are finished."""

    @property
    def params(self) -> Any:
        """The model's."""


State = TypeVar("State", bound=AnyState)


def initial_state(
    params: Any, optimizer: optax.GradientTransformation, memory: Any, rng: UInt32[Array | np.ndarray, "2"]
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), memory, jnp.asarray(rng))


def train_step(
    loss: Loss, optimizer: optax.GradientTransformation, state: TrainState, batch: Any, parts: int = 1
) -> tuple[TrainState, Metrics]:
    """One update. The memory is carried on without gradient: truncated backpropagation through time.

    The rows are worked through in `parts`, one after the other: as many times less memory for activations.
    """
    rng = jax.random.fold_in(state.rng, state.step)
    gradient_of_loss = jax.value_and_grad(loss, has_aux=True)
    if parts > 1:
        gradient_of_loss = _in_parts(gradient_of_loss, parts)
    (value, (metrics, memory)), gradient = gradient_of_loss(state.params, state.memory, batch, rng)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}
    return TrainState(state.step + 1, params, opt_state, memory, state.rng), metrics


def _in_parts(gradient_of_loss: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """The same function of the same rows, computed on some of them at a time and added up.

    A part counts by its `valid_frames`, so the sum is the mean over all valid frames, as of all rows at once.
    """

    def split(rows: Array) -> Array:  # every part takes rows of every device, so that none has to move
        return jnp.moveaxis(rows.reshape(len(rows) // parts, parts, *rows.shape[1:]), 1, 0)

    def join(rows: Array) -> Array:
        return jnp.moveaxis(rows, 0, 1).reshape(-1, *rows.shape[2:])

    def of_all(params: Any, memory: Any, batch: Any, rng: jax.Array) -> Any:
        def add(sums: Any, part: Any) -> tuple[Any, Any]:
            number, memory, batch = part
            rng_of_part = jax.random.fold_in(rng, number)
            (value, (metrics, memory)), gradient = gradient_of_loss(params, memory, batch, rng_of_part)
            weight = metrics["valid_frames"]
            sums = jax.tree.map(lambda total, of_part: total + weight * of_part, sums, (value, gradient))
            return sums, (weight, memory)

        none = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        split_rows = jax.tree.map(split, (memory, batch))
        sums, (weights, memory) = jax.lax.scan(add, none, (jnp.arange(parts), *split_rows))
        count = weights.sum()
        value, gradient = jax.tree.map(lambda total: total / jnp.maximum(count, 1), sums)
        return (value, ({"valid_frames": count}, jax.tree.map(join, memory))), gradient

    return of_all
