"""Excerpts as pictures and films; the difference between two datasets; invalid settings."""

import json

import cv2
import pytest

from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.curation.validation.diff import diff
from vpt_jax.curation.validation.episodes import InspectionError, find_episodes
from vpt_jax.curation.validation.show import Excerpt, choose, show
from vpt_jax.video import decode

from ... import programs
from ...html_page import Page
from .conftest import copy, make_dataset, record


def test_excerpts_are_drawn_at_random_by_the_seed(clean, settings, tmp_path):
    config = settings(clean, num_excerpts=3, seconds=0.5)
    show(config)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["show.mp4", "show.png"]
    sheet = cv2.imread(str(tmp_path / "out" / "show.png"))
    assert sheet.shape[1] == 4 * 320
    assert sheet.std() > 20
    frames = list(decode(tmp_path / "out" / "show.mp4"))
    assert len(frames) == 30
    assert frames[0].shape[1] == 512
    episodes = find_episodes(clean)
    assert choose(episodes, config) == choose(episodes, config)
    assert choose(episodes, config) != choose(episodes, settings(clean, num_excerpts=3, seconds=0.5, seed=1))
    assert choose(episodes, settings(clean, episode="valid/e")) == [Excerpt(episodes[4], 0, 160)]


def test_diff_lists_removed_added_and_changed_episodes(clean, settings, tmp_path, capsys):
    recordings = tmp_path / "recordings"
    for name in ("train/a", "train/b", "train/d", "valid/e"):
        (recordings / name).parent.mkdir(parents=True, exist_ok=True)
        copy(clean.parent / "recordings" / name, recordings / name)
    record(recordings / "train" / "c", 99, frames=100)
    record(recordings / "valid" / "g", 98)
    lines = (recordings / "train" / "d.jsonl").read_text()
    (recordings / "train" / "d.jsonl").write_text(lines.replace("key.keyboard.w", "key.keyboard.s"))
    other = make_dataset(recordings, tmp_path / "other")
    assert diff(settings(clean, other=str(other))) == {
        "removed": ["valid/f"],
        "added": ["valid/g"],
        "changed": {"train/c": ["length", "actions", "frames"], "train/d": ["actions"]},
        "same": 3,
    }
    assert json.loads((tmp_path / "out" / "diff.json").read_text())["settings"] == {}
    assert "train before  train after  valid before" in capsys.readouterr().out
    recompressed = make_dataset(clean.parent / "recordings", tmp_path / "recompressed", quality=60)
    changes = diff(settings(clean, other=str(recompressed)))
    assert set(map(tuple, changes["changed"].values())) == {("frames",)}
    assert json.loads((tmp_path / "out" / "diff.json").read_text())["settings"] == {"quality": ["90", "60"]}
    assert "Settings that differ" in Page((tmp_path / "out" / "diff.html").read_text()).text("h2")


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("stats", dict(data=""), "config.data is empty; give a dataset: --config.data=DATASET"),
        ("show", dict(workers=-1), "config.workers must not be negative"),
        ("show", dict(episode="train/z"), "there is no episode 'train/z' in .*; the first is train/a"),
        ("show", dict(num_excerpts=0), "must be more than 0"),
        ("diff", {}, "config.other is empty; give a dataset to compare with: --config.other=DATASET"),
    ],
)
def test_invalid_settings_are_named(clean, settings, command, changes, message):
    config = settings(clean)
    config.update(changes)
    with pytest.raises(InspectionError, match=message):
        COMMANDS[command](config)


def test_unknown_command_is_refused():
    assert programs.run("data", "chek", status=1).splitlines()[-1] == (
        "error: choose a command: python launch/data.py {stats,validate,show,diff,export,score,early-game} "
        "--config.data=DATASET"
    )
