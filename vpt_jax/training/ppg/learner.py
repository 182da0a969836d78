"""An iteration of phasic policy gradient: minibatches of a rollout, and the updates of wake and sleep.

A rollout is cut into segments of equal length. A minibatch has one segment of every game, drawn at random: over a cycle
each segment of each game is used once, and the segments of a minibatch lie at different times. PPG's code draws
(environment, segment) pairs freely (`make_minibatches`), so that a game may be in a minibatch twice and in the next not
at all; here every minibatch has all games, so that no row leaves its device, and any number of hosts draws the same.

A segment's recurrent state, the KV cache of the frames before it, is the one with which the policy acted (PPG's
`state_in`). It takes `2 x layers x memory_length x features` numbers for each game and segment: 4 MiB of the 248M
policy in bfloat16, so 7.5 GiB for the paper's 40 games x 48 segments, split over the devices as the rows are. The
logits of the policy that KLs refer to (the pretrained one in the wake, the one before the sleep) are computed once for
the whole rollout, in float32: 8,762 numbers a frame, 8.0 GiB there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from vpt_jax.actions import JointAction
from vpt_jax.models.heads import HEAD_CLASSES, ValueNormalizer
from vpt_jax.models.kv_cache import Memory
from vpt_jax.models.policy import Policy
from vpt_jax.training.ppg.losses import (
    Coefficients,
    Fragment,
    Logits,
    advantages,
    explained_variance,
    sleep_loss,
    wake_loss,
)
from vpt_jax.training.state import Metrics

_SHUFFLE = 0x5EED  # keeps the order of segments apart from the randomness of actions, which has the same key


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
    truncated: Bool[np.ndarray, "b t"]  # the game's time limit cut the episode after this step
    memory: Memory  # of the policy before each segment: leaves `[b, segments, ...]`


class OptStates(NamedTuple):
    """One for each phase."""

    wake: optax.OptState
    sleep: optax.OptState


class LearnerState(NamedTuple):
    """Everything that a checkpoint must hold; `step` counts iterations."""

    step: Int[Array, ""]
    params: Any
    pretrained: Any  # parameters of the policy at the other end of the leash
    opt_state: optax.OptState | OptStates
    normalizer: ValueNormalizer
    rng: UInt32[Array, "2"]  # an iteration's randomness is `fold_in(rng, step)`


class Recipe(NamedTuple):
    """Hyperparameters of PPG, besides the optimizer's; configs/rl_base.py names the source of every default."""

    weights: Coefficients = Coefficients()
    discount: float = 0.999
    gae_decay: float = 0.95
    bootstrap_on_truncation: bool = False  # from the value of the last picture, where a time limit cut an episode
    normalize_advantages: bool = True  # to mean 0 and variance 1 over a rollout
    leash: float = 0.2
    leash_decay: float = 0.9995  # by iteration
    wake_cycles: int = 1  # times that the wake uses every sample
    sleep_cycles: int = 2  # times that the sleep does
    shuffle_segments: bool = True  # False: in the order of time, all games at once
    sleep_optimizer: bool = True  # an optimizer state of the sleep's own


Step = Callable[[LearnerState, Memory, Fragment, Logits | None], tuple[LearnerState, Metrics]]


