"""Clean filter (paper, appendix A.2): finds the segments of videos that show play without overlays."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.curation.clean_filter import job, labelled_set, training
from vpt_jax.curation.clean_filter.classifier import ClassifierError, FrameClassifier, load_classifier
from vpt_jax.curation.clean_filter.embedders import Embedder, make_embedder
from vpt_jax.curation.clean_filter.job import FilterError
from vpt_jax.curation.clean_filter.report import summary_metrics, write_report
from vpt_jax.system.paths import refuse_remote_paths


def clean_filter(config: ConfigDict) -> None:
    """Trains a classifier on `config.labelled`, filters `config.videos`, or first one and then the other.

    Raises a `UserError` for invalid settings or files, and while another run writes to the same folder.
    """
    refuse_remote_paths(config)
    if not config.classifier or not (config.labelled or config.videos):
        raise FilterError(
            "config.classifier must name the classifier's file, and config.labelled (to train), config.videos "
            "(to filter) or both must be given: "
            "--config.classifier=FILE.npz --config.labelled=FOLDER --config.videos=FOLDER"
        )
    job.check_config(config)
    training.check_config(config)
    embedder = make_embedder(config.embedder, config.weights)
    path = Path(config.classifier)
    classifier = _train(config, embedder, path) if config.labelled else _load(config, embedder, path)
    if config.videos:
        job.filter_videos(config, classifier, embedder)


def _train(config: ConfigDict, embedder: Embedder, path: Path) -> FrameClassifier:
    frames = labelled_set.find_frames(Path(config.labelled))
    maps = training.embed_pictures(frames, embedder)
    labels, groups = np.array([frame.label for frame in frames]), np.array([frame.group for frame in frames])
    held_out = training.cross_validate(maps, labels, groups, config)
    made_of = {"embedder": config.embedder, "weights": embedder.digest, "frames": labelled_set.digest(frames)}
    classifier = FrameClassifier(*training.fit(maps, labels, groups, config.svm_c), held_out.threshold, made_of)
    classifier.save(path)
    write_report(path.with_suffix(".html"), frames, held_out)
    print(f"classifier: {path}; report: {path.with_suffix('.html')}")
    print("\n".join(f"  {name}: {value}" for name, value in summary_metrics(held_out).items()))
    return classifier


def _load(config: ConfigDict, embedder: Embedder, path: Path) -> FrameClassifier:
    classifier = load_classifier(path)
    used = {"embedder": config.embedder, "weights": embedder.digest}
    if other := [name for name, value in used.items() if classifier.made_of.get(name) != value]:
        raise ClassifierError(f"{path} was trained with other {' and '.join(other)}: give those, or train it again")
    return classifier
