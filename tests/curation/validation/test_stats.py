"""Dataset statistics compared with manual counts."""

import json
import re

import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTON_INDEX, BUTTONS, CAMERA
from vpt_jax.curation.validation.episodes import InspectionError
from vpt_jax.curation.validation.stats import split_stats
from vpt_jax.curation.validation.summarize import summarize
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.recording import RecordingWriter

from ...html_page import Page
from .conftest import SIZE

ATTACK, FORWARD, BACK = (BUTTON_INDEX[key] for key in ("attack", "forward", "back"))


def test_statistics_equal_manual_counts():
    buttons, camera = np.zeros((40, 20), np.uint8), np.zeros((40, 2), np.float32)
    buttons[5:10, ATTACK] = 1  # the first episode ends at 10, with the key down
    buttons[10:12, ATTACK] = 1  # pressed again in the second one
    buttons[20:22, [FORWARD, BACK]] = 1  # they cancel each other, but are not a null action
    camera[30] = (10, -10)
    camera[31] = (0.01, 0)  # too small for another bin
    index = EpisodeIndex(
        ("a", "b"), np.array([10, 30]), buttons, camera, np.full(40, 0.5, np.float32), "predicted", chunk_frames=8
    )
    stats = split_stats(index)
    assert (stats.episodes, stats.frames, stats.labels, stats.confidence) == (2, 40, "predicted", 0.5)
    assert (stats.shortest, stats.median, stats.longest, stats.hours) == (10, 20, 30, pytest.approx(2 / 3600))
    assert stats.null == 30 / 40
    expected = dict.fromkeys(BUTTONS, 0.0)
    assert stats.held == expected | {"attack": 7 / 40, "forward": 2 / 40, "back": 2 / 40}
    assert stats.presses == pytest.approx(expected | {"attack": 60, "forward": 30, "back": 30})  # in two seconds
    still = [0.0] * 11
    still[CAMERA.null_bin] = 39 / 40
    assert stats.axes["pitch"] == [*still[:-1], 1 / 40]
    assert stats.axes["yaw"] == [1 / 40, *still[1:]]


def test_statistics_of_recordings_count_guis_and_versions(clean, settings, tmp_path, capsys):
    folder = tmp_path / "recordings" / "deep"
    folder.mkdir(parents=True)
    for name, version, guis in (("a", '"6.13"', 3), ("b", '"7.6"', 0), ("c", None, 0)):
        with RecordingWriter(folder / name, SIZE, SIZE) as recording:
            for i in range(10):
                frame = np.zeros((SIZE, SIZE, 3), np.uint8)
                recording.write(frame, {}, gui_open=i < guis)
        if version:
            jsonl = folder / f"{name}.jsonl"
            jsonl.write_text(jsonl.read_text().replace('{"mouse"', f'{{"version": {version}, "mouse"'))
    (folder / "d.jsonl").write_text("no json\n")
    values = summarize(settings(clean, recordings=str(tmp_path / "recordings")))
    assert values["recordings"] == {
        "recordings": 3, "broken": {"bad json": 1}, "hours": 30 / 20 / 3600, "gui": 3 / 30,
        "versions": {"6.13": 1, "7.6": 1, "none given": 1},
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "stats.json").read_text()) == values
    assert values["splits"]["train"]["episodes"] == 4
    output, page = capsys.readouterr().out, Page((tmp_path / "out" / "stats.html").read_text())
    assert all("recorder version 6.13" in text for text in (output, " ".join(page.text("th"))))
    assert re.search(r"^  episodes +4 +2$", output, re.MULTILINE)


def test_a_folder_without_recordings_is_named(clean, settings, tmp_path):
    with pytest.raises(InspectionError, match=r"there are no recordings .* see config\.recordings"):
        summarize(settings(clean, recordings=str(tmp_path)))
