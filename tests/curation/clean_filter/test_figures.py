"""Metrics of the filter on held-out synthetic footage (docs/filtering.md): frames, segments, videos.

Takes minutes: an untrained model's image stack embeds two thousand pictures.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest

from vpt_jax.curation.clean_filter import commands, embedders, labelled_set, overlays, training
from vpt_jax.curation.clean_filter.classifier import load_classifier, margins
from vpt_jax.data.manifest import read_segments

from . import synthetic_set
from .conftest import new_idm, settings

pytestmark = pytest.mark.slow
RATE = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory, and the filter that was trained on the even blocks of the clips."""
    folder = tmp_path_factory.mktemp("figures")
    workdir = new_idm(folder / "idm", 128, "tiny")
    labelled = synthetic_set.write_folder(folder / "labelled", synthetic_set.labelled("learn", times=6))
    commands.clean_filter(settings(workdir, folder / "filter.npz", labelled=labelled))
    return workdir, folder / "filter.npz"


def unseen(clip):
    """Eight seconds of a clip from blocks that were not trained on."""
    blocks = synthetic_set.clip_frames(synthetic_set.CLIPS, "test", RATE)[clip]
    return [frame for block in sorted(blocks) for frame in blocks[block]][: 8 * RATE]


CLIPS = ("build_gate_5", "build_pillar_0", "combat_spider_7")


def test_recall_and_precision_of_clean_frames(trained, tmp_path):
    workdir, path = trained
    rows = synthetic_set.labelled("test")
    frames = labelled_set.find_frames(synthetic_set.write_folder(tmp_path, rows))
    classifier = load_classifier(path)
    maps = training.embed_pictures(frames, embedders.make_embedder("idm", str(workdir)))
    decisions, labels = classifier.decision_function(maps), np.array([frame.label for frame in frames])
    margin = margins(decisions)
    at_recall = np.quantile(margin[labels == 0], 0.2)
    for threshold in (at_recall, classifier.threshold):
        recall, precision, false = measure(labels, margin >= threshold)
        print(f"threshold {threshold:.2f}: recall {recall:.3f}, precision {precision:.3f}, false by class {false}")
        assert recall >= 0.8
        assert precision >= 0.95


def measure(labels, predicted):
    """Recall, precision and false positives; each clean frame occurs once, and with four overlays that count as one."""
    true_positives, overlaid, others = ((predicted & (labels == label)).sum() for label in range(3))
    return (
        true_positives / (labels == 0).sum(),
        true_positives / (true_positives + overlaid / 4 + others),
        (int(overlaid), int(others)),
    )


def test_segment_boundaries_are_within_a_second_of_the_true_ones(trained, tmp_path):
    workdir, path = trained
    rng = np.random.default_rng(11)
    parts = [
        unseen(CLIPS[0]),
        [overlays.face_camera(frame, np.random.default_rng(12)) for frame in unseen(CLIPS[1])],
        unseen(CLIPS[2]),
        synthetic_set.doom_frames("MAP07", 8 * RATE, 3),
        unseen(CLIPS[1]),
        [overlays.logo(frame, np.random.default_rng(13)) for frame in unseen(CLIPS[0])],
        [synthetic_set.menu(rng, *synthetic_set.SIZE)] * 8 * RATE,
    ]
    synthetic_set.write_film(tmp_path / "film.mp4", [frame for part in parts for frame in part])
    # Threshold 0 takes the likeliest class; at the threshold for precision, 2.3 s of the third clip would be dropped.
    commands.clean_filter(settings(workdir, path, videos=tmp_path, min_share=0.0, threshold=0.0))
    found = [(segment.start, segment.end) for segment in read_segments(tmp_path / "segments.parquet")]
    print(found)
    assert len(found) == 3
    assert np.abs(np.array(found) - [(0, 8), (16, 24), (32, 40)]).max() <= 1


def test_clean_clips_are_kept_and_those_with_overlays_dropped(trained, tmp_path):
    workdir, path = trained
    for number, clip in enumerate(CLIPS):
        synthetic_set.write_film(tmp_path / f"{clip} unseen.mp4", unseen(clip))
        (tmp_path / f"{clip} whole.mp4").write_bytes((synthetic_set.CLIPS / f"{clip}.mp4").read_bytes())
        for name, draw in (("face", overlays.face_camera), ("logo", overlays.logo)):
            frames = [draw(frame, np.random.default_rng([number, 7])) for frame in unseen(clip)]
            synthetic_set.write_film(tmp_path / f"{clip} {name}.mp4", frames)
    commands.clean_filter(settings(workdir, path, videos=tmp_path))
    rows = pq.read_table(tmp_path / "filtered.parquet").to_pylist()
    print([(row["name"], round(row["clean"], 2)) for row in rows])
    assert {row["name"] for row in rows if row["kept"]} == {
        f"{clip} {kind}" for clip in CLIPS for kind in ("unseen", "whole")
    }
