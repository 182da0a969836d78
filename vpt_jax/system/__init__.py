"""Processes, files, signals and command lines: the operating-system layer that every other package may import."""
