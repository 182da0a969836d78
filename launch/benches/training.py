"""Benchmarks of training steps, of policies and inverse dynamics models. Needs no data libraries."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from benches.measuring import BATCH, DTYPE, LENGTH, SIZE, Row, alternate, peak_memory, timed
from benches.policy import IDM_PREFIX, PRESET, random_batch, random_inputs
from benches.trace import largest_kernels, name_modules
from jax.stages import Compiled

from vpt_jax.models.flops import TRAINING_FACTOR, idm_flops, policy_flops
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel, TemporalConv
from vpt_jax.models.presets import IDMS
from vpt_jax.models.remat import REMAT
from vpt_jax.training import state as training
from vpt_jax.training.behavioural_cloning import cloning_loss
from vpt_jax.training.inverse_dynamics import inverse_dynamics_loss
from vpt_jax.training.optimizers import adam, linear_schedule
from vpt_jax.training.roofline import CHIPS, program_bytes

_REMAT = flags.DEFINE_enum("remat", "none", list(REMAT), "What the backward pass computes again (models/remat.py).")
_TRACE = flags.DEFINE_string("trace", "", "Folder for a trace of three steps, whose largest kernels are printed.")

ERRORS: tuple[type[Exception], ...] = ()
_TRACED_STEPS, _KERNELS = 3, 10


class Task(NamedTuple):
    """Model to train: its loss and the state and batch of a step."""

    loss: training.Loss
    params: Any
    memory: Any
    batch: Any
    flops_per_frame: float  # of the forward pass


def train_step() -> list[Row]:
    """Train steps on random frames in device memory."""
    task = make_task()
    update, compiled, seconds = compile_update(task)
    rate = alternate({"step": update})["step"]
    frames = BATCH.value * LENGTH.value
    flop_rate = rate * frames * TRAINING_FACTOR * task.flops_per_frame
    chip = CHIPS.get(jax.devices()[0].device_kind)
    peak = peak_memory()
    if _TRACE.value:
        print_kernels(update, compiled.as_text() or "")
    return [{
        "preset": PRESET.value, "dtype": DTYPE.value, "remat": _REMAT.value, "rows": str(BATCH.value),
        "length": str(LENGTH.value), "frames": f"{SIZE.value}x{SIZE.value}", "frames/s": f"{rate * frames:,.1f}",
        "ms": f"{1000 / rate:.1f}", "TFLOP/s": f"{flop_rate / 1e12:.3f}",
        "of the peak": f"{flop_rate / chip.flops:.1%}" if chip else "", "compile s": f"{seconds:.1f}",
        "peak memory MB": f"{peak / 1e6:,.0f}", "program MB": f"{program_bytes(compiled) / 1e6:,.0f}",
    }]  # fmt: skip


def make_task() -> Task:
    """Model of --preset, and a batch of random frames."""
    if not PRESET.value.startswith(IDM_PREFIX):
        policy, params, batch = random_inputs(BATCH.value, LENGTH.value, remat=_REMAT.value)
        flops = policy_flops(policy, SIZE.value, SIZE.value, LENGTH.value)
        return Task(partial(cloning_loss, policy), params, policy.initial_memory(BATCH.value), batch, flops)
    sizes = IDMS[PRESET.value.removeprefix(IDM_PREFIX)]
    idm = InverseDynamicsModel(**sizes, dtype=jnp.dtype(DTYPE.value), remat=_REMAT.value)
    batch = random_batch(BATCH.value, LENGTH.value)
    key = jax.random.key(0, impl="rbg")  # compiles quickly
    params = jax.jit(idm.init)(key, batch.frames[:1, :1])["params"]
    loss = partial(inverse_dynamics_loss, idm, True, False)  # augmented as in configs/idm.py
    return Task(loss, params, (), jax.device_put(batch), idm_flops(idm, SIZE.value, SIZE.value, LENGTH.value))


def compile_update(task: Task) -> tuple[Callable[[], Any], Compiled, float]:
    """Function that runs train steps, each on the state of the last, the compiled step, and seconds of compiling."""
    optimizer = adam(linear_schedule(1e-4, 10, 1000), 0.0625, 5.0)
    state = training.initial_state(task.params, optimizer, task.memory, jax.random.PRNGKey(0))
    step = jax.jit(partial(training.train_step, task.loss, optimizer), donate_argnums=0)
    compiled, seconds = timed(lambda: step.lower(state, task.batch).compile())

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, task.batch)
        return metrics

    return update, compiled, seconds


def print_kernels(update: Callable[[], Any], program: str) -> None:
    """Traces some steps, and prints the kernels that take most of the device's time."""
    with jax.profiler.trace(_TRACE.value):
        for _ in range(_TRACED_STEPS):
            jax.block_until_ready(update())
    kernels = largest_kernels(_TRACE.value, name_modules(program))
    print(f"trace of {_TRACED_STEPS} steps: {_KERNELS} of {len(kernels)} kernels, ms a step and share of their sum")
    total = sum(kernel.seconds for kernel in kernels) or 1.0
    for kernel in kernels[:_KERNELS]:
        ms = 1000 * kernel.seconds / _TRACED_STEPS
        print(f"kernel: {ms:8.2f} ms {kernel.seconds / total:6.1%} {kernel.name} | {kernel.module}")


def temporal_conv() -> list[Row]:
    """The inverse dynamics model's convolution over five frames, by itself: forward, and with its kernel's gradient."""
    if not PRESET.value.startswith(IDM_PREFIX):
        sys.exit(f"error: temporal_conv is for inverse dynamics models: --preset={IDM_PREFIX}{'|'.join(IDMS)}")
    features = IDMS[PRESET.value.removeprefix(IDM_PREFIX)]["temporal_features"]
    conv = TemporalConv(features, dtype=jnp.dtype(DTYPE.value))
    rows, length, size = BATCH.value, LENGTH.value + 2 * TEMPORAL_RADIUS, SIZE.value
    x = jax.random.uniform(jax.random.key(0), (rows, length, size, size, 3)).astype(DTYPE.value)
    params = conv.init(jax.random.key(1), x[:1, :5])
    forward = jax.jit(conv.apply)
    gradient = jax.jit(jax.grad(lambda params, x: (conv.apply(params, x).astype(jnp.float32) ** 2).sum()))
    rates = alternate({"forward": partial(forward, params, x), "forward and gradient": partial(gradient, params, x)})
    flops = 2.0 * 3 * (2 * TEMPORAL_RADIUS + 1) * features * size * size * rows * LENGTH.value
    return [
        {"what": what, "preset": PRESET.value, "dtype": DTYPE.value, "rows": str(rows), "length": str(LENGTH.value),
         "ms": f"{1000 / rate:.2f}", "TFLOP/s": f"{rate * flops * passes / 1e12:.3f}"}
        for (what, rate), passes in zip(rates.items(), (1, 2), strict=True)
    ]  # fmt: skip
