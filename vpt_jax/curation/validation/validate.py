"""Command `validate`: all checks of a dataset, in worker processes and, with an inverse dynamics model, on the device.

Results of each episode are cached in `OUT/validate.partial`, so a run that was killed resumes. The dataset is not
changed.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.curation.validation.alignment import MIN_EXPECTED_GAIN, Alignment, EpisodeScorer, measure_alignment
from vpt_jax.curation.validation.episodes import Episode, InspectionError, find_episodes, shape_of_frames
from vpt_jax.curation.validation.findings import (
    KINDS,
    Finding,
    alignment_findings,
    copy_findings,
    integrity_findings,
    leakage_findings,
    repeat_findings,
)
from vpt_jax.curation.validation.outputs import out_folder, write_json, write_page
from vpt_jax.curation.validation.records import Scan, load_scan, scan_episode
from vpt_jax.curation.validation.tables import Table
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.labelling.model import MODES, model_digest
from vpt_jax.system.atomic_files import read_json
from vpt_jax.system.workers import locked, process_runner, progress_bar
from vpt_jax.training.checkpoints import TrainedIDM, load_idm
from vpt_jax.video_files import content_digest, utf8_path


class Results(NamedTuple):
    """Results of all episodes of a dataset, before they become findings."""

    scans: dict[Episode, Scan]
    alignments: dict[Episode, Alignment]  # of undamaged episodes that are long enough, if there is a model


def validate(config: ConfigDict) -> list[Finding]:
    """Checks `config.data`; writes `validate.json` and `validate.html`, and prints the findings.

    Raises `InspectionError` and `DatasetMissingError`, and `FolderInUseError` while another run writes there.
    """
    episodes = find_episodes(Path(config.data), checked=False)
    idm = load_fitting_idm(config, episodes) if config.idm else None
    with locked(out_folder(config)):
        work = _work_folder(config, episodes, idm)
        scans = _scan_all(config, episodes, work)
        results = Results(scans, _align_all(config, episodes, idm, work) if idm else {})
        findings = _collect_findings(results)
        _report(config, results, findings, idm)
        shutil.rmtree(work.parent)
    return findings


def load_fitting_idm(config: ConfigDict, episodes: Sequence[Episode]) -> TrainedIDM:
    """Loads the model of `config.idm`.

    Raises `InspectionError` if it does not take the episodes' frames, and `ActionSpaceError` if it predicts other keys.
    """
    if config.mode not in MODES:
        raise InspectionError(f"config.mode is {config.mode!r}; choose one of {', '.join(MODES)}")
    idm = load_idm(config.idm)
    idm.module.space.require_equal(episodes[0].index.space, str(config.idm), str(config.data))
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
    """Cache folder, addressed by the dataset's content, the model and the settings; stale ones are removed."""
    facts = [
        _content_digests(episodes[0].dataset),
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


def _content_digests(dataset: Path) -> list[tuple[str, str]]:
    """Relative path and content digest of every file of a dataset; shards, which are large, are hashed by pieces."""
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    with ThreadPoolExecutor(16) as pool:
        digests = pool.map(lambda file: content_digest(file, whole=".array_record" not in file.name), files)
        return [(utf8_path(file.relative_to(dataset)), digest) for file, digest in zip(files, digests, strict=True)]


def _result_file(work: Path, episode: Episode, suffix: str) -> Path:
    return work / f"{episode.split}-{episode.number:07}{suffix}"


def _scan_all(config: ConfigDict, episodes: Sequence[Episode], work: Path) -> dict[Episode, Scan]:
    todo = [episode for episode in episodes if load_scan(_result_file(work, episode, ".npz")) is None]
    bar = progress_bar(sum(map(_frames, episodes)), desc="scanning", unit=" frames")
    with bar, process_runner(config.workers, InspectionError) as run:
        bar.update(bar.total - sum(map(_frames, todo)))
        tasks = [(episode, config.stuck_seconds, _result_file(work, episode, ".npz")) for episode in todo]
        for number, _ in run(scan_episode, tasks):
            bar.update(todo[number].frames)
    return {episode: _stored_scan(work, episode) for episode in episodes}


def _stored_scan(work: Path, episode: Episode) -> Scan:
    scan = load_scan(file := _result_file(work, episode, ".npz"))
    if scan is None:
        raise InspectionError(f"{file} was written, but cannot be read back: check the disk, then run it again")
    return scan


def _frames(episode: Episode) -> int:
    return episode.frames


def _align_all(
    config: ConfigDict, episodes: Sequence[Episode], idm: TrainedIDM, work: Path
) -> dict[Episode, Alignment]:  # fmt: skip
    """The alignment of every episode whose records are intact."""
    scorer = EpisodeScorer(idm, config.mode, config.mirror)
    alignments = {}
    with progress_bar(sum(map(_frames, episodes)), desc="aligning actions with frames", unit=" frames") as bar:
        for episode in episodes:
            file = _result_file(work, episode, ".json")
            if not isinstance(stored := read_json(file), dict):
                write_json(file, stored := {"fit": _align(scorer, episode, _stored_scan(work, episode))})
            if stored["fit"] is not None:
                alignments[episode] = Alignment.from_dict(stored["fit"])
            bar.update(episode.frames)
    return alignments


def _align(scorer: EpisodeScorer, episode: Episode, scan: Scan) -> dict | None:
    if len(scan.hashes) < episode.frames:
        return None  # frames are missing
    index, log_probs = episode.index, scorer.log_probs(episode)
    actions = index.buttons[episode.rows], index.camera[episode.rows]
    alignment = measure_alignment(log_probs, *actions, index.space)
    return None if alignment is None else alignment.as_dict()


def _collect_findings(results: Results) -> list[Finding]:
    return [
        *integrity_findings(results.scans),
        *copy_findings(results.scans),
        *leakage_findings(list(results.scans)),
        *repeat_findings(results.scans, results.alignments),
        *alignment_findings(results.alignments),
    ]


def _report(config: ConfigDict, results: Results, findings: Sequence[Finding], idm: TrainedIDM | None) -> None:
    counts = Counter(finding.kind for finding in findings)
    facts = {"dataset": str(config.data), "episodes": f"{len(results.scans):,}"}
    facts |= _model_facts(results) if idm else {"actions against frames": "not checked: no config.idm"}
    tables = [
        Table("Findings", ["", "found"], [[text, f"{counts[kind]:,}"] for kind, text in KINDS.items()]),
        *(_findings_table(kind, [f for f in findings if f.kind == kind]) for kind in KINDS if counts[kind]),
    ]
    out = out_folder(config)
    fits = {str(episode): alignment.as_dict() for episode, alignment in results.alignments.items()}
    details = {"facts": facts, "findings": [finding._asdict() for finding in findings], "fits": fits}
    write_json(out / "validate.json", details)
    write_page(out / "validate.html", f"Findings in {Path(config.data).name}", facts, tables)
    print("\n".join([f"{name}: {value}" for name, value in facts.items()] + [table.text() for table in tables]))
    print(f"full results: {out / 'validate.html'} and validate.json")


def _model_facts(results: Results) -> dict[str, str]:
    """Number of episodes that were checked, and the gain as a measure of the model's quality."""
    left_out = len(results.scans) - len(results.alignments)
    facts = {"actions against frames": f"{len(results.alignments):,} episodes; {left_out:,} too short or damaged"}
    if not results.alignments:
        return facts
    gains = np.median([(alignment.gain, alignment.expected_gain) for alignment in results.alignments.values()], axis=0)
    summary = f"{gains[0]:.2f} nats per frame over the same actions elsewhere; the model expects {gains[1]:.2f}"
    reliable = gains[0] > gains[1] / 2 > MIN_EXPECTED_GAIN
    warning = "" if reliable else ". The model is weak on this footage: its findings are unreliable"
    return facts | {"median gain of actions at their own frames": summary + warning}


def _findings_table(kind: str, findings: Sequence[Finding]) -> Table:
    return Table(KINDS[kind], ["where", "detail"], [[finding.where, finding.detail] for finding in findings])
