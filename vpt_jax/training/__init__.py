"""Objectives, train step, training loop, checkpoints. Only the package `ppg` imports environments or video."""