class Learner:
    """Compiled once; `learn` takes a rollout after the other.

    Args:
        policy: with an auxiliary value.
        optimizer: of all steps, of the wake and of the sleep.
        recipe: the rest.
        length: steps of a segment, which is learnt from at once.
        shardings: of the state.
        by_rows: of streams and memories.
        anchored: whether KLs refer to a pretrained policy; else it is not computed, as from random parameters.
    """

    def __init__(
        self, policy: Policy, optimizer: optax.GradientTransformation, recipe: Recipe, length: int,
        shardings: LearnerState, by_rows: NamedSharding, anchored: bool = True,
    ):  # fmt: skip
        self._recipe, self._length, self._anchored = recipe, length, anchored
        self._prepare = jax.jit(partial(prepare, recipe), out_shardings=(by_rows, by_rows, None))
        step = partial(jax.jit, out_shardings=(shardings, None), donate_argnums=0)
        self.wake = step(partial(wake_step, policy, optimizer, recipe))
        self.sleep = step(partial(sleep_step, policy, optimizer, recipe))
        self.follow = jax.jit(partial(follow, policy, length), out_shardings=by_rows, donate_argnums=3)
        self._order = jax.jit(segment_order, static_argnums=(3, 4), out_shardings=by_rows)
        self._take = jax.jit(partial(take_segments, length), out_shardings=by_rows)
        self._nth = jax.jit(nth_memory, out_shardings=by_rows)
        self._no_logits = jax.jit(no_logits, static_argnums=(0, 1), out_shardings=by_rows)

    def learn(
        self, state: LearnerState, rollout: Rollout, pretrained_memory: Memory
    ) -> tuple[LearnerState, Memory, Metrics]:
        """An iteration: the wake cycles, then the sleep cycles.

        The rollout lies on the mesh. The pretrained policy's memory is the one before it; the one after is returned.
        """
        advantage, target, figures = self._prepare(rollout)
        streams = Fragment(
            rollout.frames, rollout.first, rollout.valid, rollout.action, rollout.log_prob, advantage, target
        )
        state, pretrained_memory, metrics = self._wake_phase(state, rollout, streams, pretrained_memory)
        state, slept = self._sleep_phase(state, rollout, streams)
        return state._replace(step=state.step + 1), pretrained_memory, metrics | slept | figures

    def _wake_phase(
        self, state: LearnerState, rollout: Rollout, streams: Fragment, pretrained_memory: Memory
    ) -> tuple[LearnerState, Memory, Metrics]:
        logits, steps = None, []
        if self._anchored:
            logits, pretrained_memory = self._pretrained_logits(state.pretrained, rollout, pretrained_memory)
        for cycle in range(self._recipe.wake_cycles):
            state, woken = self._cycle(self.wake, state, cycle, streams, rollout.memory, logits)
            steps += woken
        # Before the first update, the policies are the same: their programs and number formats differ.
        return state, pretrained_memory, _means(steps) | {"kl_acting_first": steps[0]["kl_acting"]}

    def _sleep_phase(self, state: LearnerState, rollout: Rollout, streams: Fragment) -> tuple[LearnerState, Metrics]:
        """The figures are of the last cycle."""
        if not self._recipe.sleep_cycles:
            return state, {}
        logits = self._own_logits(state.params, rollout)
        for cycle in range(self._recipe.sleep_cycles):
            number = self._recipe.wake_cycles + cycle
            state, steps = self._cycle(self.sleep, state, number, streams, rollout.memory, logits)
        return state, _means(steps)

    def _cycle(
        self, step: Step, state: LearnerState, number: int, streams: Fragment, memory: Memory, logits: Logits | None
    ) -> tuple[LearnerState, list[Metrics]]:
        """Use every segment of every game once."""
        rows, turns = streams.first.shape
        segments = turns // self._length
        order = self._order(state.rng, state.step, np.int32(number), (rows, segments), self._recipe.shuffle_segments)
        metrics = []
        for batch in range(segments):
            state, of_step = step(state, *self._take(order, np.int32(batch), memory, streams, logits))
            metrics.append(of_step)
        return state, metrics

    def _pretrained_logits(self, params: Any, rollout: Rollout, memory: Memory) -> tuple[Logits, Memory]:
        """In the order of time, with a memory of its own that goes on from rollout to rollout."""
        logits = self._no_logits(*rollout.first.shape)
        for segment in range(rollout.first.shape[1] // self._length):
            logits, memory = self.follow(params, memory, rollout, logits, np.int32(segment))
        return logits, memory

    def _own_logits(self, params: Any, rollout: Rollout) -> Logits:
        """Of the policy before the sleep, from the memories that the sleep takes (PPG's `compute_presleep_outputs`)."""
        logits = self._no_logits(*rollout.first.shape)
        for segment in range(rollout.first.shape[1] // self._length):
            memory = self._nth(rollout.memory, np.int32(segment))
            logits, _ = self.follow(params, memory, rollout, logits, np.int32(segment))
        return logits


def segment_order(
    rng: UInt32[Array, "2"], step: Int[Array, ""], cycle: Int[Array, ""], shape: tuple[int, int], shuffle: bool
) -> Int[Array, "b segments"]:
    """The segment of each game in every minibatch of a cycle: a permutation for each game."""
    if not shuffle:
        return jnp.broadcast_to(jnp.arange(shape[1]), shape)
    for number in (_SHUFFLE, step, cycle):
        rng = jax.random.fold_in(rng, number)
    return jnp.argsort(jax.random.uniform(rng, shape), axis=1)


def take_segments(
    length: int, order: Int[Array, "b segments"], batch: Int[Array, ""], memory: Memory, *streams: Any
) -> tuple[Any, ...]:
    """A minibatch: of each game the segment that is its `batch`-th in `order`. The memories there, and the streams."""
    chosen = order[:, batch]

    def memory_at(rows: Array) -> Array:
        return jax.vmap(lambda row, segment: row[segment])(rows, chosen)

    def stream_at(rows: Array) -> Array:
        cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=length)
        return jax.vmap(cut)(rows, chosen * length)

    return jax.tree.map(memory_at, memory), *jax.tree.map(stream_at, streams)


def nth_memory(memory: Memory, segment: Int[Array, ""]) -> Memory:
    """All games' memories before a segment."""
    return jax.tree.map(lambda rows: rows[:, segment], memory)


def no_logits(rows: int, turns: int) -> Logits:
    """Room for those of a rollout."""
    return {head: jnp.zeros((rows, turns, classes), jnp.float32) for head, classes in HEAD_CLASSES.items()}


def follow(
    policy: Policy, length: int, params: Any, memory: Memory, rollout: Rollout, logits: Logits, segment: Int[Array, ""]
) -> tuple[Logits, Memory]:
    """Writes a policy's logits of a segment of all games into `logits`; also returns the memory after it."""
    start = segment * length
    frames, first = (
        jax.lax.dynamic_slice_in_dim(rows, start, length, axis=1) for rows in (rollout.frames, rollout.first)
    )
    output = policy.apply({"params": params}, frames, first, memory)

    def put(whole: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=1)

    return jax.tree.map(put, logits, output.logits), output.memory


def prepare(recipe: Recipe, rollout: Rollout) -> tuple[Float[Array, "b t"], Float[Array, "b t"], Metrics]:
    """The advantages, the values' targets, and figures of a rollout.

    An episode that the game's time limit cut has ended, as every end in PPG's code (`notlast = 1 - first`), unless the
    recipe bootstraps there. One that was cut for other reasons (a game was lost, the first episodes are shortened)
    always bootstraps: no limit of the task has been reached.
    """
    ended = rollout.terminated if recipe.bootstrap_on_truncation else rollout.terminated | rollout.truncated
    advantage = advantages(rollout.reward, rollout.value, rollout.valid, ended, recipe.discount, recipe.gae_decay)
    target = advantage + rollout.value[:, :-1]
    figures = {"explained_variance": explained_variance(rollout.value[:, :-1], target, rollout.valid)}
    if recipe.normalize_advantages:
        count = jnp.maximum(rollout.valid.sum(), 1)
        centred = jnp.where(rollout.valid, advantage - advantage.sum() / count, 0)
        advantage = centred / jnp.sqrt((centred**2).sum() / count + 1e-8)
    return advantage, target, figures


def wake_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: LearnerState,
    memory: Memory,
    fragment: Fragment,
    pretrained: Logits | None,
) -> tuple[LearnerState, Metrics]:
    """One update by `wake_loss`; the normaliser takes the minibatch's targets in first, as the reference's loss."""
    state = _note_targets(state, fragment)
    leash = recipe.leash * recipe.leash_decay**state.step

    def loss(params: Any) -> Any:
        return wake_loss(policy, recipe.weights, params, memory, fragment, pretrained, state.normalizer, leash)

    state, metrics = _update(loss, optimizer, state, "wake")
    return state, metrics | ({} if pretrained is None else {"leash": leash})


