"""Doom demos and WAD files made by hand, for tests."""

import struct

import numpy as np


def make_demo(commands, *, skill=1, episode=1, level=1, view=0, version=109, playing=None, end=b"\x80"):
    """A demo of `commands`, integers [tics, players, 4]: forward, sideways, turn, buttons."""
    commands = np.asarray(commands)
    playing = playing or [1] * commands.shape[1] + [0] * (4 - commands.shape[1])
    header = bytes([version, skill, episode, level, 0, 0, 0, 0, view, *playing])
    return header + (commands % 256).astype(np.uint8).tobytes() + end


def turning_demo(seconds=2.0, players=1, **header):
    """A demo whose players run, and turn about at random, each otherwise, to learn from the frames which way."""
    tics = round(seconds * 35)
    commands = np.zeros((tics, players, 4), int)
    commands[:, :, 2] = np.random.default_rng(5).integers(-4, 5, (tics, players))
    commands[:, :, 0] = 25
    return make_demo(commands, **header)


def make_wad(lumps, kind=b"IWAD"):
    """A WAD file of (name, content) pairs."""
    data, entries = b"", b""
    for name, content in lumps:
        entries += struct.pack("<ii8s", 12 + len(data), len(content), name.encode())
        data += content
    return struct.pack("<4sii", kind, len(lumps), 12 + len(data)) + data + entries
