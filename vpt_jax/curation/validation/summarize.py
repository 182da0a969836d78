"""Command `stats`: statistics of a dataset as text tables, JSON and an HTML page."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.curation.validation.episodes import InspectionError, splits_of
from vpt_jax.curation.validation.outputs import out_folder, write_json, write_page
from vpt_jax.curation.validation.stats import Stats, read_recorded, recorded_stats, split_stats
from vpt_jax.curation.validation.tables import recorded_tables, stats_tables
from vpt_jax.data.dataset import load_index
from vpt_jax.recording import find_recordings
from vpt_jax.system.workers import locked, process_runner, progress_bar


def summarize(config: ConfigDict) -> dict[str, Any]:
    """Prints statistics of `config.data`; writes `stats.json` and `stats.html`.

    Recorder versions, open GUIs and items come from the dataset's report, where `prepare` wrote them, or from the
    recordings in `config.recordings`. Raises `InspectionError` and `DatasetMissingError`.
    """
    stats = dataset_stats(Path(config.data))
    values: dict[str, Any] = {"splits": {split: of_split.as_dict() for split, of_split in stats.items()}}
    if config.recordings:
        values["recordings"] = _read_recordings(Path(config.recordings).resolve(), config.workers)
        recorded = {"recordings": values["recordings"]}
    else:
        recorded = values["recorded"] = _reported(Path(config.data))
    tables = stats_tables(stats) + (recorded_tables(recorded) if recorded else [])
    with locked(out := out_folder(config)):
        write_json(out / "stats.json", values)
        facts = {"dataset": str(config.data)} | ({"recordings": str(config.recordings)} if config.recordings else {})
        write_page(out / "stats.html", f"Statistics of {Path(config.data).name}", facts, tables)
    print("\n\n".join(table.text() for table in tables))
    print(f"\nfull results: {out / 'stats.html'} and stats.json")
    return values


def dataset_stats(dataset: Path) -> dict[str, Stats]:
    """Statistics of all splits of a dataset, by split."""
    return {split: split_stats(load_index(dataset, split)) for split in splits_of(dataset)}


def _reported(dataset: Path) -> dict[str, Any]:
    """Statistics of the recordings by split, from the dataset's report; empty for labelled or older datasets."""
    report = dataset / "report.json"
    if not report.is_file():
        return {}
    try:
        return json.loads(report.read_bytes()).get("recorded", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise InspectionError(f"{report} is damaged ({error}): prepare the dataset again") from error


def _read_recordings(folder: Path, workers: int) -> dict[str, Any]:
    """Statistics of the recordings in a folder and its subfolders."""
    if not folder.is_dir():
        raise InspectionError(f"there is no folder of recordings at {folder}: see config.recordings")
    folders = [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir())]
    recordings = [recording for subfolder in folders for recording in find_recordings(subfolder)]
    if not recordings:
        raise InspectionError(f"there are no recordings (NAME.mp4 and NAME.jsonl) in {folder}: see config.recordings")
    read = []
    bar = progress_bar(len(recordings), desc="reading recordings", unit="file")
    with bar, process_runner(workers, InspectionError) as run:
        for _, recorded in run(read_recorded, [(recording,) for recording in recordings]):
            read.append(recorded)
            bar.update()
    return recorded_stats(read)
