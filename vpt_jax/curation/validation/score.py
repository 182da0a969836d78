"""Command `score`: predicted actions against recorded ones, with calibration, as one table, JSON and Markdown.

The predictions are labels of the same episodes (`config.labels`), or those of an inverse dynamics model that is run on
the frames of the dataset (`config.idm`), whatever game or player it was trained on. About 300 bytes are held in memory
for each frame.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.alignment import EpisodeScorer
from vpt_jax.curation.validation.episodes import Episode, InspectionError, find_episodes
from vpt_jax.curation.validation.label_calibration import (
    confidence_calibration,
    cooled,
    fit_temperatures,
    head_calibration,
    head_sums,
    key_thresholds,
    label_outcomes,
    temperatures_of,
    threshold_table,
)
from vpt_jax.curation.validation.outputs import out_folder, write_json
from vpt_jax.curation.validation.predictions import (
    Predicted,
    head_outcomes,
    log_likelihood,
    model_predictions,
    recorded_actions,
    stored_predictions,
)
from vpt_jax.curation.validation.reliability_charts import reliability_section
from vpt_jax.curation.validation.score_tables import score_tables
from vpt_jax.curation.validation.tables import Table
from vpt_jax.curation.validation.validate import load_fitting_idm
from vpt_jax.evaluation.scores import ScoredActions, baseline_scores, score_actions, score_figures
from vpt_jax.labelling.model import CHOICES
from vpt_jax.report import page
from vpt_jax.system.atomic_files import write_text
from vpt_jax.system.workers import locked, progress_bar

Pair = tuple[Predicted, ScoredActions]


def score(config: ConfigDict) -> dict[str, Any]:
    """Scores predictions of `config.data`, and prints the tables; writes `score.json`, `score.md` and `score.html`.

    Raises `InspectionError`, `DatasetMissingError` and `DatasetDamagedError`.
    """
    _check(config)
    episodes = [episode for episode in find_episodes(Path(config.data)) if config.split in ("", episode.split)]
    if not episodes:
        raise InspectionError(f"{config.data} has no split {config.split!r}: see config.split")
    if predicted_splits := sorted({e.split for e in episodes if e.index.labels != "recorded"}):
        raise InspectionError(
            f"{config.data}, split {predicted_splits[0]!r}, holds predicted labels: config.data must be recorded play"
        )
    space = episodes[0].index.space
    with locked(out := out_folder(config)):
        pairs = [
            (predicted, recorded_actions(predicted.episode)) for predicted in _predictions(config, episodes, space)
        ]
        results = _results(config, pairs, space)
        tables = score_tables(results)
        write_json(out / "score.json", _jsonable(results))
        write_text(out / "score.md", "\n\n".join(map(_markdown, tables)) + "\n")
        facts = {"play": str(config.data), "predictions": str(config.labels or config.idm)}
        sections = [page.section("Compared", page.facts_list(facts)), *(table.html() for table in tables)]
        title = f"Scores on {Path(config.data).name}"
        write_text(out / "score.html", page.page(title, [*sections, reliability_section(results)]))
    print("\n\n".join(table.text() for table in tables))
    print(f"\nfull results: {out / 'score.html'}, score.md and score.json")
    return results


def _check(config: ConfigDict) -> None:
    if bool(config.labels) == bool(config.idm):
        raise InspectionError(
            "score needs either labels or a model: --config.labels=DATASET of launch/label.py, or --config.idm=RUN"
        )
    if not 0 < config.target_precision <= 1:
        raise InspectionError(f"config.target_precision is {config.target_precision}: it is above 0 and at most 1")
    if config.draws < 1:
        raise InspectionError(f"config.draws is {config.draws}: give 1 or more")
    if config.choice not in CHOICES:
        raise InspectionError(f"config.choice is {config.choice!r}; choose one of {', '.join(CHOICES)}")


def _predictions(config: ConfigDict, episodes: Sequence[Episode], space: ActionSpace) -> Iterator[Predicted]:
    if config.labels:
        yield from stored_predictions(Path(config.labels), episodes)
        return
    scorer = EpisodeScorer(load_fitting_idm(config, episodes), config.mode, config.mirror)
    with progress_bar(sum(episode.frames for episode in episodes), desc="predicting", unit=" frames") as bar:
        for predicted in model_predictions(scorer, episodes, space, config.choice, config.seed):
            bar.update(predicted.episode.frames)
            yield predicted


def _results(config: ConfigDict, pairs: Sequence[Pair], space: ActionSpace) -> dict[str, Any]:
    scores = [score_actions(space, p.actions, recorded, loss=_losses(p, recorded, space)) for p, recorded in pairs]
    baselines = [baseline_scores(space, recorded) for _, recorded in pairs]
    outcomes = [label_outcomes(p, recorded, space) for p, recorded in pairs]
    ece, curve = confidence_calibration(outcomes, config.draws)
    results: dict[str, Any] = {
        "play": str(config.data),
        "split": config.split,
        "predictions": str(config.labels or config.idm),
        "choice": "" if config.labels else config.choice,
        "episodes": len(pairs),
        "frames": sum(len(recorded.keys) for _, recorded in pairs),
        "metrics": score_figures(space, scores, config.draws),
        "baselines": {
            name: score_figures(space, [each[name] for each in baselines], config.draws) for name in baselines[0]
        },
        "confidence": {"ece": ece, "curve": curve},
        "precision": config.target_precision,
        "thresholds": threshold_table(outcomes, config.target_precision, config.draws),
    }
    return results | (_head_results(config, pairs, space) if config.idm else {})


def _losses(predicted: Predicted, recorded: ScoredActions, space: ActionSpace) -> Any:
    if predicted.log_probs is None:
        return None
    return -log_likelihood(predicted.log_probs, *head_outcomes(recorded, space).values())


def _head_results(config: ConfigDict, pairs: Sequence[Pair], space: ActionSpace) -> dict[str, Any]:
    """Calibration of a model's heads before and after its temperatures, and thresholds by key.

    Afterwards, each half of the episodes is at the temperatures of the other half, so that none judges its own.
    """
    sums = [head_sums(predicted.log_probs, recorded, space) for predicted, recorded in pairs if predicted.log_probs]
    halves = [temperatures_of(sums[1::2] or sums), temperatures_of(sums[::2])]  # of odd episodes, for even ones
    after = [
        head_sums(cooled(predicted.log_probs, halves[i % 2]), recorded, space)
        for i, (predicted, recorded) in enumerate(pairs)
        if predicted.log_probs
    ]
    return {
        "temperatures": fit_temperatures(sums, config.draws),
        "calibration": head_calibration(sums, space, config.draws),
        "calibration_after": head_calibration(after, space, config.draws),
        "key_thresholds": key_thresholds(pairs, space, config.target_precision, config.draws),
    }


def _jsonable(value: Any) -> Any:
    """Named tuples as objects, and NaN and infinities, which JSON has not, as null."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _jsonable(value._asdict())
    if isinstance(value, Mapping):
        return {key: _jsonable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_jsonable(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str | float]) -> str:
        return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells) + " |"

    head = [f"### {table.title}", *([table.note] if table.note else [])]
    rows = [line(table.columns), "|" + "---|" * len(table.columns), *map(line, table.rows)]
    return "\n\n".join([*head, "\n".join(rows)])