def sleep_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    state: LearnerState,
    memory: Memory,
    fragment: Fragment,
    before: Logits,
) -> tuple[LearnerState, Metrics]:
    """One update by `sleep_loss`, by the sleep's own optimizer state if there is one; the normaliser as in the wake."""
    state = _note_targets(state, fragment)

    def loss(params: Any) -> Any:
        return sleep_loss(policy, recipe.weights, params, memory, fragment, before, state.normalizer)

    state, metrics = _update(loss, optimizer, state, "sleep")
    return state, {f"sleep_{name}": value for name, value in metrics.items()}


def _note_targets(state: LearnerState, fragment: Fragment) -> LearnerState:
    return state._replace(normalizer=state.normalizer.update(fragment.target[..., None], fragment.valid))


def _update(
    loss: Callable[[Any], Any], optimizer: optax.GradientTransformation, state: LearnerState, phase: str
) -> tuple[LearnerState, Metrics]:
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    both = state.opt_state
    own = getattr(both, phase) if isinstance(both, OptStates) else both
    updates, own = optimizer.update(gradient, own, state.params)
    opt_state = both._replace(**{phase: own}) if isinstance(both, OptStates) else own
    state = state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}


def _means(steps: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *of_steps: jnp.stack(of_steps).mean(), *steps)
