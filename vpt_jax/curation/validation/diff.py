"""Difference between two datasets: settings, episodes, figures."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vpt_jax.curation.validation.episodes import (
    Episode,
    InspectionError,
    digest_actions,
    digest_frames,
    find_episodes,
    splits_of,
)
from vpt_jax.curation.validation.outputs import out_folder, write_json, write_page
from vpt_jax.curation.validation.summarize import dataset_stats
from vpt_jax.curation.validation.tables import Table, stats_tables
from vpt_jax.data.dataset import load_index
from vpt_jax.system.workers import locked, process_runner, progress_bar


class Content(NamedTuple):
    """Digests of an episode's content. Field names are the values of "changed" in `diff.json`."""

    length: int
    actions: str  # digests
    frames: str


def diff(config: ConfigDict) -> dict[str, Any]:
    """Prints how `config.other` differs from `config.data`; writes `diff.json` and `diff.html`.

    Raises `InspectionError` and `DatasetMissingError`.
    """
    if not config.other:
        raise InspectionError("config.other is empty; give a dataset to compare with: --config.other=DATASET")
    datasets = Path(config.data), Path(config.other)
    before, after = (_contents(dataset, config.workers) for dataset in datasets)
    changes = compare(before, after)
    settings = [_settings(dataset) for dataset in datasets]
    with locked(out := out_folder(config)):
        write_json(out / "diff.json", {"settings": _differing(*settings), "episodes": changes})
        tables = _tables(datasets, settings, changes)
        facts = dict(zip(("before", "after"), map(str, datasets), strict=True))
        write_page(out / "diff.html", f"From {datasets[0].name} to {datasets[1].name}", facts, tables)
    print("\n\n".join(table.text() for table in tables))
    print(f"\nfull results: {out / 'diff.html'} and diff.json")
    return changes


def compare(before: Mapping[str, Content], after: Mapping[str, Content]) -> dict[str, Any]:
    """Names of removed, added and changed episodes, with the fields that differ; and the number of equal ones."""
    changed = {
        name: [field for field in Content._fields if getattr(before[name], field) != getattr(after[name], field)]
        for name in before
        if name in after and before[name] != after[name]
    }
    return {
        "removed": [name for name in before if name not in after],
        "added": [name for name in after if name not in before],
        "changed": changed,
        "same": sum(before[name] == after.get(name) for name in before),
    }


def _contents(dataset: Path, workers: int) -> dict[str, Content]:
    episodes = find_episodes(dataset)
    contents: dict[int, Content] = {}
    bar = progress_bar(len(episodes), desc=f"reading {dataset.name}", unit="episode")
    with bar, process_runner(workers, InspectionError) as run:
        for number, content in run(read_content, [(episode,) for episode in episodes]):
            contents[number] = content
            bar.update()
    return {str(episode): contents[number] for number, episode in enumerate(episodes)}


def read_content(episode: Episode) -> Content:
    """Reads an episode, and returns its length and digests; runs in a worker process."""
    return Content(episode.frames, digest_actions(episode), digest_frames(episode))


def _settings(dataset: Path) -> dict[str, str]:
    """Settings that a dataset was made with, from its report and its indexes."""
    report = json.loads((dataset / "report.json").read_text()) if (dataset / "report.json").is_file() else {}
    made = {name: value for name, value in report.get("made_of", {}).items() if name != "videos"}
    indexes = {split: load_index(dataset, split) for split in splits_of(dataset)}
    of_splits = {
        f"{split}: {name}": getattr(indexes[split], name) for split in indexes for name in ("labels", "chunk_frames")
    }
    return {name: str(value) for name, value in (report.get("settings", {}) | made | of_splits).items()}


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (before.get(name, "-"), after.get(name, "-")) for name in {**before, **after}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _tables(datasets: Sequence[Path], settings: Sequence[Mapping[str, str]], changes: Mapping[str, Any]) -> list[Table]:
    sides = ["before", "after"]
    fields = Counter(", ".join(names) for names in changes["changed"].values())
    counts = [[kind, f"{len(changes[kind]):,}"] for kind in ("removed", "added")]
    counts += [[f"changed: {names}", f"{count:,}"] for names, count in fields.items()]
    counts += [["same", f"{changes['same']:,}"]]
    named = [[name, kind] for kind in ("removed", "added") for name in changes[kind]]
    named += [[name, f"changed: {', '.join(names)}"] for name, names in changes["changed"].items()]
    differing = [[name, *pair] for name, pair in _differing(*settings).items()]
    stats = {
        f"{split} {side}": split_stats for side, dataset in zip(sides, datasets, strict=True)
        for split, split_stats in dataset_stats(dataset).items()
    }  # fmt: skip
    return [
        *([Table("Settings that differ", ["", *sides], differing)] if differing else []),
        Table("Episodes", ["", "episodes"], counts),
        *([Table("Episodes that differ", ["episode", ""], named)] if named else []),
        *stats_tables(dict(sorted(stats.items(), key=lambda item: item[0].split()[0]))),
    ]
