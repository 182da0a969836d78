"""Benchmarks of the policy: inference, its gradient, precision. Needs no data libraries: it runs wherever JAX does."""

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
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.models.remat import NONE
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.behavioural_cloning import cloning_loss

IDM_PREFIX = "idm:"
PRESET = flags.DEFINE_enum(
    "preset", "tiny", [*POLICIES, *(IDM_PREFIX + name for name in IDMS)],
    f"Size of the policy, or, for train_step and temporal_conv, {IDM_PREFIX}SIZE of an inverse dynamics model.",
)  # fmt: skip
_AGAINST = flags.DEFINE_enum(
    "against", "none", ["none", "torch", "torch-eager"],
    "Also measure the policy written in PyTorch: eager and by torch.compile, or eager alone.",
)  # fmt: skip

ERRORS: tuple[type[Exception], ...] = ()
_SQUARE = 4096
_FRAME_BUDGET = 50  # milliseconds between two frames of a game


def forward() -> list[Row]:
    """Forward passes of the policy on windows of frames."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    step = jax.jit(partial(outputs, policy))
    compiled, seconds = timed(lambda: step.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)[0]}
    torch_policies = make_torch_policies(policy, params, batch)
    runs |= {name: torch_policy.forward for name, torch_policy in torch_policies.items()}
    return policy_rows(runs, LENGTH.value, seconds, passes=1)


def gradient() -> list[Row]:
    """Forward and backward passes of the policy on windows of frames, without an update."""
    policy, params, batch = random_inputs(BATCH.value, LENGTH.value)
    memory = policy.initial_memory(BATCH.value)
    total = jax.jit(jax.grad(lambda *inputs: sum(head.sum() for head in outputs(policy, *inputs)[0].values())))
    compiled, seconds = timed(lambda: total.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)}
    for name, torch_policy in make_torch_policies(policy, params, batch).items():
        torch_policy.check_gradient(compiled(params, batch, memory._replace(mask=jnp.ones_like(memory.mask))))
        runs[name] = torch_policy.gradient
    return policy_rows(runs, LENGTH.value, seconds, TRAINING_FACTOR)


def act() -> list[Row]:
    """Single-step inference with the KV cache carried on; and the whole agent, from a game's frame to keys."""
    policy, params, batch = random_inputs(BATCH.value, 1)
    single_step, seconds = compile_single_step(policy, params, batch)
    runs = {"jax": single_step}
    if agent := make_agent(policy, params):
        observations = [{"pov": np.zeros((360, 640, 3), np.uint8)}] * BATCH.value
        runs["agent"] = lambda: agent.act(observations)
    torch_policies = make_torch_policies(policy, params, batch)
    runs |= {name: torch_policy.forward for name, torch_policy in torch_policies.items()}
    rows = policy_rows(runs, 1, seconds, passes=1)
    return [row | {f"of {_FRAME_BUDGET} ms": f"{float(row['ms']) / _FRAME_BUDGET:.0%}"} for row in rows]


def compile_single_step(policy: Policy, params: Any, batch: Batch) -> tuple[Callable[[], Any], float]:
    """Function that applies the policy to one frame of every row and carries the KV cache on; seconds of compiling."""
    ring = policy.initial_ring_memory(len(batch.frames))
    step = jax.jit(partial(outputs, policy), donate_argnums=2)
    compiled, seconds = timed(lambda: step.lower(params, batch, ring).compile())

    def single_step() -> Any:
        nonlocal ring
        output, ring = compiled(params, batch, ring)
        return output

    return single_step, seconds


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
        rows.append({"preset": PRESET.value, "by": by} | {name: f"{value:.1e}" for name, value in errors.items()})
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


def random_inputs(rows: int, length: int, remat: str = NONE) -> tuple[Policy, Any, Batch]:
    """Policy with random parameters, and a batch of random frames and actions."""
    policy = Policy(**policy_sizes(), dtype=jnp.dtype(DTYPE.value), remat=remat)
    batch = random_batch(rows, length)
    one_frame = batch.frames[:1, :1], batch.first[:1, :1], policy.initial_memory(1)
    key = jax.random.key(0, impl="rbg")  # compiles quickly
    params = jax.jit(policy.init)(key, *one_frame)["params"]
    return policy, params, jax.device_put(batch)


