"""Episodes of bridged recordings that go into a dataset, by their facts, and what its report says of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vpt_jax.data import splits, trainable
from vpt_jax.data.bridged import BridgedRecording
from vpt_jax.data.encode import Recording
from vpt_jax.data.errors import PrepareError


def refuse_unknown_factors(recordings: Sequence[BridgedRecording], factors: Iterable[str]) -> None:
    """Raises `PrepareError` if `config.mouse_factors` names a play that does not exist.

    Args:
        recordings: all are encoded. The plays of a broken one are unknown; they have names that are like its own.
        factors: names in the file.
    """
    plays = {play["name"] for one in recordings for play in one.plays()}
    broken = [episode.name for one in recordings for episode in one.episodes() if not episode.is_intact]
    for name in factors:
        if name not in plays and not any(name in other or other in name for other in broken):
            known = ", ".join(sorted(plays)[:5]) or "none"
            raise PrepareError(f"config.mouse_factors: no play is named {name!r}; there are: {known}, ...")


class Chosen(NamedTuple):
    """Episodes of a dataset in its order, and its report's fields about them."""

    episodes: list[Recording]
    report: dict[str, Any]
    duplicates: list[str]  # names that two episodes of a split would have


def choose_episodes(recordings: Sequence[BridgedRecording], valid: ConfigDict, include_untrainable: bool) -> Chosen:
    """Splits the encoded recordings by their facts, and leaves out what may not be trained on.

    Args:
        recordings: all are encoded.
        valid: `config.valid` (configs/prepare.py).
        include_untrainable: also take recordings that are marked as not trainable; `train` refuses the dataset.
    """
    plays = {(one.split, play["name"]): play for one in recordings for play in one.plays()}
    untrainable = {key for key, play in plays.items() if play["facts"].get("trainable") is False}
    owner = {(split, name): (split, play["name"]) for (split, _), play in plays.items() for name in play["episodes"]}
    found = [episode for one in recordings for episode in one.episodes()]
    found = [episode for episode in found if include_untrainable or owner.get(_key(episode)) not in untrainable]
    held_out: set[str] = set()
    if not any(one.split == "valid" for one in recordings):
        names = sorted({owner[_key(one)][1] for one in found if one.split == "train" and _key(one) in owner})
        facts = {name: plays["train", name]["facts"] for name in names}
        held_out = splits.held_out(names, valid.fraction, valid.by, valid.seed, facts)
    episodes = [
        one._replace(split="valid") if one.split == "train" and owner.get(_key(one), ("", ""))[1] in held_out else one
        for one in found
    ]
    order = ("train", "valid", "test")
    episodes.sort(key=lambda one: order.index(one.split))  # stable: each split in the order of the recordings
    counts = Counter(_key(one) for one in episodes if one.is_intact)
    report: dict[str, Any] = {
        "plays": [
            {"split": "valid" if split == "train" and name in held_out else split} | play
            for (split, name), play in plays.items()
        ]
    }
    report |= trainable.report_untrainable((name for _, name in untrainable), include_untrainable)
    return Chosen(episodes, report, [name for (_, name), count in counts.items() if count > 1])


def _key(episode: Recording) -> tuple[str, str]:
    return episode.split, episode.name


def summary(report: Mapping[str, Any]) -> list[str]:
    """Lines about bridged recordings for the terminal."""
    plays = report.get("plays", [])
    lines = []
    if remarks := sum(bool(play["remarks"]) for play in plays):
        lines.append(f"  {remarks:,} recordings have remarks, listed in the report, such as: {_first_remark(plays)}")
    return lines


def _first_remark(plays: Sequence[Mapping[str, Any]]) -> str:
    return next(f"{play['name']}: {play['remarks'][0]}" for play in plays if play["remarks"])
