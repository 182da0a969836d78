"""Benchmarks of the policy: training, inference, precision. Needs no data libraries, so it runs wherever JAX does."""

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
from vpt_jax.models.flops import TRAINING_FACTOR, conv_flops, policy_flops
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import POLICIES
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training import state as training
from vpt_jax.training.behavioural_cloning import cloning_loss
from vpt_jax.training.optimizers import adam, linear_schedule

_PRESET = flags.DEFINE_enum("preset", "tiny", list(POLICIES), "Size of the policy.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute the image stacks in the backward pass.")
_AGAINST = flags.DEFINE_enum("against", "none", ["none", "torch"], "Also measure the policy written in PyTorch.")

ERRORS: tuple[type[Exception], ...] = ()
_SQUARE = 4096
_FRAME_BUDGET = 50  # milliseconds between two frames of a game


def train_step() -> list[Row]:
    """Train steps on random frames in device memory."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    optimizer = adam(linear_schedule(1e-4, 10, 1000), 0.0625, 5.0)
    state = training.initial_state(params, optimizer, policy.initial_memory(BATCH.value), jax.random.PRNGKey(0))
    step = jax.jit(partial(training.train_step, partial(cloning_loss, policy), optimizer), donate_argnums=0)
    compiled, seconds = timed(lambda: step.lower(state, batch).compile())

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    return policy_rows({"jax": update}, LENGTH.value, seconds, TRAINING_FACTOR)


def forward() -> list[Row]:
    """Forward passes of the policy on windows of frames."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    step = jax.jit(partial(outputs, policy))
    compiled, seconds = timed(lambda: step.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)[0]}
    if torch_policy := make_torch_policy(policy, params, batch):
        runs["torch"] = torch_policy.forward
    return policy_rows(runs, LENGTH.value, seconds, passes=1)


def gradient() -> list[Row]:
    """Forward and backward passes of the policy on windows of frames, without an update."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    total = jax.jit(jax.grad(lambda *inputs: sum(head.sum() for head in outputs(policy, *inputs)[0].values())))
    compiled, seconds = timed(lambda: total.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)}
    if torch_policy := make_torch_policy(policy, params, batch):
        runs["torch"] = torch_policy.gradient
    return policy_rows(runs, LENGTH.value, seconds, TRAINING_FACTOR)


def act() -> list[Row]:
    """Single-step inference with the KV cache carried on; and the whole agent, from a game's frame to keys."""
    policy, params, batch = random_inputs(BATCH.value, 1)
    ring = policy.initial_ring_memory(BATCH.value)
    step = jax.jit(partial(outputs, policy), donate_argnums=2)
    compiled, seconds = timed(lambda: step.lower(params, batch, ring).compile())

    def single_step() -> Any:
        nonlocal ring
        output, ring = compiled(params, batch, ring)
        return output

    runs = {"jax": single_step}
    if agent := make_agent(policy, params):
        observations = [{"pov": np.zeros((360, 640, 3), np.uint8)}] * BATCH.value
        runs["agent"] = lambda: agent.act(observations)
    if torch_policy := make_torch_policy(policy, params, batch):
        runs["torch"] = torch_policy.forward
    rows = policy_rows(runs, 1, seconds, passes=1)
    return [row | {f"of {_FRAME_BUDGET} ms": f"{float(row['ms']) / _FRAME_BUDGET:.0%}"} for row in rows]


def precision() -> list[Row]:
    """Errors of outputs, loss and gradient, relative to float32 with the highest matmul precision."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    float32_policy = policy.clone(dtype=jnp.float32)
    exact_outputs, exact_loss, exact_grads = _outputs_loss_gradient(float32_policy, "highest", params, batch)
    rows = []
    for by, module, matmul_precision in (("float32", float32_policy, "default"), (DTYPE.value, policy, "default")):
        inexact, loss, grads = _outputs_loss_gradient(module, matmul_precision, params, batch)
        errors = {name: float(jnp.abs(inexact[name] - exact).max()) for name, exact in exact_outputs.items()}
        errors |= {"loss": abs(float(loss - exact_loss)), "gradient, share": _relative_error(grads, exact_grads)}
        rows.append({"preset": _PRESET.value, "by": by} | {name: f"{value:.1e}" for name, value in errors.items()})
    return rows


def _outputs_loss_gradient(
    policy: Policy, matmul_precision: str, params: Any, batch: Batch
) -> tuple[dict[str, Any], Any, Any]:
    """Log-probabilities and value of all frames, the behavioural cloning loss, and its gradient."""
    memory, rng = policy.initial_memory(len(batch.frames)), jax.random.key(0)
    with jax.default_matmul_precision(matmul_precision):
        logits_and_value, _ = jax.jit(partial(outputs, policy))(params, batch, memory)
        loss_and_gradient = jax.jit(jax.value_and_grad(partial(cloning_loss, policy), has_aux=True))
        (loss, _), grads = loss_and_gradient(params, memory, batch, rng)
    value = logits_and_value.pop("value")
    log_probs = {name: jax.nn.log_softmax(logits.astype(jnp.float32)) for name, logits in logits_and_value.items()}
    return log_probs | {"value": value}, loss, grads


def _relative_error(tree: Any, exact: Any) -> float:
    """Norm of the difference of two trees, relative to the norm of the second."""
    errors = jax.tree.map(jnp.subtract, tree, exact)
    return float(optax.global_norm(errors) / optax.global_norm(exact))


def make_agent(policy: Policy, params: Any) -> Any:
    """Agent that acts by the policy; None where the video libraries are not installed."""
    try:
        from vpt_jax.agent import PolicyAgent
        from vpt_jax.training.checkpoints import TrainedPolicy
    except ImportError:
        return None
    normalizer = ValueNormalizer.create()
    trained = TrainedPolicy(policy, params, (SIZE.value, SIZE.value, 3), 0, normalizer, normalizer)
    return PolicyAgent(trained, num_envs=BATCH.value)


def random_inputs(rows: int, length: int) -> tuple[Policy, Any, Batch]:
    """Policy with random parameters, and a batch of random frames and actions."""
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
    """FLOP/s of a large matrix product and of the image stacks' convolutions: an upper bound for the policy."""
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
    """Logits of the heads with the value as one more entry, and the next memory."""
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    return {**output.logits, "value": output.value}, output.memory


def make_torch_policy(policy: Policy, params: Any, batch: Batch) -> Any:
    """The same policy in PyTorch with --against=torch, else None; raises if its outputs differ from JAX's."""
    if _AGAINST.value == "none":
        return None
    try:
        from benches.torch_policy import TorchPolicy, exact_products  # here, since only this needs PyTorch
    except ModuleNotFoundError as error:
        sys.exit(f"error: --against=torch needs PyTorch ({error}): pip install torch")
    memory, exact = policy.initial_memory(len(batch.frames)), policy.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"), exact_products():
        expected, _ = outputs(exact, params, batch, memory._replace(mask=jnp.ones_like(memory.mask)))
        torch_outputs = TorchPolicy(policy, params, np.asarray(batch.frames)).forward()
    for name, tensor in torch_outputs.items():
        actual = tensor.cpu().numpy().reshape(expected[name].shape)
        np.testing.assert_allclose(actual, expected[name], atol=1e-3, err_msg=name)
    return TorchPolicy(policy, params, np.asarray(batch.frames), DTYPE.value)


def policy_rows(runs: Mapping[str, Callable[[], Any]], length: int, compile_seconds: float, passes: int) -> list[Row]:
    """Measures the runs in turns, a row for each. A forward pass counts as one of `passes`, its gradient as two."""
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
