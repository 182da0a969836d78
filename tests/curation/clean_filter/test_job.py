"""The filter job on a folder of videos: tables of clean segments, resuming, and invalid settings."""

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from vpt_jax.curation.clean_filter import commands, job, overlays
from vpt_jax.curation.clean_filter.classifier import ClassifierError
from vpt_jax.data.manifest import read_segments, write_table
from vpt_jax.system.errors import UserError

from ...html_page import Page
from ...programs import Program, xla_flags
from ...training.conftest import kill, wait_until
from . import synthetic_set
from .conftest import settings


def run(config):
    return commands.clean_filter(config)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Excerpts of the clips, with and without a face camera, and files that cannot be decoded."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(5)
    for clip, blocks in synthetic_set.clip_frames(synthetic_set.CLIPS, "test", 3).items():
        frames = [frame for block in blocks.values() for frame in block][:24]
        synthetic_set.write_film(folder / f"{clip}.mp4", frames)
        synthetic_set.write_film(folder / f"{clip} face.mkv", [overlays.face_camera(frame, rng) for frame in frames])
    (folder / "noise.mp4").write_bytes(rng.bytes(3000))
    (folder / "empty.webm").touch()
    return folder


def tables(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in ("segments", "filtered")}


def test_training_writes_a_classifier_and_a_report(small_filter, small_labelled):
    page = Page(small_filter.with_suffix(".html").read_text())
    assert page.text("title") == ["Clean filter"]
    assert {"precision of clean", "recall of clean"} <= set(page.text("dt"))
    assert any("(always the largest class: " in text for text in page.text("dd"))
    assert set(page.text("th")) >= {"clean", "artifacts", "other", "Precision", "Recall"}
    assert not list(small_filter.parent.glob("*.writing"))


def test_tables_hold_clean_segments_and_reasons_for_dropped_videos(idm_dir, small_filter, videos, tmp_path):
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    run(settings(idm_dir, small_filter, videos=tmp_path, threshold=0.0))
    rows = {row["name"]: row for row in pq.read_table(tmp_path / "filtered.parquet").to_pylist()}
    kept = {segment.video for segment in read_segments(tmp_path / "segments.parquet")}
    assert len(rows) == 8
    assert rows["noise"]["reason"].startswith("unreadable video")
    assert rows["empty"]["reason"].startswith("unreadable video")
    for row in rows.values():
        assert row["kept"] == (not row["reason"]) == (row["video"] in kept)
        shares = sum(row[f"labelled_{name}"] for name in ("clean", "artifacts", "other"))
        assert shares == pytest.approx(1 if row["seconds"] else 0)
    assert rows["build_gate_5"]["seconds"] == pytest.approx(8)
    for clip in ("build_gate_5", "build_pillar_0", "combat_spider_7"):
        assert rows[clip]["labelled_clean"] > rows[f"{clip} face"]["labelled_clean"] + 0.3


def test_changed_rules_do_not_decode_again(idm_dir, small_filter, videos, tmp_path, monkeypatch):
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    run(settings(idm_dir, small_filter, videos=tmp_path))
    before = tables(tmp_path)
    monkeypatch.setattr(job, "worker_pool", None)  # calling it would fail
    run(settings(idm_dir, small_filter, videos=tmp_path))
    assert tables(tmp_path) == before
    run(settings(idm_dir, small_filter, videos=tmp_path, min_share=0.0, threshold=-9.0))
    segments = read_segments(tmp_path / "segments.parquet")
    assert [(segment.start, segment.end) for segment in segments] == 6 * [(0, 8)]
    with pytest.raises(job.FilterError, match=r"segments.parquet would be overwritten"):
        run(settings(idm_dir, small_filter, videos=tmp_path / "segments.parquet"))


def test_segments_of_a_manifest_keep_the_times_of_their_video(idm_dir, small_filter, videos, tmp_path):
    """The manifest, named as by `collect` and in the folder of the tables, is not overwritten."""
    shutil.copy(videos / "build_gate_5.mp4", tmp_path)
    rows = [{"video": "build_gate_5.mp4", "start": 1.5, "end": 7.5, "clean": 0.0}]
    rows.append({"video": "missing.mp4", "start": 0.0, "end": 9.0, "clean": 0.0})
    write_table(tmp_path / "videos.parquet", rows, job.SEGMENTS)
    changes = {"videos": tmp_path / "videos.parquet", "min_share": 0.0, "threshold": -9.0}
    manifest = (tmp_path / "videos.parquet").read_bytes()
    run(settings(idm_dir, small_filter, **changes))
    assert (tmp_path / "videos.parquet").read_bytes() == manifest
    (segment,) = read_segments(tmp_path / "segments.parquet")
    assert segment == ("build_gate_5.mp4", 1.5, 7.5)
    reasons = pq.read_table(tmp_path / "filtered.parquet").column("reason").to_pylist()
    assert reasons == ["", "missing video: no such file"]


