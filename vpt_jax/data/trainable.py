"""Recordings that may not be trained on: left out of datasets, or refused by `train` if they were included.

A recording is marked by `"trainable": false` in its facts: NAME.json next to it (bridges/facts.py), or those of its
format.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.facts import facts_file, read_facts
from vpt_jax.data.encode import Recording
from vpt_jax.data.errors import PrepareError
from vpt_jax.system.atomic_files import read_json
from vpt_jax.system.errors import UserError

INCLUDED, LEFT_OUT = "untrainable", "left_out_as_untrainable"  # fields of a dataset's report
_MAX_NAMED = 5  # recordings in a message
_Facts = Mapping[str, Mapping[str, Any]]  # by name of the recording


class NotTrainableError(UserError, ValueError):
    """A dataset with recordings that may not be trained on; the message names them and the remedy."""


def read_all_facts(recordings: Iterable[Recording]) -> dict[str, dict[str, Any]]:
    """Reads NAME.json of all recordings of OpenAI's format that have one, by name.

    Raises:
        BrokenRecordingError: one is invalid. It is not skipped, since it may say that nobody may train on it.
    """
    found = {recording.name: read_facts(facts_file(recording.source)) for recording in recordings}
    return {name: facts for name, facts in found.items() if facts}


def allowed(recordings: Sequence[Recording], facts: _Facts, include_untrainable: bool) -> list[Recording]:
    """Recordings without those that may not be trained on, unless these are included."""
    marked = set() if include_untrainable else _marked(facts)
    if not (kept := [recording for recording in recordings if recording.name not in marked]):
        raise PrepareError(none_left(sorted(marked), 0))
    return kept


def none_left(left_out: Sequence[str], broken: int) -> str:
    """Message for a dataset that would be empty: its recordings may not be trained on, and the others are broken."""
    others = f", and {broken:,} others are broken" if broken else ""
    return f"all {len(left_out):,} recordings are marked as not trainable: {_names(left_out)}{others}"


def report_facts(facts: _Facts, include_untrainable: bool) -> dict[str, Any]:
    """Fields of a dataset's report about facts; none if no recording has any."""
    return ({"facts": dict(facts)} if facts else {}) | report_untrainable(_marked(facts), include_untrainable)


def report_untrainable(names: Iterable[str], included: bool) -> dict[str, Any]:
    """Field of a dataset's report about recordings that may not be trained on; none if there are none."""
    return {INCLUDED if included else LEFT_OUT: listed} if (listed := sorted(names)) else {}


def summary(report: Mapping[str, Any]) -> list[str]:
    """Lines for the terminal."""
    fields = {LEFT_OUT: "left out as not trainable", INCLUDED: "not trainable, so `train` refuses this dataset"}
    return [f"  {words}: {_names(report[field])}" for field, words in fields.items() if field in report]


def require_trainable(dataset_dir: Path) -> None:
    """Raises `NotTrainableError` if a dataset has recordings that are marked as not trainable."""
    report = read_json(dataset_dir / "report.json")
    if names := report.get(INCLUDED) if isinstance(report, dict) else None:
        listed = names if isinstance(names, list) else [names]
        raise NotTrainableError(
            f"{dataset_dir} has recordings that are marked as not trainable: {_names(listed)}. Prepare a dataset "
            "without them: leave out --config.include_untrainable"
        )


def _marked(facts: _Facts) -> set[str]:
    return {name for name, one in facts.items() if one.get("trainable") is False}


def _names(names: Sequence[Any]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(map(str, names[:_MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")
