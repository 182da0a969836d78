"""Flax Linen modules of VPT: pure functions of (parameters, inputs, KV cache)."""
