"""Exported labels, prepared again: the same actions to the bit, in each format, and the same frames but for JPEG."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest

from configs.prepare import get_config
from vpt_jax.curation.export.run import export
from vpt_jax.curation.validation.episodes import find_episodes, read_frames
from vpt_jax.data.bridges.exported import ExportError
from vpt_jax.data.episode_facts import read_episode_facts
from vpt_jax.data.prepare import prepare

from ... import programs
from .conftest import BINDINGS, SPACES


@pytest.mark.slow  # worker processes take seconds to start
@pytest.mark.parametrize("format", ["owamcap", "lerobot"])
def test_the_program_writes_the_same_bytes_with_several_workers(labels, settings, tmp_path, format):
    name, data = labels
    flags = [f"--config.{key}={value}" for key, value in dict(data=data, format=format, crf=18).items()]
    flags += [f"--config.bindings={BINDINGS[name]}", f"--config.out={tmp_path / 'program'}", "--config.workers=2"]
    assert f"3 episodes, 0.00 hours, as {format}" in programs.run("data", "export", *flags)
    export(settings(data, format=format, bindings=BINDINGS[name], crf=18))
    written = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "program", tmp_path / "out")
    ]
    assert len(written[0]) > 5
    assert written[0] == written[1]


@pytest.mark.parametrize("format", ["owamcap", "lerobot"])
def test_a_dataset_that_goes_out_and_in_has_the_same_actions(labels, settings, tmp_path, monkeypatch, format):
    run = lambda function, tasks: [(i, function(*task)) for i, task in enumerate(tasks)]  # noqa: E731
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(run))
    name, data = labels
    exported = export(settings(data, format=format, bindings=BINDINGS[name]))
    (tmp_path / "space.json").write_text(json.dumps(SPACES[name].to_dict()))
    config = get_config()
    config.update(recordings=str(exported), out=str(tmp_path / "again"), height=16, width=24, chunk_frames=8)
    config.update(space=str(tmp_path / "space.json"))
    found = {episode.name: episode for episode in find_episodes(prepare(config, format))}
    originals = find_episodes(data)
    assert len(found) == len(originals)
    for original in originals:
        again = found[str(original) if format == "lerobot" else original.name]
        for field in ("buttons", "camera"):
            expected = getattr(original.index, field)[original.rows]
            np.testing.assert_array_equal(getattr(again.index, field)[again.rows], expected)
        frames = [read_frames(episode, 0, original.frames).astype(int) for episode in (original, again)]
        assert np.abs(frames[0] - frames[1]).mean() < 2


@pytest.mark.parametrize("format", ["owamcap", "lerobot"])
def test_facts_go_out_and_in(labels, settings, tmp_path, monkeypatch, format):
    run = lambda function, tasks: [(i, function(*task)) for i, task in enumerate(tasks)]  # noqa: E731
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(run))
    name, data = labels[0], tmp_path / "data"
    shutil.copytree(labels[1], data)
    facts = {"player": "anna", "licence": "CC0-1.0", "session": "s1", "trainable": False}
    plays = [
        {"split": "train", "facts": facts | {"mouse_factor": 2.0, "labels": "x"}, "episodes": ["a"]},
        {"split": "valid", "facts": {"player": "bob", "session": "s2"}, "episodes": ["c"]},
    ]
    (data / "report.json").write_text(json.dumps({"plays": plays, "untrainable": ["play of a"]}))
    exported = export(settings(data, format=format, bindings=BINDINGS[name]))
    (tmp_path / "space.json").write_text(json.dumps(SPACES[name].to_dict()))
    config = get_config()
    config.update(recordings=str(exported), out=str(tmp_path / "again"), height=16, width=24, chunk_frames=8)
    config.update(space=str(tmp_path / "space.json"))
    report = json.loads((prepare(config, format) / "report.json").read_text())
    split = "train/" * (format == "lerobot")
    assert report["left_out_as_untrainable"] == [f"{split}a"]
    found = {play["name"].removeprefix("train/").removeprefix("valid/"): play["facts"] for play in report["plays"]}
    assert found["a"].items() >= facts.items()
    assert "mouse_factor" not in found["a"]  # the movements are multiplied already
    assert (found["c"]["player"], found["c"]["session"]) == ("bob", "s2")
    (data / "report.json").write_text(json.dumps({"plays": plays[1:]}))
    with pytest.raises(ExportError, match="dataset was"):
        export(settings(data, format=format, bindings=BINDINGS[name]))


def test_facts_of_openais_recordings_and_of_joined_segments(tmp_path):
    report = {
        "facts": {"a": {"player": "anna", "text": "one"}, "b": {"player": "anna", "trainable": False}, "c": {}},
        "joined": {"train/a": ["a", "b"]},
        "untrainable": ["d"],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert read_episode_facts(tmp_path, ["train/a", "train/c", "valid/b", "valid/d"]) == {
        "train/a": {"player": "anna", "trainable": False},
        "valid/b": {"player": "anna", "trainable": False},
        "valid/d": {"trainable": False},
    }
    assert read_episode_facts(tmp_path / "none", ["train/a"]) == {}
