"""All checks of a dataset, in worker processes and, if an inverse dynamics model is given, on the device.

What was seen of each episode is kept in `OUT/validate.partial`, so a run that was killed goes on. Nothing in the
dataset is changed.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.curation.validation.alignment import LEAST, Fit, Reader, fit_actions
from vpt_jax.curation.validation.episodes import Episode, InspectionError, find_episodes, shape_of_frames
from vpt_jax.curation.validation.findings import KINDS, Finding, broken, copies, misfits, shared
from vpt_jax.curation.validation.outputs import out_folder, write_json, write_page
from vpt_jax.curation.validation.records import Scan, load_scan, scan_episode
from vpt_jax.curation.validation.tables import Table
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.labelling.model import MODES, model_digest
from vpt_jax.system.atomic_files import read_json
from vpt_jax.system.workers import in_processes, locked, progress_bar
from vpt_jax.training.checkpoints import TrainedIDM, load_idm
from vpt_jax.video_files import content_digest, utf8_path


class Seen(NamedTuple):
    """What is known of the episodes of a dataset."""

    scans: dict[Episode, Scan]
    fits: dict[Episode, Fit]  # of those long enough, if there is a model


def validate(config: ConfigDict) -> list[Finding]:
    """Checks `config.data`; writes `validate.json` and `validate.html`, and prints what it found.

    Raises `InspectionError` and `DatasetMissingError`, and `FolderInUseError` while another run writes there.
    """
    episodes = find_episodes(Path(config.data), checked=False)
    idm = _load_idm(config, episodes) if config.idm else None
    with locked(out_folder(config)):
        work = _work_folder(config, episodes, idm)
        seen = Seen(_scan_all(config, episodes, work), _fit_all(config, episodes, idm, work) if idm else {})
        findings = _judge(seen)
        _report(config, seen, findings, idm)
        shutil.rmtree(work.parent)
    return findings


def _load_idm(config: ConfigDict, episodes: Sequence[Episode]) -> TrainedIDM:
    if config.mode not in MODES:
        raise InspectionError(f"config.mode is {config.mode!r}; choose one of {', '.join(MODES)}")
    idm = load_idm(config.idm)
    if idm.window % 4:
        raise InspectionError(f"{config.idm} was trained on windows of {idm.window} frames: a multiple of 4 is needed")
    if (shape := shape_of_frames(episodes[0])) is None:
        raise DatasetDamagedError(f"no frame of {config.data}, split {episodes[0].split!r}, can be read")
    if shape != tuple(idm.frame_shape):
        sizes = [f"{height}x{width}" for height, width, _ in (shape, idm.frame_shape)]
        raise InspectionError(
            f"the frames of {config.data} are {sizes[0]}, and {config.idm} was trained on {sizes[1]}: give an inverse "
            "dynamics model of this size in config.idm, or prepare the recordings at the model's"
        )
    return idm


def _work_folder(config: ConfigDict, episodes: Sequence[Episode], idm: TrainedIDM | None) -> Path:
    """The folder of stored results, by the dataset's content and the settings; those of others are removed."""
    facts = [
        _contents(episodes[0].dataset),
        [model_digest(idm), config.mode, config.mirror] if idm else None,
        config.stuck_seconds,
    ]
    partial = out_folder(config) / "validate.partial"
    work = partial / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    for other in partial.glob("*"):
        if other != work:
            shutil.rmtree(other)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _contents(dataset: Path) -> list[tuple[str, str]]:
    """All files of a dataset, each by its path in it and its content; shards, which are large, by pieces of it."""
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    with ThreadPoolExecutor(16) as pool:
        digests = pool.map(lambda file: content_digest(file, whole=".array_record" not in file.name), files)
        return [(utf8_path(file.relative_to(dataset)), digest) for file, digest in zip(files, digests, strict=True)]


def _result(work: Path, episode: Episode, suffix: str) -> Path:
    return work / f"{episode.split}-{episode.number:07}{suffix}"


