"""Hosts that share a labelling job and start or finish at the same time."""

import os
from functools import partial

import pytest

from vpt_jax.labelling import job, steps
from vpt_jax.labelling.job import label

from .conftest import files, pictures, settings, write_video
from .test_changed_videos import labels_by_brightness


@pytest.fixture
def config_of(idm_dir, tmp_path, monkeypatch, in_process):
    """The config of a host, by its shard index."""
    monkeypatch.setattr(steps, "label_spans", labels_by_brightness)
    for number, name in enumerate("ab"):
        write_video(tmp_path / "videos" / f"{name}.mkv", "ffv1", "bgr0", pictures(12, 8 + number, 16))
    return lambda shard_index: settings(
        tmp_path / "videos", idm_dir, tmp_path / "out", num_films=0, num_shards=2, shard_index=shard_index
    )


def call_first(patch, place, action):
    """Runs `action`, of another host, before the first call of the job's function `place`."""
    original, left = getattr(job, place), [action]
    patch.setattr(job, place, lambda *arguments: (left and left.pop()(), original(*arguments))[1])


def test_a_host_has_nothing_to_do_if_another_completed_the_dataset_meanwhile(config_of, tmp_path, monkeypatch, capsys):
    """The other host finishes between this one's check for the dataset and its lock of the folder."""
    label(config_of(0))
    call_first(monkeypatch, "_check_window", partial(label, config_of(1)))
    label(config_of(0))
    assert "nothing to do" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["out", "videos"]


def test_hosts_that_finish_together_write_one_dataset(config_of, tmp_path, monkeypatch, capsys):
    """Both shards are complete; the other host merges them and removes the intermediate files."""
    finish, written = job._label_shard, []

    def finish_with_the_other(*arguments):
        finish(*arguments)
        if not written:
            written.append(None)
            written[:] = [files(label(config_of(1)))]

    monkeypatch.setattr(job, "_label_shard", finish_with_the_other)
    out = label(config_of(0))
    assert [files(out)] == written
    assert capsys.readouterr().out.count(f"dataset {out}") == 2
    assert sorted(os.listdir(tmp_path)) == ["out", "videos"]
