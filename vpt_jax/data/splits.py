"""Train/validation split of recordings by a hash of player, session or world.

Contractors' recordings have player and session in their names; others in their facts, if the format has them. A session
is cut into segments of five minutes, all in one world, so it is never in two splits; nor is a player or a world, if it
is split by these, unless there is only one. The hash depends on the names alone: adding recordings moves no others
between splits, unless they connect two players who were apart (a session that both play). Recordings without any of
these are not held out.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from vpt_jax.contractor_names import ContractorName, parse_name

UNITS = ("player", "session", "world")
_NO_FACTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def held_out(
    names: Sequence[str],
    fraction: float,
    by: str,
    seed: int,
    facts: Mapping[str, Mapping[str, Any]] = _NO_FACTS,
) -> set[str]:
    """Returns the names of the recordings to hold out for validation.

    Args:
        names: of recordings, or of segments of them.
        fraction: of players, sessions or worlds, in expectation: those whose hash, uniform from 0 to 1, is below it. If
            there are at least two, at least one is held out (that with the lowest hash, if none is below `fraction`),
            and not all.
        by: one of `UNITS`; if there is a single player or world, sessions are held out.
        seed: of the hash.
        facts: of recordings that state their player, session or world, by name.
    """
    known = {name: _identity(name, facts.get(name, {})) for name in names}
    units = _units(known, by)
    if len(set(units.values())) < 2:
        units = _units(known, "session")
    chosen = _choose(set(units.values()), fraction, seed)
    return {name for name, unit in units.items() if unit in chosen}


def _identity(name: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Player, session and world of a recording, as far as they are known."""
    stated = {unit: value for unit in UNITS if isinstance(value := facts.get(unit), str) and value}
    parsed = parse_name(name)
    if not parsed:
        return stated
    session = session_name(parsed)
    return {"player": parsed.player, "session": session, "world": session} | stated


def _units(known: Mapping[str, Mapping[str, str]], by: str) -> dict[str, str]:
    """The unit of each recording: all that share it, or a session, are in one split. Named by its first in order."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.get(node, node)) != node:
            node = above
        return node

    nodes = {
        name: [(unit, identity[unit]) for unit in dict.fromkeys((by, "session")) if unit in identity]
        for name, identity in known.items()
    }
    for first, *others in filter(None, nodes.values()):
        for other in others:
            low, high = sorted([root(first), root(other)], key=lambda node: (node[0] != by, node[1]))
            if low != high:
                parent[high] = low
    return {name: root(own[0])[1] for name, own in nodes.items() if own}


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
