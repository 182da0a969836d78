"""Landlock sandbox: the Linux kernel forbids a thread and its children to run programs or write outside of a folder.

Available without privileges since Linux 5.13 (landlock(7)), where it is enabled; later versions restrict more. It does
not restrict attributes of files (modes, owners, times, extended attributes), reading, or the network.
"""

import ctypes
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system call numbers, the same on all architectures
_VERSION, _PATH_BENEATH = 1, 1
_PR_SET_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE, _TRUNCATE = 1 << 0, 1 << 1, 1 << 14
# Access rights by the Landlock version that introduced them: execute, write, remove and make files of any kind (1),
# link and move between folders (2), truncate (3), ioctl of devices (5).
_ACCESS_RIGHTS = {1: _EXECUTE | _WRITE | 0b1_1111_1111 << 4, 2: 1 << 13, 3: _TRUNCATE, 5: 1 << 15}
_SIGNALS_AND_SOCKETS = 0b11  # scopes: signals to, and abstract Unix sockets of, processes outside of the sandbox


def restrict(folder: Path | None) -> int:
    """Permanently restricts this thread and its children: writes in `folder` only, or nowhere, and no programs.

    Returns:
        The version of Landlock; 0 if the kernel has none: then only privilege gains by executed programs are disabled.
    """
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return 0
    handled = sum(bits for since, bits in _ACCESS_RIGHTS.items() if since <= version)
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
    """Adds a rule that allows access rights on a file, or in a folder; returns whether that succeeded."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", rights, descriptor)
            return libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) == 0
        finally:
            os.close(descriptor)
    return False
