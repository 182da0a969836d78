"""An iteration of phasic policy gradient: what is made of a rollout, step by step."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from vpt_jax.actions import JointAction
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.memory import Memory
from vpt_jax.models.policy import Policy
from vpt_jax.training.ppg.losses import Coefficients, Fragment, advantages, sleep_loss, wake_loss
from vpt_jax.training.state import Metrics


class Rollout(NamedTuple):
    """What `b` games showed in `t` turns, what was done and what came of it; values reach one turn further."""

    frames: UInt8[np.ndarray, "b t h w 3"]
    first: Bool[np.ndarray, "b t"]
    valid: Bool[np.ndarray, "b t"]  # an action was asked for and carried out
    action: JointAction
    log_prob: Float[np.ndarray, "b t"]
    value: Float[np.ndarray, "b t+1"]
    reward: Float[np.ndarray, "b t"]
    terminated: Bool[np.ndarray, "b t"]
    memory: Memory  # of the policy before the first turn


class LearnerState(NamedTuple):
    """Everything that a checkpoint must hold; `step` counts iterations."""

    step: Int[Array, ""]
    params: Any
    pretrained: Any  # parameters of the policy at the other end of the leash
    opt_state: optax.OptState
    normalizer: ValueNormalizer
    rng: UInt32[Array, "2"]  # an iteration's randomness is `fold_in(rng, step)`


class Recipe(NamedTuple):
    """How to learn, besides the optimizer (paper, table 6)."""

    weights: Coefficients = Coefficients()
    discount: float = 0.999
    gae_decay: float = 0.95
    leash: float = 0.2
    leash_decay: float = 0.9995  # by iteration
    sleep_cycles: int = 2
    normalize_advantages: bool = False  # to mean 0 and variance 1; the paper does not say that it does


Fragments = Callable[[], Iterator[Fragment]]


class Learner:
    """Compiled once; `learn` takes a rollout after the other.

    Args:
        policy: with an auxiliary value.
        optimizer: of all steps, of the wake and of the sleep.
        recipe: the rest.
        length: steps of a fragment, which is learnt from at once.
        shardings: of the state.
        by_rows: of streams and memories.
    """

    def __init__(
        self, policy: Policy, optimizer: optax.GradientTransformation, recipe: Recipe, length: int,
        shardings: LearnerState, by_rows: NamedSharding,
    ):  # fmt: skip
        self._recipe, self._length = recipe, length
        self._prepare = jax.jit(partial(prepare, recipe), out_shardings=(None, by_rows, by_rows))
        step = partial(jax.jit, out_shardings=(shardings, by_rows, by_rows, None))
        self.wake = step(partial(wake_step, policy, optimizer, recipe), donate_argnums=(0, 1, 2))
        self.sleep = step(partial(sleep_step, policy, optimizer, recipe), donate_argnums=(0, 2, 3))
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def learn(
        self, state: LearnerState, rollout: Rollout, pretrained_memory: Memory
    ) -> tuple[LearnerState, Memory, Metrics]:
        """An iteration: the wake cycle, then the sleep cycles, all of them over the fragments in the order of time.

        The rollout lies on the mesh. The pretrained policy's memory is the one before it; the one after is returned.
        """
        normalizer, *learnt = self._prepare(state.normalizer, rollout)
        fragments = partial(self._fragments, rollout, *learnt)  # cut anew in every cycle, to hold no copy of all
        state = state._replace(normalizer=normalizer)
        state, pretrained_memory, metrics = self._wake_cycle(state, rollout.memory, fragments, pretrained_memory)
        before = self._copy(state.params) if self._recipe.sleep_cycles else None
        for _ in range(self._recipe.sleep_cycles):
            state, slept = self._sleep_cycle(state, before, rollout.memory, fragments)
            metrics |= slept  # of the last one
        return state._replace(step=state.step + 1), pretrained_memory, metrics

    def _wake_cycle(
        self, state: LearnerState, memory: Memory, fragments: Fragments, pretrained_memory: Memory
    ) -> tuple[LearnerState, Memory, Metrics]:
        memory, steps = self._copy(memory), []
        for fragment in fragments():
            state, memory, pretrained_memory, metrics = self.wake(state, memory, pretrained_memory, fragment)
            steps.append(metrics)
        return state, pretrained_memory, _means(steps)

    def _sleep_cycle(
        self, state: LearnerState, before: Any, memory: Memory, fragments: Fragments
    ) -> tuple[LearnerState, Metrics]:
        memory, memory_before, steps = self._copy(memory), self._copy(memory), []
        for fragment in fragments():
            state, memory, memory_before, metrics = self.sleep(state, before, memory, memory_before, fragment)
            steps.append(metrics)
        return state, _means(steps)

    def _fragments(self, rollout: Rollout, *learnt: Array) -> Iterator[Fragment]:
        streams = Fragment(*(getattr(rollout, name) for name in Fragment._fields[:5]), *learnt)
        for start in range(0, rollout.first.shape[1], self._length):
            yield jax.tree.map(lambda rows, start=start: rows[:, start : start + self._length], streams)


def prepare(
    recipe: Recipe, normalizer: ValueNormalizer, rollout: Rollout
) -> tuple[ValueNormalizer, Float[Array, "b t"], Float[Array, "b t"]]:
    """The normaliser that has seen the values' targets, the advantages and these targets, of a rollout."""
    advantage = advantages(
        rollout.reward, rollout.value, rollout.valid, rollout.terminated, recipe.discount, recipe.gae_decay
    )
    target = advantage + rollout.value[:, :-1]
    normalizer = normalizer.update(target[..., None], rollout.valid)
    if recipe.normalize_advantages:
        count = jnp.maximum(rollout.valid.sum(), 1)
        centred = jnp.where(rollout.valid, advantage - advantage.sum() / count, 0)
        advantage = centred / jnp.sqrt((centred**2).sum() / count + 1e-8)
    return normalizer, advantage, target


def wake_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: LearnerState,
    memory: Memory,
    pretrained_memory: Memory,
    fragment: Fragment,
) -> tuple[LearnerState, Memory, Memory, Metrics]:
    """One update by `wake_loss`, and the memories after the fragment."""
    pretrained = policy.apply({"params": state.pretrained}, fragment.frames, fragment.first, pretrained_memory)
    leash = recipe.leash * recipe.leash_decay**state.step

    def loss(params: Any) -> Any:
        return wake_loss(policy, recipe.weights, params, memory, fragment, pretrained, state.normalizer, leash)

    state, memory, metrics = _update(loss, optimizer, state)
    return state, memory, pretrained.memory, metrics | {"leash": leash}


def sleep_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: LearnerState,
    before: Any,
    memory: Memory,
    memory_before: Memory,
    fragment: Fragment,
) -> tuple[LearnerState, Memory, Memory, Metrics]:
    """One update by `sleep_loss`; `before` are the parameters before the sleep, with a memory of their own."""
    said = policy.apply({"params": before}, fragment.frames, fragment.first, memory_before)

    def loss(params: Any) -> Any:
        return sleep_loss(policy, recipe.weights, params, memory, fragment, said, state.normalizer)

    state, memory, metrics = _update(loss, optimizer, state)
    return state, memory, said.memory, {f"sleep_{name}": value for name, value in metrics.items()}


def _update(
    loss: Callable[[Any], Any], optimizer: optax.GradientTransformation, state: LearnerState
) -> tuple[LearnerState, Memory, Metrics]:
    (value, (metrics, memory)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    state = state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    return state, memory, {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}


def _means(steps: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *of_steps: jnp.stack(of_steps).mean(), *steps)
