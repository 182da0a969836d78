"""Exported labels, prepared again: the same actions to the bit, in each format, and the same frames but for JPEG."""

import json
from contextlib import nullcontext

import numpy as np
import pytest

from configs.prepare import get_config
from vpt_jax.curation.export.run import export
from vpt_jax.curation.validation.episodes import find_episodes, read_frames
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
