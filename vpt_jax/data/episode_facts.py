"""Facts of a dataset's episodes, from its report: exports pass them on, above all what may not be trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.facts import facts_to_pass_on
from vpt_jax.data.trainable import INCLUDED
from vpt_jax.system.atomic_files import read_json


def read_episode_facts(dataset_dir: Path, episodes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reads the facts of episodes, as far as the report has any.

    Args:
        dataset_dir: the dataset.
        episodes: "SPLIT/NAME" of each.

    Returns:
        Valid contents of a NAME.json, by "SPLIT/NAME". Movements of a dataset have been multiplied by the recording's
        `mouse_factor`, and excluded seconds cut out, so these two are not among them.
    """
    report = read_json(dataset_dir / "report.json")
    given = _facts_of_plays(report) | _facts_of_recordings(report, episodes) if isinstance(report, dict) else {}
    marked = report.get(INCLUDED, []) if isinstance(report, dict) else []
    found = {}
    for episode in episodes:
        facts = facts_to_pass_on(given.get(episode, {}))
        found[episode] = facts | ({"trainable": False} if episode.partition("/")[2] in marked else {})
    return {episode: facts for episode, facts in found.items() if facts}


def _facts_of_plays(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Facts of bridged recordings."""
    return {f"{play['split']}/{name}": play["facts"] for play in report.get("plays", []) for name in play["episodes"]}


def _facts_of_recordings(report: Mapping[str, Any], episodes: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Facts of recordings in OpenAI's format, which may be joined: then those that their segments share."""
    facts, joined = report.get("facts", {}), report.get("joined", {})
    found: dict[str, Mapping[str, Any]] = {}
    for episode in episodes:
        segments = joined.get(episode, [episode.partition("/")[2]])
        parts = [facts.get(segment, {}) for segment in segments]
        shared = {name: value for name, value in parts[0].items() if all(one.get(name) == value for one in parts)}
        unmarked = all(one.get("trainable") is not False for one in parts)
        if given := shared if unmarked else shared | {"trainable": False}:
            found[episode] = given
    return found
