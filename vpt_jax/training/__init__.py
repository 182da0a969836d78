"""Objectives and the loop that follows them. Nothing here imports a game or a video decoder."""
