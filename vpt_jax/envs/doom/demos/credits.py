"""Players of the demos in Freedoom 0.13, by the lumps' digests: they are to be credited, and held out as people.

Source: Freedoom's lumps/README.DEMO of that version, and the pull requests 1173 and 1183 of freedoom/freedoom, which
name the player of the recorded view. Of the three players in E2M4, E3M9 and E4M6 the source names only the viewer's
slot, Xindage's; which of the other two is Erick and which Korp is not known. So both are one unit, wherever they play:
a split by player then never has one person on both sides. Freedoom's licence is BSD (3 clauses).
"""

import hashlib

LICENCE = "BSD-3-Clause (Freedoom)"
_PAIR = "Erick.or.Korp"
_PLAYERS = {
    "1b2be1878d9e": ("mc776",),  # E1M6
    "13aaa90a14b0": ("Xindage", _PAIR, _PAIR),  # E2M4
    "9b160f0b3ec3": (_PAIR, _PAIR, "Xindage"),  # E3M9
    "2381aefaa793": (_PAIR, "Xindage", _PAIR),  # E4M6
    "937d136174b1": ("mc776",),  # MAP03
    "3fcada8a038d": (_PAIR, "Xindage"),  # MAP10
    "4a085d0eba8c": ("Stratos",),  # MAP22
    "1d1f91da5900": ("Xindage", _PAIR),  # MAP23
}


def digest(lump: bytes) -> str:
    """Returns twelve hexadecimal digits that identify a demo lump."""
    return hashlib.sha256(lump).hexdigest()[:12]


def credited_players(lump: bytes) -> tuple[str, ...]:
    """Returns the names of a Freedoom demo's players, in their order; () for other demos."""
    return _PLAYERS.get(digest(lump), ())
