"""Vectorized environments: subprocesses stepped together, on this machine or on a Ray cluster."""
