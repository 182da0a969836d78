"""The kind of device that a model is traced for: some operations have one fast form on CPUs and another elsewhere.

All forms compute the same function, so any of them is right on any device; docs/speed.md and docs/scale.md have their
costs. The form is chosen while a program is traced, and only the chosen one is traced.
"""

import os

import jax

from vpt_jax.system.errors import UserError

# Takes the forms of this platform ("cpu", "gpu" or "tpu") on any device: tests run those of accelerators on CPUs.
FORCED = os.environ.get("VPT_JAX_PLATFORM", "")
if FORCED not in ("", "cpu", "gpu", "tpu"):
    raise UserError(f"the environment variable VPT_JAX_PLATFORM is {FORCED!r}, and must be cpu, gpu or tpu, or unset")


def target_platform() -> str:
    """Platform of the devices of the mesh of `jax.set_mesh`, or of JAX's default device: "cpu", "gpu" or "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return FORCED or (device.platform if device else jax.default_backend())


def is_accelerator() -> bool:
    """Return True unless the devices are CPUs."""
    return target_platform() != "cpu"
