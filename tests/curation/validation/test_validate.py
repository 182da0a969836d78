"""Each defect of a dataset is found once, without false positives; an intact dataset has no findings."""

import json
import os
import shutil

import numpy as np
import pytest

from vpt_jax.actions.minerl import MINERL
from vpt_jax.curation.validation import validate
from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.curation.validation.duplicates import find_copies
from vpt_jax.curation.validation.episodes import InspectionError
from vpt_jax.curation.validation.leakage import session_of, video_name
from vpt_jax.curation.validation.records import check_actions
from vpt_jax.data import dataset

from ...html_page import Page
from .conftest import copy, ideal_log_probs, make_dataset, record, reencode, small_idm

SESSION = "cheeky-cornflower-setter-02e496ce4abb"


def found(config):
    return [(finding.kind, finding.where, finding.detail) for finding in validate.validate(config)]


def test_an_intact_dataset_has_no_findings(clean, settings, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
    COMMANDS["validate"](settings(clean))  # would raise SystemExit if there were findings
    assert before == {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
    assert json.loads((tmp_path / "out" / "validate.json").read_text())["findings"] == []
    assert "not checked: no config.idm" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["validate.html", "validate.json"]


def test_copies_and_leakage_are_found(clean, settings, tmp_path):
    recordings = tmp_path / "recordings"
    shutil.copytree(clean.parent / "recordings", recordings)
    reencode(recordings / "train" / "a", recordings / "train" / "again", skipped=13)
    copy(recordings / "train" / "b", recordings / "valid" / "b")
    record(recordings / "train" / f"{SESSION}-20220421-092639", 10)
    record(recordings / "valid" / f"{SESSION}-20220421-093000", 11)
    config = settings(make_dataset(recordings, tmp_path / "dataset", quality=70))
    with pytest.raises(SystemExit) as ended:
        COMMANDS["validate"](config)
    assert ended.value.code == 1
    findings = json.loads((tmp_path / "out" / "validate.json").read_text())["findings"]
    assert [(finding["kind"], finding["where"]) for finding in findings] == [
        ("leakage", "train/b and valid/b"),  # frames
        ("leakage", "train/b and valid/b"),  # actions
        ("duplicate", "train/a and train/again"),
        ("leakage", "train/b, valid/b"),  # name
        ("leakage", f"train/{SESSION}-20220421-092639, valid/{SESSION}-20220421-093000"),
    ]
    assert findings[2]["detail"] == "7.3 s of the same footage, from frames 13 and 0"
    assert findings[4]["detail"] == f"session {SESSION} is in train and valid"
    assert "train/a and train/again" in Page((tmp_path / "out" / "validate.html").read_text()).text("th")


def test_broken_records_and_indexes_are_found(clean, settings, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(clean, damaged)
    folder = damaged / "index" / "train"
    camera = np.load(folder / "camera.npy")
    camera[200] = np.nan
    np.save(folder / "camera.npy", camera)
    np.save(folder / "names.npy", np.array(["a", "b", "c", "x"]))
    assert found(settings(damaged)) == [
        ("broken", "train/b", "pitch is NaN or larger than 180 degrees in 1 frames"),
        ("broken", "train/b", "yaw is NaN or larger than 180 degrees in 1 frames"),
        ("broken", "train/b", "record 1 and the index differ in camera"),
        *(("broken", "train/x", f"record {number} and the index differ in episode") for number in range(5)),
    ]
    shorter = shutil.copytree(clean, tmp_path / "shorter")
    np.save(shorter / "index" / "valid" / "lengths.npy", [160, 130])
    assert found(settings(shorter)) == [
        ("broken", "valid", "the index has more or fewer buttons, camera, confidence than frames"),
        *(("broken", "valid/f", f"record {number} and the index differ in num_frames") for number in range(4)),
        ("broken", "valid/f", "record 4 and the index differ in num_frames, buttons, camera, confidence, frame_ends"),
    ]


def test_implausible_actions_are_found():
    buttons, camera, confidence = np.zeros((300, 20), np.uint8), np.zeros((300, 2)), np.ones(300)
    assert not list(check_actions(MINERL, 5, buttons, camera, confidence))
    buttons[50:151, 2] = 1
    confidence[7] = np.nan
    assert list(check_actions(MINERL, 5, buttons, camera, confidence)) == [
        "confidences are not between 0 and 1",
        "forward is held for 5 s from frame 50 on: a stuck key?",
    ]
    assert not list(check_actions(MINERL, 6, buttons, camera, np.ones(300)))


def test_equal_runs_of_moving_pictures_are_copies():
    menu, rng = np.full(400, 12345, np.uint64), np.random.default_rng(0)
    play = [np.concatenate([menu, rng.integers(0, 2**63, 200, np.uint64)]) for _ in range(20)]
    assert not find_copies(play)
    other = np.concatenate([rng.integers(0, 2**63, 37, np.uint64), play[3][400:530] ^ np.uint64(0b1011)])
    assert not find_copies([*play, other])  # nothing is equal
    other[60] = play[3][423]
    (copy,) = find_copies([*play, other])
    assert copy[:2] == (3, 20)
    assert copy.second_start - copy.first_start == 37 - 400
    assert 130 <= copy.frames < 150  # the mean over a second is low a little before and after
    assert not find_copies([*play, other[:130]])  # 93 frames are too few


def test_names_contain_videos_and_sessions():
    assert video_name("deep/talk@0-200") == "deep/talk"
    assert session_of(f"6.9/{SESSION}-20220421-092639@20-40") == SESSION
    assert session_of("E1M5-runner-000001") is None


def test_a_killed_run_resumes(clean, settings, monkeypatch, tmp_path):
    scanned, scan = [], validate.scan_episode

    def stopping(episode, *arguments):
        if len(scanned) == 3:
            raise KeyboardInterrupt
        scanned.append(episode)
        scan(episode, *arguments)

    monkeypatch.setattr(validate, "scan_episode", stopping)
    with pytest.raises(KeyboardInterrupt):
        found(settings(clean))
    monkeypatch.setattr(validate, "scan_episode", lambda *arguments: (scanned.append(arguments[0]), scan(*arguments)))
    moved = shutil.copytree(
        clean, tmp_path / "moved", copy_function=shutil.copyfile
    )  # another path and modification time
    assert found(settings(moved)) == []
    assert len(scanned) == len({str(episode) for episode in scanned}) == 6


def test_cached_results_are_addressed_by_content_and_model(clean, settings, tmp_path):
    """A dataset or model with the same path, size, modification time and step may have other content."""
    data = shutil.copytree(clean, tmp_path / "data")
    config, episodes = settings(data), validate.find_episodes(data, checked=False)
    model = small_idm()
    other = model._replace(params={"x": np.ones(1)})
    folders = [validate._work_folder(config, episodes, idm).name for idm in (None, model, other, model)]
    assert folders[1] == folders[3]
    camera = np.load(data / "index" / "train" / "camera.npy")
    before = (data / "index" / "train" / "camera.npy").stat()
    camera[0] += 1
    np.save(data / "index" / "train" / "camera.npy", camera)
    os.utime(data / "index" / "train" / "camera.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    folders.append(validate._work_folder(config, episodes, None).name)
    assert len(set(folders)) == 4


@pytest.mark.parametrize(
    ("idm", "changes", "message"),
    [
        (dict(size=16), {}, "are 32x32, and some was trained on 16x16: give an inverse dynamics model of this size"),
        (dict(window=6), {}, "windows of 6 frames: a multiple of 4 is needed"),
        ({}, dict(mode="fast"), "config.mode is 'fast'; choose one of shared, exact"),
    ],
)
def test_unusable_models_are_refused(clean, settings, monkeypatch, idm, changes, message):
    monkeypatch.setattr(validate, "load_idm", lambda workdir: small_idm(**idm))
    with pytest.raises(InspectionError, match=message):
        found(settings(clean, idm="some", **changes))


class FakeScorer:
    """Fake of `EpisodeScorer`: a model that is correct in all but two episodes."""

    def __init__(self, *_):
        pass

    def log_probs(self, episode):
        index, others = episode.index, {"valid/e": 1}
        rows = index.rows(others.get(str(episode), episode.number))
        late = 2 if episode.name == "c" else 0
        return ideal_log_probs(*(np.roll(field[rows], -late, 0) for field in (index.buttons, index.camera)))


def test_findings_of_a_model_are_reported(clean, settings, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(validate, "load_idm", lambda workdir: small_idm())
    monkeypatch.setattr(validate, "EpisodeScorer", FakeScorer)
    monkeypatch.setattr("vpt_jax.curation.validation.alignment.MIN_BLOCKS", 7)
    displaced, other = found(settings(clean, idm="some"))
    assert displaced[:2] == ("displaced", "train/c")
    assert "actions come 2 frames too late (z " in displaced[2]
    assert other[:2] == ("does not fit", "valid/e")
    fits = json.loads((tmp_path / "out" / "validate.json").read_text())["fits"]
    assert {name: fit["late"] for name, fit in fits.items() if name != "valid/e"} == {
        "train/a": 0, "train/b": 0, "train/c": 2, "train/d": 0, "valid/f": 0
    }  # fmt: skip
    assert "actions against frames: 6 episodes; 0 too short or damaged" in capsys.readouterr().out


def test_missing_dataset_is_refused(settings, tmp_path):
    with pytest.raises(dataset.DatasetMissingError, match="there is no dataset at"):
        found(settings(tmp_path / "nowhere"))
