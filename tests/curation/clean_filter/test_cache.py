"""Cached results of a filtered video are addressed by its content, not by its name or modification time."""

import os
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.filter import get_config
from vpt_jax.curation.clean_filter import job
from vpt_jax.curation.clean_filter.embedders import Embedder

from ...film_maker import corners, write_film


@pytest.fixture
def decoded(monkeypatch):
    """Names of the videos that are decoded, in this process."""
    names = []

    def prefetch(pool, todo, config, embedder):
        for clip, result in todo:
            names.append(clip.video.name)
            sampled = job.sample_frames(clip, result, config.frames_per_second, embedder.size)
            yield clip, result, SimpleNamespace(result=lambda: sampled)  # noqa: B023

    monkeypatch.setattr(job, "_prefetch", prefetch)
    return names


def filter_folder(folder):
    """Filters the videos of a folder with a classifier that labels everything clean; returns the table of videos."""
    config = get_config()
    config.update(videos=str(folder), min_seconds=0.0)
    embedder = Embedder((8, 8), lambda frames: [frames.mean((1, 2), np.float32)[:, None, None]], "embedder")
    classifier = SimpleNamespace(
        digest=lambda: "classifier",
        threshold=0.0,
        decision_function=lambda maps: np.tile([1.0, 0.0, 0.0], (len(maps[0]), 1)),
    )
    job.filter_videos(config, classifier, embedder)
    return pq.read_table(folder / "filtered.parquet").to_pylist()


def test_cache_survives_renaming_and_touching_but_not_replacement(tmp_path, decoded):
    """A replaced video is detected even if its size and modification time are unchanged."""
    write_film(tmp_path / "a.mp4", [corners(64, 64)] * 3)
    filter_folder(tmp_path)
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    os.utime(tmp_path / "b.mp4", (1, 1))
    assert [row["video"] for row in filter_folder(tmp_path)] == ["b.mp4"]
    assert decoded == ["a.mp4"]
    data = bytearray((tmp_path / "b.mp4").read_bytes())
    data[data.index(b"isom")] ^= 1  # same size
    (tmp_path / "b.mp4").write_bytes(data)
    os.utime(tmp_path / "b.mp4", (1, 1))
    filter_folder(tmp_path)
    assert decoded == ["a.mp4", "b.mp4"]


def test_a_name_that_is_not_utf8_is_listed_as_unreadable(tmp_path, decoded):
    """Such a video is dropped with a reason, and its name escaped (attack M3)."""
    write_film(tmp_path / "a.mp4", [corners(64, 64)] * 3).rename(tmp_path / os.fsdecode(b"lat\xefin.mp4"))
    (row,) = filter_folder(tmp_path)
    assert (row["name"], row["video"], row["kept"]) == ("lat\\xefin", "lat\\xefin.mp4", False)
    assert row["reason"] == "unreadable name: its name is not UTF-8: rename it"
