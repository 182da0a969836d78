"""One iteration of phasic policy gradient (PPG): minibatches of a rollout, and the updates of wake and sleep phase.

A rollout is split into segments of equal length. A minibatch has one random segment of every game: in a cycle each
segment of each game is used once, and the segments of a minibatch are from different times. PPG's code draws
(environment, segment) pairs freely (`make_minibatches`), so that a game may be in one minibatch twice and absent from
the next; here every minibatch has all environments, so that no row leaves its device, and the draw is the same for any
number of hosts.

A segment's recurrent state, the KV cache of the frames before it, is the one with which the policy acted (PPG's
`state_in`). It takes `2 x layers x memory_length x features` numbers for each game and segment: 4 MiB for the 248M
policy in bfloat16, so 7.5 GiB for the paper's 40 environments x 48 segments, sharded over the devices like the rows.
The logits of the reference policy of each KL (the pretrained policy in the wake phase, the one before the sleep phase)
are computed once for the whole rollout, in float32: 8,762 numbers per frame with the joint head of MineRL's space, 8.0
GiB in the paper's setting.
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

from vpt_jax.models.heads import Action, logit_shapes
from vpt_jax.models.kv_cache import KVCache
from vpt_jax.models.policy import Policy
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.losses import (
    Logits,
    LossWeights,
    Segment,
    compute_gae,
    explained_variance,
    sleep_loss,
    wake_loss,
)
from vpt_jax.training.state import Metrics

_SHUFFLE = 0x5EED  # folded into the key: segment order and actions share it, and must be independent


class Rollout(NamedTuple):
    """Rollout of `b` environments over `t` steps: observations, actions and outcomes; values reach one step further."""

    frames: UInt8[np.ndarray, "b t h w 3"]
    first: Bool[np.ndarray, "b t"]
    valid: Bool[np.ndarray, "b t"]  # an action was sampled and carried out
    action: Action  # in the head's form
    log_prob: Float[np.ndarray, "b t"]
    value: Float[np.ndarray, "b t+1"]
    reward: Float[np.ndarray, "b t"]
    terminated: Bool[np.ndarray, "b t"]
    truncated: Bool[np.ndarray, "b t"]  # the game's time limit cut the episode after this step
    memory: KVCache  # of the policy before each segment: leaves `[b, segments, ...]`


class OptStates(NamedTuple):
    """Optimizer states of the two phases."""

    wake: optax.OptState
    sleep: optax.OptState


class LearnerState(NamedTuple):
    """Training state, as stored in a checkpoint; `step` counts iterations."""

    step: Int[Array, ""]
    params: Any
    pretrained: Any  # parameters of the pretrained policy, for the KL penalty
    opt_state: optax.OptState | OptStates
    normalizer: ValueNormalizer
    rng: UInt32[Array, "2"]  # key of an iteration: `fold_in(rng, step)`


class PPGConfig(NamedTuple):
    """Hyperparameters of PPG, except the optimizer's; configs/rl_base.py names the source of every default."""

    weights: LossWeights = LossWeights()
    discount: float = 0.999
    gae_lambda: float = 0.95
    bootstrap_on_truncation: bool = False  # from the value of the last frame, where a time limit cut an episode
    normalize_advantages: bool = True  # to mean 0 and variance 1 over a rollout
    kl_pretrained_coef: float = 0.2  # coefficient of the KL to the pretrained policy
    kl_pretrained_decay: float = 0.9995  # of that coefficient, per iteration
    wake_cycles: int = 1  # epochs of the wake phase over a rollout
    sleep_cycles: int = 2  # epochs of the sleep phase over a rollout
    shuffle_segments: bool = True  # False: in temporal order, the same segment of all environments
    sleep_optimizer: bool = True  # True: a separate optimizer state for the sleep phase


Step = Callable[[LearnerState, KVCache, Segment, Logits | None], tuple[LearnerState, Metrics]]


