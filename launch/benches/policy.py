"""How fast the policy trains and acts. Needs no library for data, so it runs wherever JAX does."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from benches.measuring import BATCH, DTYPE, LENGTH, SIZE, Row, alternate, peak_memory, repeat, timed

from vpt_jax.data.batch import Batch
from vpt_jax.models.convolution import conv3x3
from vpt_jax.models.flops import TRAINING, conv_flops, policy_flops
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import POLICIES
from vpt_jax.training import state as training
from vpt_jax.training.behavioural_cloning import cloning_loss
from vpt_jax.training.optimizers import adam, linear_schedule

_PRESET = flags.DEFINE_enum("preset", "tiny", list(POLICIES), "Size of the policy.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute the image stacks in the backward pass.")
_AGAINST = flags.DEFINE_enum("against", "none", ["none", "torch"], "Also measure the policy written in PyTorch.")

ERRORS: tuple[type[Exception], ...] = ()
_SQUARE = 4096
_BUDGET = 50  # milliseconds from frame to frame of the games


def train_step() -> list[Row]:
    """Updates on random frames that lie on the device."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    optimizer = adam(linear_schedule(1e-4, 10, 1000), 0.0625, 5.0)
    state = training.initial_state(params, optimizer, policy.initial_memory(BATCH.value), jax.random.PRNGKey(0))
    step = jax.jit(partial(training.train_step, partial(cloning_loss, policy), optimizer), donate_argnums=0)
    compiled, seconds = timed(lambda: step.lower(state, batch).compile())

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    return policy_rows({"jax": update}, LENGTH.value, seconds, TRAINING)


def forward() -> list[Row]:
    """Windows through the policy, without gradients."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    step = jax.jit(partial(outputs, policy))
    compiled, seconds = timed(lambda: step.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)[0]}
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.forward
    return policy_rows(runs, LENGTH.value, seconds, passes=1)


def gradient() -> list[Row]:
    """Windows through the policy and back, without an update."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    total = jax.jit(jax.grad(lambda *inputs: sum(of_head.sum() for of_head in outputs(policy, *inputs)[0].values())))
    compiled, seconds = timed(lambda: total.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)}
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.gradient
    return policy_rows(runs, LENGTH.value, seconds, TRAINING)


def act() -> list[Row]:
    """Frames shown to the policy one at a time, memory carried on; and the whole agent, from a game's frame to keys."""
    policy, params, batch = random_inputs(BATCH.value, 1)
    ring = policy.initial_ring(BATCH.value)
    step = jax.jit(partial(outputs, policy), donate_argnums=2)
    compiled, seconds = timed(lambda: step.lower(params, batch, ring).compile())

    def play() -> Any:
        nonlocal ring
        answer, ring = compiled(params, batch, ring)
        return answer

    runs = {"jax": play}
    if agent := make_agent(policy, params):
        observations = [{"pov": np.zeros((360, 640, 3), np.uint8)}] * BATCH.value
        runs["agent"] = lambda: agent.act(observations)
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.forward
    rows = policy_rows(runs, 1, seconds, passes=1)
    return [row | {f"of {_BUDGET} ms": f"{float(row['ms']) / _BUDGET:.0%}"} for row in rows]


