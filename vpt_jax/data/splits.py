"""Held-out recordings of contractors: whole players or sessions, chosen by a hash of their names.

A session is cut into segments of five minutes, all in one world, so it is never in two splits; nor is a player, unless
sessions are asked for or there is one player only. The hash depends on the name alone: recordings that are added later
move no others. Names of other recordings tell no player, so these stay where they are.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

from vpt_jax.contractor_names import ContractorName, parse_name

UNITS = ("player", "session")


def held_out(names: Sequence[str], fraction: float, by: str, seed: int) -> set[str]:
    """The names of the recordings to hold out for validation.

    Args:
        names: of recordings, or of segments of them; those that are not named like a contractor's are not held out.
        fraction: of players or sessions, in expectation: those whose hash, uniform from 0 to 1, is below it. If there
            are at least two, it is at least one (that with the lowest hash, as long as no other is below `fraction`),
            and not all.
        by: one of `UNITS`; of a single player, sessions are held out.
        seed: another one gives another choice.
    """
    parts = {name: parsed for name in names if (parsed := parse_name(name))}
    players = {parsed.player for parsed in parts.values()}
    by_player = by == "player" and len(players) > 1
    units = {name: parsed.player if by_player else session_name(parsed) for name, parsed in parts.items()}
    chosen = _choose(set(units.values()), fraction, seed)
    return {name for name, unit in units.items() if unit in chosen}


def session_name(parsed: ContractorName) -> str:
    """Player and session."""
    return f"{parsed.player}-{parsed.session}"


def _choose(units: Collection[str], fraction: float, seed: int) -> Collection[str]:
    if fraction <= 0 or len(units) < 2:
        return ()
    places: Mapping[str, float] = {unit: _uniform(f"{seed}/{unit}") for unit in units}
    order = sorted(units, key=lambda unit: places[unit])
    count = sum(place < fraction for place in places.values())
    return order[: min(max(count, 1), len(order) - 1)]


def _uniform(text: str) -> float:
    """A number from 0 to 1 that follows from a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