def _scan_all(config: ConfigDict, episodes: Sequence[Episode], work: Path) -> dict[Episode, Scan]:
    todo = [episode for episode in episodes if load_scan(_result(work, episode, ".npz")) is None]
    bar = progress_bar(sum(map(_frames, episodes)), desc="looking", unit=" frames")
    with bar, in_processes(config.workers) as run:
        bar.update(bar.total - sum(map(_frames, todo)))
        tasks = [(episode, config.stuck_seconds, _result(work, episode, ".npz")) for episode in todo]
        for number, _ in run(scan_episode, tasks):
            bar.update(todo[number].frames)
    return {episode: _scan(work, episode) for episode in episodes}


def _scan(work: Path, episode: Episode) -> Scan:
    scan = load_scan(file := _result(work, episode, ".npz"))
    if scan is None:
        raise InspectionError(f"{file} does not keep what is written there: check the disk, then run it again")
    return scan


def _frames(episode: Episode) -> int:
    return episode.frames


def _fit_all(config: ConfigDict, episodes: Sequence[Episode], idm: TrainedIDM, work: Path) -> dict[Episode, Fit]:
    """The fit of every episode whose records are whole."""
    reader = Reader(idm, config.mode, config.mirror)
    fits = {}
    with progress_bar(sum(map(_frames, episodes)), desc="fitting actions to frames", unit=" frames") as bar:
        for episode in episodes:
            file = _result(work, episode, ".json")
            if not isinstance(stored := read_json(file), dict):
                write_json(file, stored := {"fit": _fit(reader, episode, _scan(work, episode))})
            if stored["fit"] is not None:
                fits[episode] = Fit(**stored["fit"])
            bar.update(episode.frames)
    return fits


def _fit(reader: Reader, episode: Episode, scan: Scan) -> dict | None:
    if len(scan.hashes) < episode.frames:
        return None  # frames are missing
    index = episode.index
    fit = fit_actions(reader.read(episode), index.buttons[episode.rows], index.camera[episode.rows])
    return None if fit is None else fit.as_dict()


def _judge(seen: Seen) -> list[Finding]:
    return [
        *broken(seen.scans),
        *copies(seen.scans),
        *shared(list(seen.scans)),
        *misfits(seen.fits),
    ]


def _report(config: ConfigDict, seen: Seen, findings: Sequence[Finding], idm: TrainedIDM | None) -> None:
    counts = Counter(finding.kind for finding in findings)
    facts = {"dataset": str(config.data), "episodes": f"{len(seen.scans):,}"}
    facts |= _model_facts(seen) if idm else {"actions against frames": "not checked: no config.idm"}
    tables = [
        Table("Findings", ["", "found"], [[text, f"{counts[kind]:,}"] for kind, text in KINDS.items()]),
        *(_findings_table(kind, [f for f in findings if f.kind == kind]) for kind in KINDS if counts[kind]),
    ]
    out = out_folder(config)
    details = {"facts": facts, "findings": [finding._asdict() for finding in findings], "fits": _fits(seen.fits)}
    write_json(out / "validate.json", details)
    write_page(out / "validate.html", f"What is wrong with {Path(config.data).name}", facts, tables)
    print("\n".join([f"{name}: {value}" for name, value in facts.items()] + [table.text() for table in tables]))
    print(f"all of it: {out / 'validate.html'} and validate.json")


def _model_facts(seen: Seen) -> dict[str, str]:
    """How many actions were checked, and how much the model knows."""
    left_out = len(seen.scans) - len(seen.fits)
    facts = {"actions against frames": f"{len(seen.fits):,} episodes; {left_out:,} too short or damaged"}
    if not seen.fits:
        return facts
    gains = np.median([(fit.gain, fit.expected_gain) for fit in seen.fits.values()], axis=0)
    said = f"{gains[0]:.2f} nats a frame over the same actions elsewhere; the model expects {gains[1]:.2f}"
    doubt = "" if gains[0] > gains[1] / 2 > LEAST else ". It knows little of this footage: its findings mean little"
    return facts | {"median gain of actions at their own frames": said + doubt}


def _findings_table(kind: str, findings: Sequence[Finding]) -> Table:
    return Table(KINDS[kind], ["where", "what"], [[finding.where, finding.detail] for finding in findings])


def _fits(fits: Mapping[Episode, Fit]) -> dict[str, dict]:
    return {str(episode): fit.as_dict() for episode, fit in fits.items()}