def precision() -> list[Row]:
    """How far answers, loss and gradient are from those in float32 without shortcuts in matrix products."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    exact = policy.clone(dtype=jnp.float32)
    true_answers, true_loss, true_grads = _lesson(exact, "highest", params, batch)
    rows = []
    for by, module, products in (("float32", exact, "default"), (DTYPE.value, policy, "default")):
        answers, loss, grads = _lesson(module, products, params, batch)
        apart = {name: float(jnp.abs(answers[name] - truth).max()) for name, truth in true_answers.items()}
        apart |= {"loss": abs(float(loss - true_loss)), "gradient, share": _distance(grads, true_grads)}
        rows.append({"preset": _PRESET.value, "by": by} | {name: f"{value:.1e}" for name, value in apart.items()})
    return rows


def _lesson(policy: Policy, products: str, params: Any, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
    """Log-probabilities and value of all frames, the loss of cloning, and its gradient."""
    memory, rng = policy.initial_memory(len(batch.frames)), jax.random.key(0)
    with jax.default_matmul_precision(products):
        answers, _ = jax.jit(partial(outputs, policy))(params, batch, memory)
        lesson = jax.jit(jax.value_and_grad(partial(cloning_loss, policy), has_aux=True))
        (loss, _), grads = lesson(params, memory, batch, rng)
    value = answers.pop("value")
    logs = {name: jax.nn.log_softmax(logits.astype(jnp.float32)) for name, logits in answers.items()}
    return logs | {"value": value}, loss, grads


def _distance(ours: Any, truth: Any) -> float:
    """Between two trees, by the length of the second."""
    apart = jax.tree.map(jnp.subtract, ours, truth)
    return float(optax.global_norm(apart) / optax.global_norm(truth))


def make_agent(policy: Policy, params: Any) -> Any:
    """What plays with the policy, where the libraries for videos are installed."""
    try:
        from vpt_jax.agent import Agent
        from vpt_jax.training.checkpoints import TrainedPolicy
    except ImportError:
        return None
    normalizer = ValueNormalizer.create()
    trained = TrainedPolicy(policy, params, (SIZE.value, SIZE.value, 3), 0, normalizer, normalizer)
    return Agent(trained, games=BATCH.value)


def random_inputs(rows: int, length: int) -> tuple[Policy, Any, Batch]:
    """A policy with fresh parameters, and random frames and actions for it."""
    policy = Policy(**POLICIES[_PRESET.value], dtype=jnp.dtype(DTYPE.value), remat=_REMAT.value)
    rng = np.random.default_rng(0)
    batch = Batch(
        frames=rng.integers(0, 256, (rows, length, SIZE.value, SIZE.value, 3), np.uint8),
        buttons=rng.integers(0, 2, (rows, length, 20), np.uint8),
        camera=rng.normal(0, 3, (rows, length, 2)).astype(np.float32),
        first=np.zeros((rows, length), bool),
        valid=np.ones((rows, length), bool),
    )
    one_frame = batch.frames[:1, :1], batch.first[:1, :1], policy.initial_memory(1)
    params = jax.jit(policy.init)(jax.random.key(0), *one_frame)["params"]
    return policy, params, jax.device_put(batch)


def ceiling() -> list[Row]:
    """What the machine gives a large matrix product and the image stacks' convolutions: a yardstick for the policy."""
    dtype, images, size = jnp.dtype(DTYPE.value), BATCH.value * LENGTH.value, SIZE.value
    square = jnp.ones((_SQUARE, _SQUARE), dtype)
    runs = {f"{_SQUARE}x{_SQUARE} matrices": (jax.jit(jnp.matmul), (square, square), 2.0 * _SQUARE**3)}
    for width in POLICIES[_PRESET.value]["widths"]:
        size //= 2
        x, kernel = jnp.ones((images, size, size, width), dtype), jnp.ones((3, 3, width, width), dtype)
        name = f"3x3 convolution, {images} images of {size}x{size}, {width} channels"
        runs[name] = jax.jit(conv3x3), (x, kernel), conv_flops(width, width, size, size) * images
    rates = {name: repeat(partial(run, *inputs)) for name, (run, inputs, _) in runs.items()}
    return [
        {"what": name, "dtype": DTYPE.value, "ms": f"{1000 / rates[name]:.2f}",
         "TFLOP/s": f"{rates[name] * flops / 1e12:.3f}"}
        for name, (_, _, flops) in runs.items()
    ]  # fmt: skip


def outputs(policy: Policy, params: Any, batch: Batch, memory: Any) -> tuple[dict[str, Any], Any]:
    """Logits, the value among them, and the next memory."""
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    return {**output.logits, "value": output.value}, output.memory


def make_rival(policy: Policy, params: Any, batch: Batch) -> Any:
    """The same in PyTorch, if it was asked for. It must answer as ours does."""
    if _AGAINST.value == "none":
        return None
    try:
        from benches.torch_policy import TorchPolicy, exact_products  # here, since only this needs PyTorch
    except ModuleNotFoundError as error:
        sys.exit(f"error: --against=torch needs PyTorch ({error}): pip install torch")
    memory, exact = policy.initial_memory(len(batch.frames)), policy.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"), exact_products():
        ours, _ = outputs(exact, params, batch, memory._replace(mask=jnp.ones_like(memory.mask)))
        answers = TorchPolicy(policy, params, np.asarray(batch.frames)).forward()
    for name, theirs in answers.items():
        np.testing.assert_allclose(theirs.cpu().numpy().reshape(ours[name].shape), ours[name], atol=1e-3, err_msg=name)
    return TorchPolicy(policy, params, np.asarray(batch.frames), DTYPE.value)


def policy_rows(runs: Mapping[str, Callable[[], Any]], length: int, compile_seconds: float, passes: int) -> list[Row]:
    """A row for every contestant; they ran in turns. A forward pass is one of `passes`, its gradient two more."""
    rates, frames = alternate(runs), BATCH.value * length
    policy = Policy(**POLICIES[_PRESET.value])
    flops = passes * frames * policy_flops(policy, SIZE.value, SIZE.value, length)
    return [
        {"by": name, "preset": _PRESET.value, "dtype": DTYPE.value, "remat": str(_REMAT.value and name == "jax"),
         "rows": str(BATCH.value), "length": str(length), "frames": f"{SIZE.value}x{SIZE.value}",
         "frames/s": f"{rate * frames:,.1f}", "ms": f"{1000 / rate:.1f}", "TFLOP/s": f"{rate * flops / 1e12:.3f}",
         "jax's speed": f"{rates['jax'] / rate:.2f}", "compile s": f"{compile_seconds:.1f}" if name == "jax" else "",
         "peak memory MB": f"{peak_memory() / 1e6:,.0f}" if len(runs) == 1 else ""}
        for name, rate in rates.items()
    ]  # fmt: skip
