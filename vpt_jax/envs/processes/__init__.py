"""Supervision of environment processes: none outlives the program that started it."""