def start(config):
    flags = [f"--config.{name}={config[name]}" for name in ("weights", "classifier", "videos", "workers")]
    return Program("filter", flags, os.environ | {"XLA_FLAGS": xla_flags(devices=1)})


@pytest.mark.slow
def test_a_killed_and_resumed_run_writes_the_same_bytes(idm_dir, small_filter, videos, tmp_path):
    for name in ("uninterrupted", "killed"):
        shutil.copytree(videos, tmp_path / name)
    uninterrupted = start(settings(idm_dir, small_filter, videos=tmp_path / "uninterrupted"))
    output, _ = uninterrupted.communicate(timeout=300)
    assert uninterrupted.returncode == 0, output
    config, cache = settings(idm_dir, small_filter, videos=tmp_path / "killed"), tmp_path / "killed/filter.answers"
    process = start(config)
    wait_until(lambda: len(list(cache.glob("*.npz"))) >= 3, process)
    kill(process)
    done = {path: path.stat().st_mtime_ns for path in cache.glob("*.npz")}
    assert 3 <= len(done) < 8
    assert not (tmp_path / "killed/segments.parquet").exists()
    process = start(config)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"{len(done)} of 8 videos are classified already" in output
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert tables(tmp_path / "killed") == tables(tmp_path / "uninterrupted")
    assert {path.suffix for path in cache.iterdir()} == {".npz", ".json"}


def test_invalid_settings_are_refused(idm_dir, small_filter, small_labelled, videos, tmp_path):
    def refused(message, **changes):
        with pytest.raises(UserError, match=message):
            run(settings(idm_dir, small_filter, **changes))

    refused("config.classifier must name the classifier's file, and config.labelled")
    refused("config.embedder is 'magic'; choose one of idm, clip", videos=videos, embedder="magic")
    refused(r'needs open_clip: pip install -c constraints.txt -e ".\[clip\]"', videos=videos, embedder="clip")
    refused("holds no checkpoint", videos=videos, weights=str(tmp_path))
    refused("config.median_window is 4, and must be odd", videos=videos, median_window=4)
    refused("config.min_share is 80", videos=videos, min_share=80.0)
    refused("no folder of videos at", videos=tmp_path / "none")
    refused("config.out is .*, and must be a folder that contains the videos", videos=videos, out=tmp_path)
    (tmp_path / "nothing").mkdir()
    refused("there are no videos in", videos=tmp_path / "nothing")
    for name in ("segments", "filtered"):
        (tmp_path / f"{name}.parquet").touch()
        refused("would be overwritten: give it another name", videos=tmp_path / f"{name}.parquet")
    refused("no folder of labelled frames", labelled=tmp_path / "none")
    for name in ("clean", "artifacts", "other"):
        shutil.copytree(small_labelled / name, tmp_path / "labelled" / name)
    (tmp_path / "labelled/clean/broken_1.png").write_bytes(b"no picture")
    refused("broken_1.png cannot be read as a picture", labelled=tmp_path / "labelled")
    shutil.rmtree(tmp_path / "labelled/artifacts")
    refused("artifacts holds no pictures", labelled=tmp_path / "labelled")


def test_a_classifier_of_other_weights_and_too_few_videos_are_refused(idm_dir, small_filter, small_labelled, tmp_path):
    classifier = commands.load_classifier(small_filter)
    classifier.made_of["weights"] = "others"
    classifier.save(tmp_path / "other.npz")
    with pytest.raises(ClassifierError, match=r"other.npz was trained with other weights"):
        run(settings(idm_dir, tmp_path / "other.npz", videos=tmp_path))
    for name in ("clean", "artifacts", "other"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for number, picture in enumerate(sorted((small_labelled / name).iterdir())[:4]):
            shutil.copy(picture, tmp_path / "labelled" / name / f"same_{number}.jpg")
    with pytest.raises(ClassifierError, match=r"the pictures of 'clean' come from 1 videos, and 3 are needed"):
        run(settings(idm_dir, tmp_path / "one.npz", labelled=tmp_path / "labelled"))
    assert not (tmp_path / "one.npz").exists()
