"""Landlock: the kernel forbids a thread, and all it starts, to change files outside of a folder and to run programs.

Linux has it since 5.13 (landlock(7)), without privileges, where it is switched on; a later kernel forbids more. It does
not deal with attributes of files (modes, owners, times, extended attributes), with reading, nor with the network.
"""

import ctypes
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # numbers of system calls, on all architectures
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE, _TRUNCATE = 1 << 0, 1 << 1, 1 << 14
# Writing, removing, making of any kind, linking and moving between folders, truncating; by the version that knows it.
_CHANGES = {1: _EXECUTE | _WRITE | 0b1_1111_1111 << 4, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_SIGNALS_AND_SOCKETS = 0b11  # scoped: signals to, and abstract sockets of, processes that are not confined with it


def restrict(folder: Path | None) -> int:
    """From now on this thread, and those that it starts, change files in `folder` alone, or nowhere, and run nothing.

    Returns:
        The version of Landlock; 0: the kernel has none, and nothing is restricted but that programs give no privileges.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return 0
    handled = sum(bits for since, bits in _CHANGES.items() if since <= version)
    fields = [handled, 0, _SIGNALS_AND_SOCKETS][: 1 if version < 4 else 2 if version < 6 else 3]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return 0
    try:
        allowed = {os.devnull: handled & (_WRITE | _TRUNCATE)}
        if folder:
            allowed[str(folder)] = handled & ~_EXECUTE
        if not all(_allow(libc, ruleset, path, rights) for path, rights in allowed.items()):
            return 0
        return version if libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> bool:
    """Allow something at a file, or in a folder."""
    with suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", rights, place)
            return libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0
        finally:
            os.close(place)
    return False
