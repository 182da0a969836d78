"""Facts that a user gives, put over those that a recording's format has: NAME.json, or `facts` in `meta/vpt.json`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.facts import read_facts
from vpt_jax.data.bridges.interface import BridgeOptions, TimedPlay
from vpt_jax.data.bridges.registry import load_bridge
from vpt_jax.recording import BrokenRecordingError

_TIMES = ("start", "excluded")  # used in reading, and no facts of the play


def read_recording(source: str, recording: Path, frames_per_second: float = 0.0) -> Mapping[str, TimedPlay]:
    """Reads the plays of a recording by its bridge, each when it is asked for, with the facts of its NAME.json.

    Args:
        source: name of the bridge (registry.py).
        recording: as the bridge finds it.
        frames_per_second: of formats that store no times; 0: their own default.

    Raises:
        BrokenRecordingError: the recording or its NAME.json is invalid.
    """
    bridge = load_bridge(source)
    facts = read_facts(bridge.facts(recording))
    if "start" in facts and "start" not in bridge.options:
        detail = f"`start` must be left out: frames of the format {source} have times"
        raise BrokenRecordingError(bridge.facts(recording), "bad value", detail)
    options = BridgeOptions(frames_per_second, float(facts.get("start", 0.0)))
    return _WithFacts(bridge.read(recording, options), facts)


class _WithFacts(Mapping[str, TimedPlay]):
    """Plays with the same facts put over their own."""

    def __init__(self, plays: Mapping[str, TimedPlay], facts: Mapping[str, Any]) -> None:
        self._plays, self._facts = plays, facts

    def __iter__(self) -> Iterator[str]:
        return iter(self._plays)

    def __len__(self) -> int:
        return len(self._plays)

    def __getitem__(self, name: str) -> TimedPlay:
        return with_facts(self._plays[name], self._facts)


def with_facts(play: TimedPlay, facts: Mapping[str, Any]) -> TimedPlay:
    """Returns the play with these facts, and their excluded ranges added to its own.

    Args:
        play: of any format.
        facts: validated (facts.py).
    """
    if not facts:
        return play
    ranges = sorted([*play.excluded, *((float(low), float(high)) for low, high in facts.get("excluded", ()))])
    given = {name: value for name, value in facts.items() if name not in _TIMES}
    return replace(play, excluded=tuple(ranges), facts={**play.facts, **given})
