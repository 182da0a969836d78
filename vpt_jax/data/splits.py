"""Train/validation split of contractors' recordings by a hash of player or session names.

A session is cut into segments of five minutes, all in one world, so it is never in two splits; nor is a player, unless
splitting by session is configured or there is only one player. The hash depends on the name alone: adding recordings
moves no others between splits. Other recordings have no player in their names and are not held out.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

from vpt_jax.contractor_names import ContractorName, parse_name

UNITS = ("player", "session")


def held_out(names: Sequence[str], fraction: float, by: str, seed: int) -> set[str]:
    """Returns the names of the recordings to hold out for validation.

    Args:
        names: of recordings, or of segments of them; those not named like a contractor's are not held out.
        fraction: of players or sessions, in expectation: those whose hash, uniform from 0 to 1, is below it. If there
            are at least two, at least one is held out (that with the lowest hash, if none is below `fraction`), and
            not all.
        by: one of `UNITS`; if there is a single player, sessions are held out.
        seed: of the hash.
    """
    parts = {name: parsed for name in names if (parsed := parse_name(name))}
    players = {parsed.player for parsed in parts.values()}
    by_player = by == "player" and len(players) > 1
    units = {name: parsed.player if by_player else session_name(parsed) for name, parsed in parts.items()}
    chosen = _choose(set(units.values()), fraction, seed)
    return {name for name, unit in units.items() if unit in chosen}


def session_name(parsed: ContractorName) -> str:
    """Name of a session: player and session number."""
    return f"{parsed.player}-{parsed.session}"


def _choose(units: Collection[str], fraction: float, seed: int) -> Collection[str]:
    if fraction <= 0 or len(units) < 2:
        return ()
    hashes: Mapping[str, float] = {unit: _uniform(f"{seed}/{unit}") for unit in units}
    order = sorted(units, key=lambda unit: hashes[unit])
    count = sum(value < fraction for value in hashes.values())
    return order[: min(max(count, 1), len(order) - 1)]


def _uniform(text: str) -> float:
    """Hash of a text, uniform from 0 to 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
