"""XLA's flags that `XLA_FLAGS` may set for this library's programs, with their measured effects.

The library sets none of them (`XLA_FLAGS` is the user's): a flag is set only where a measurement shows that it pays.
`launch/gpu_measurements.py` measures those for GPUs, each in a process of its own; docs/speed.md has the conditions of
the measurements.
"""

from typing import NamedTuple

NOT_MEASURED = "not measured: not set"


class XlaFlag(NamedTuple):
    """A flag of `XLA_FLAGS`, with its value."""

    flag: str
    platform: str  # JAX's name
    reason: str  # why it might help
    effect: str  # ratio of speeds, with the flag over without; `NOT_MEASURED`


XLA_FLAGS = (
    XlaFlag(
        "--xla_gpu_enable_latency_hiding_scheduler=true", "cuda",
        "collectives and copies run beside kernels: of use with several GPUs, above all with fsdp > 1", NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_gpu_enable_triton_gemm=false", "cuda",
        "matrix products by cuBLAS alone: no Triton kernels to compile and autotune", NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_gpu_autotune_level=2", "cuda",
        "convolutions and matrix products are autotuned without a check of their results: shorter compilation",
        NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_gpu_enable_command_buffer=", "cuda",
        "no CUDA graphs: they save the time to launch kernels, which matters in acting, and use more memory",
        NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_gpu_graph_min_graph_size=1", "cuda",
        "CUDA graphs for short sequences of kernels as well: less time to launch them in acting", NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_gpu_all_reduce_combine_threshold_bytes=134217728", "cuda",
        "fewer and larger all-reduces of gradients, with several GPUs", NOT_MEASURED,
    ),
    XlaFlag(
        "--xla_cpu_experimental_ynn_fusion_type=", "cpu",
        "convolutions by Eigen instead of YNNPACK",
        "1x, 16 frames: forward 1.17, gradient 1.10; a flag of one release: not set",
    ),
    XlaFlag(
        "--xla_cpu_enable_concurrency_optimized_scheduler=false", "cpu",
        "operations in an order that keeps memory low", "gradient 0.94 to 1.03, which is noise: not set",
    ),
    XlaFlag(
        "--xla_cpu_prefer_vector_width=512", "cpu",
        "wider vectors", "gradient 0.94 to 1.03, which is noise: not set",
    ),
    XlaFlag(
        "--xla_cpu_enable_fast_min_max=true", "cpu",
        "ReLU and pooling without a rule for NaN", "gradient 0.94 to 1.03, which is noise: not set",
    ),
)  # fmt: skip


def flags_of(platform: str) -> list[XlaFlag]:
    """The flags for a platform, by JAX's name."""
    return [row for row in XLA_FLAGS if row.platform == platform]
