"""Processes, files and signals of the operating system: what every other package may use."""