def policy_sizes() -> dict[str, Any]:
    """Sizes of the policy of --preset."""
    if PRESET.value.startswith(IDM_PREFIX):
        sys.exit(f"error: this is for policies: --preset={'|'.join(POLICIES)}")
    return POLICIES[PRESET.value]


def random_batch(rows: int, length: int) -> Batch:
    """Random frames and actions, in host memory."""
    rng = np.random.default_rng(0)
    return Batch(
        frames=rng.integers(0, 256, (rows, length, SIZE.value, SIZE.value, 3), np.uint8),
        buttons=rng.integers(0, 2, (rows, length, 20), np.uint8),
        camera=rng.normal(0, 3, (rows, length, 2)).astype(np.float32),
        first=np.zeros((rows, length), bool),
        valid=np.ones((rows, length), bool),
    )


def ceiling() -> list[Row]:
    """FLOP/s of a large matrix product and of the image stacks' convolutions: an upper bound for the policy."""
    dtype, images, size = jnp.dtype(DTYPE.value), BATCH.value * LENGTH.value, SIZE.value
    square = jnp.ones((_SQUARE, _SQUARE), dtype)
    runs = {f"{_SQUARE}x{_SQUARE} matrices": (jax.jit(jnp.matmul), (square, square), 2.0 * _SQUARE**3)}
    for width in policy_sizes()["widths"]:
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


def make_torch_policies(policy: Policy, params: Any, batch: Batch) -> dict[str, Any]:
    """The same policy in PyTorch by name, with --against=torch; raises if the outputs of one differ from JAX's.

    They are compared in float32. What is measured computes in --dtype.
    """
    if _AGAINST.value == "none":
        return {}
    try:
        from benches.torch_policy import TorchPolicy, exact_products  # here, since only this needs PyTorch
    except ModuleNotFoundError as error:
        sys.exit(f"error: --against={_AGAINST.value} needs PyTorch ({error}): pip install torch")
    memory, exact = policy.initial_memory(len(batch.frames)), policy.clone(dtype=jnp.float32)
    frames, torch_policies = np.asarray(batch.frames), {}
    with jax.default_matmul_precision("highest"):
        expected, _ = outputs(exact, params, batch, memory._replace(mask=jnp.ones_like(memory.mask)))
    for name, compiled in {"torch": False, "torch.compile": True}.items():
        if compiled and _AGAINST.value != "torch":
            continue
        with exact_products():
            torch_outputs = TorchPolicy(policy, params, frames, compiled=compiled).forward()
        for head, tensor in torch_outputs.items():
            actual = tensor.cpu().numpy().reshape(expected[head].shape)
            np.testing.assert_allclose(actual, expected[head], atol=1e-3, err_msg=f"{name}, {head}")
        torch_policies[name] = TorchPolicy(policy, params, frames, DTYPE.value, compiled)
    return torch_policies


def policy_rows(runs: Mapping[str, Callable[[], Any]], length: int, compile_seconds: float, passes: int) -> list[Row]:
    """Measures the runs in turns, a row for each. A forward pass counts as one of `passes`, its gradient as two."""
    rates, frames = alternate(runs), BATCH.value * length
    policy = Policy(**policy_sizes())
    flops = passes * frames * policy_flops(policy, SIZE.value, SIZE.value, length)
    return [
        {"by": name, "preset": PRESET.value, "dtype": DTYPE.value,
         "rows": str(BATCH.value), "length": str(length), "frames": f"{SIZE.value}x{SIZE.value}",
         "frames/s": f"{rate * frames:,.1f}", "ms": f"{1000 / rate:.1f}", "TFLOP/s": f"{rate * flops / 1e12:.3f}",
         "jax's speed": f"{rates['jax'] / rate:.2f}", "compile s": f"{compile_seconds:.1f}" if name == "jax" else "",
         "peak memory MB": f"{peak_memory() / 1e6:,.0f}" if len(runs) == 1 else ""}
        for name, rate in rates.items()
    ]  # fmt: skip
