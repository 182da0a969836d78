"""Episodes of bridged recordings that go into a dataset, by their facts, and what its report says of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vpt_jax.data import splits
from vpt_jax.data.bridged import BridgedRecording
from vpt_jax.data.encode import Recording
from vpt_jax.system.atomic_files import read_json
from vpt_jax.system.errors import UserError

_MAX_NAMED = 5  # recordings in a message


class NotTrainableError(UserError, ValueError):
    """A dataset with recordings that may not be trained on; the message names them and the remedy."""


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
    listed = {split: [p for key, p in plays.items() if key[0] == split] for split in dict.fromkeys(k[0] for k in plays)}
    report: dict[str, Any] = {"plays": listed}
    if untrainable:
        report["untrainable" if include_untrainable else "left_out_as_untrainable"] = sorted(
            name for _, name in untrainable
        )
    return Chosen(episodes, report, [name for (_, name), count in counts.items() if count > 1])


def _key(episode: Recording) -> tuple[str, str]:
    return episode.split, episode.name


def summary(report: Mapping[str, Any]) -> list[str]:
    """Lines about bridged recordings for the terminal."""
    plays = [play for found in report.get("plays", {}).values() for play in found]
    lines = []
    if remarks := sum(bool(play["remarks"]) for play in plays):
        lines.append(f"  {remarks:,} recordings have remarks, listed in the report, such as: {_first_remark(plays)}")
    if names := report.get("left_out_as_untrainable"):
        lines.append(f"  left out as not trainable: {_names(names)}")
    if names := report.get("untrainable"):
        lines.append(f"  not trainable, so `train` refuses this dataset: {_names(names)}")
    return lines


def _first_remark(plays: Sequence[Mapping[str, Any]]) -> str:
    return next(f"{play['name']}: {play['remarks'][0]}" for play in plays if play["remarks"])


def require_trainable(dataset_dir: Path) -> None:
    """Raises `NotTrainableError` if a dataset has recordings that are marked as not trainable."""
    report = read_json(dataset_dir / "report.json")
    names = report.get("untrainable") if isinstance(report, dict) else None
    if names:
        raise NotTrainableError(
            f"{dataset_dir} has recordings that are marked as not trainable: {_names(names)}. Prepare a dataset "
            "without them: leave out --config.include_untrainable"
        )


def _names(names: Sequence[Any]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(map(str, names[:_MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")