class Learner:
    """PPG update: the compiled functions of one iteration; call `learn` with each rollout.

    Args:
        policy: with an auxiliary value head.
        optimizer: of the updates of both phases.
        ppg_config: hyperparameters.
        length: number of steps in a segment (truncated backpropagation through time).
        shardings: of the state.
        row_sharding: of streams and KV caches.
        has_pretrained: True: the wake phase has a KL penalty to the pretrained policy; False (random initial
            parameters): that policy is not evaluated.
    """

    def __init__(
        self, policy: Policy, optimizer: optax.GradientTransformation, ppg_config: PPGConfig, length: int,
        shardings: LearnerState, row_sharding: NamedSharding, has_pretrained: bool = True,
    ):  # fmt: skip
        self._ppg_config, self._length, self._has_pretrained = ppg_config, length, has_pretrained
        targets = (row_sharding, row_sharding, None)
        self._compute_targets = jax.jit(partial(compute_targets, ppg_config), out_shardings=targets)
        step = partial(jax.jit, out_shardings=(shardings, None), donate_argnums=0)
        self.wake = step(partial(wake_step, policy, optimizer, ppg_config))
        self.sleep = step(partial(sleep_step, policy, optimizer, ppg_config))
        logits = partial(segment_logits, policy, length)
        self.segment_logits = jax.jit(logits, out_shardings=row_sharding, donate_argnums=3)
        self._order = jax.jit(segment_order, static_argnums=(3, 4), out_shardings=row_sharding)
        self._take_segments = jax.jit(partial(take_segments, length), out_shardings=row_sharding)
        self._segment_memory = jax.jit(segment_memory, out_shardings=row_sharding)
        self._empty_logits = jax.jit(partial(empty_logits, policy), static_argnums=(0, 1), out_shardings=row_sharding)

    def learn(
        self, state: LearnerState, rollout: Rollout, pretrained_memory: KVCache
    ) -> tuple[LearnerState, KVCache, Metrics]:
        """Run one iteration: the wake cycles, then the sleep cycles.

        The rollout is on the mesh. `pretrained_memory` is the KV cache of the pretrained policy before the rollout; the
        one after it is returned.
        """
        advantage, target, target_metrics = self._compute_targets(rollout)
        streams = Segment(
            rollout.frames, rollout.first, rollout.valid, rollout.action, rollout.log_prob, advantage, target
        )
        state, pretrained_memory, metrics = self._wake_phase(state, rollout, streams, pretrained_memory)
        state, sleep_metrics = self._sleep_phase(state, rollout, streams)
        return state._replace(step=state.step + 1), pretrained_memory, metrics | sleep_metrics | target_metrics

    def _wake_phase(
        self, state: LearnerState, rollout: Rollout, streams: Segment, pretrained_memory: KVCache
    ) -> tuple[LearnerState, KVCache, Metrics]:
        logits, steps = None, []
        if self._has_pretrained:
            logits, pretrained_memory = self._pretrained_logits(state.pretrained, rollout, pretrained_memory)
        for cycle in range(self._ppg_config.wake_cycles):
            state, cycle_metrics = self._cycle(self.wake, state, cycle, streams, rollout.memory, logits)
            steps += cycle_metrics
        # Before the first update both policies have the same parameters: this KL is due to programs and dtypes alone.
        return state, pretrained_memory, _mean_metrics(steps) | {"kl_acting_first": steps[0]["kl_acting"]}

    def _sleep_phase(self, state: LearnerState, rollout: Rollout, streams: Segment) -> tuple[LearnerState, Metrics]:
        """Sleep (auxiliary) phase: run the sleep cycles; the metrics are those of the last one."""
        if not self._ppg_config.sleep_cycles:
            return state, {}
        logits = self._old_logits(state.params, rollout)
        for cycle in range(self._ppg_config.sleep_cycles):
            number = self._ppg_config.wake_cycles + cycle
            state, steps = self._cycle(self.sleep, state, number, streams, rollout.memory, logits)
        return state, _mean_metrics(steps)

    def _cycle(
        self, step: Step, state: LearnerState, number: int, streams: Segment, memory: KVCache, logits: Logits | None
    ) -> tuple[LearnerState, list[Metrics]]:
        """Use every segment of every game once: one epoch."""
        rows, num_steps = streams.first.shape
        segments = num_steps // self._length
        shuffle = self._ppg_config.shuffle_segments
        order = self._order(state.rng, state.step, np.int32(number), (rows, segments), shuffle)
        metrics = []
        for batch in range(segments):
            state, step_metrics = step(state, *self._take_segments(order, np.int32(batch), memory, streams, logits))
            metrics.append(step_metrics)
        return state, metrics

    def _pretrained_logits(self, params: Any, rollout: Rollout, memory: KVCache) -> tuple[Logits, KVCache]:
        """Logits of the pretrained policy, in temporal order; its KV cache continues from rollout to rollout."""
        logits = self._empty_logits(*rollout.first.shape)
        for index in range(rollout.first.shape[1] // self._length):
            logits, memory = self.segment_logits(params, memory, rollout, logits, np.int32(index))
        return logits, memory

    def _old_logits(self, params: Any, rollout: Rollout) -> Logits:
        """Logits of the policy before the sleep phase, from the same KV caches (PPG's `compute_presleep_outputs`)."""
        logits = self._empty_logits(*rollout.first.shape)
        for index in range(rollout.first.shape[1] // self._length):
            memory = self._segment_memory(rollout.memory, np.int32(index))
            logits, _ = self.segment_logits(params, memory, rollout, logits, np.int32(index))
        return logits


def segment_order(
    rng: UInt32[Array, "2"], step: Int[Array, ""], cycle: Int[Array, ""], shape: tuple[int, int], shuffle: bool
) -> Int[Array, "b segments"]:
    """Returns the segment of each game in every minibatch of a cycle: a random permutation per game."""
    if not shuffle:
        return jnp.broadcast_to(jnp.arange(shape[1]), shape)
    for number in (_SHUFFLE, step, cycle):
        rng = jax.random.fold_in(rng, number)
    return jnp.argsort(jax.random.uniform(rng, shape), axis=1)


def take_segments(
    length: int, order: Int[Array, "b segments"], batch: Int[Array, ""], memory: KVCache, *streams: Any
) -> tuple[Any, ...]:
    """Returns minibatch `batch`: for each game, KV cache and streams of the segment `order[game, batch]`."""
    chosen = order[:, batch]

    def memory_at(rows: Array) -> Array:
        return jax.vmap(lambda row, index: row[index])(rows, chosen)

    def stream_at(rows: Array) -> Array:
        cut = partial(jax.lax.dynamic_slice_in_dim, slice_size=length)
        return jax.vmap(cut)(rows, chosen * length)

    return jax.tree.map(memory_at, memory), *jax.tree.map(stream_at, streams)


def segment_memory(memory: KVCache, index: Int[Array, ""]) -> KVCache:
    """Returns the KV caches of all environments before a segment."""
    return jax.tree.map(lambda rows: rows[:, index], memory)


def empty_logits(policy: Policy, rows: int, num_steps: int) -> Logits:
    """Returns a buffer of zeros for the logits of a rollout."""
    shapes = logit_shapes(policy.head, policy.space)
    return {name: jnp.zeros((rows, num_steps, *shape), jnp.float32) for name, shape in shapes.items()}


def segment_logits(
    policy: Policy, length: int, params: Any, memory: KVCache, rollout: Rollout, logits: Logits, index: Int[Array, ""]
) -> tuple[Logits, KVCache]:
    """Write a policy's logits of a segment of all environments into `logits`; also returns the KV cache after it."""
    start = index * length
    frames, first = (
        jax.lax.dynamic_slice_in_dim(rows, start, length, axis=1) for rows in (rollout.frames, rollout.first)
    )
    output = policy.apply({"params": params}, frames, first, memory)

    def update(buffer: Array, values: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, values, start, axis=1)

    return jax.tree.map(update, logits, output.logits), output.memory


def compute_targets(
    ppg_config: PPGConfig, rollout: Rollout
) -> tuple[Float[Array, "b t"], Float[Array, "b t"], Metrics]:
    """Returns the advantages (GAE), the value targets, and metrics of a rollout.

    A truncation by the game's time limit counts as a termination, like every end in PPG's code (`notlast = 1 - first`),
    unless `bootstrap_on_truncation`. An episode that was cut for other reasons (a lost game, a shortened first episode)
    always bootstraps: no limit of the task has been reached.
    """
    ended = rollout.terminated if ppg_config.bootstrap_on_truncation else rollout.terminated | rollout.truncated
    decays = ppg_config.discount, ppg_config.gae_lambda
    advantage = compute_gae(rollout.reward, rollout.value, rollout.valid, ended, *decays)
    target = advantage + rollout.value[:, :-1]
    metrics = {"explained_variance": explained_variance(rollout.value[:, :-1], target, rollout.valid)}
    if ppg_config.normalize_advantages:
        count = jnp.maximum(rollout.valid.sum(), 1)
        centred = jnp.where(rollout.valid, advantage - advantage.sum() / count, 0)
        advantage = centred / jnp.sqrt((centred**2).sum() / count + 1e-8)
    return advantage, target, metrics


def wake_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    ppg_config: PPGConfig,
    state: LearnerState,
    memory: KVCache,
    segment: Segment,
    pretrained_logits: Logits | None,
) -> tuple[LearnerState, Metrics]:
    """One update with `wake_loss`; first updates the normalizer with the minibatch's targets, as the reference."""
    state = _update_normalizer(state, segment)
    kl_pretrained_coef = ppg_config.kl_pretrained_coef * ppg_config.kl_pretrained_decay**state.step

    def loss(params: Any) -> Any:
        return wake_loss(
            policy, ppg_config.weights, params, memory, segment, pretrained_logits, state.normalizer, kl_pretrained_coef
        )

    state, metrics = _update(loss, optimizer, state, "wake")
    return state, metrics | ({} if pretrained_logits is None else {"kl_pretrained_coef": kl_pretrained_coef})


def sleep_step(
    policy: Policy,
    optimizer: optax.GradientTransformation,
    ppg_config: PPGConfig,
    state: LearnerState,
    memory: KVCache,
    segment: Segment,
    old_logits: Logits,
) -> tuple[LearnerState, Metrics]:
    """One update with `sleep_loss`, and the sleep optimizer state if there is one; normalizer as in `wake_step`."""
    state = _update_normalizer(state, segment)

    def loss(params: Any) -> Any:
        return sleep_loss(policy, ppg_config.weights, params, memory, segment, old_logits, state.normalizer)

    state, metrics = _update(loss, optimizer, state, "sleep")
    return state, {f"sleep_{name}": value for name, value in metrics.items()}


def _update_normalizer(state: LearnerState, segment: Segment) -> LearnerState:
    return state._replace(normalizer=state.normalizer.update(segment.target[..., None], segment.valid))


def _update(
    loss: Callable[[Any], Any], optimizer: optax.GradientTransformation, state: LearnerState, phase: str
) -> tuple[LearnerState, Metrics]:
    """One optimizer update; `phase` selects the optimizer state where there are two."""
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    states = state.opt_state
    phase_state = getattr(states, phase) if isinstance(states, OptStates) else states
    updates, phase_state = optimizer.update(gradient, phase_state, state.params)
    opt_state = states._replace(**{phase: phase_state}) if isinstance(states, OptStates) else phase_state
    state = state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
    return state, {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}


def _mean_metrics(steps: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: jnp.stack(values).mean(), *steps)
