"""The command `score`: of a perfect model, of a real one, of stored labels; thresholds; errors."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTON_INDEX, MINERL
from vpt_jax.actions.space import ActionSpace, ActionSpaceError
from vpt_jax.curation.validation import score as score_module
from vpt_jax.curation.validation import validate
from vpt_jax.curation.validation.alignment import EpisodeScorer, FrameLogProbs
from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.curation.validation.episodes import InspectionError, find_episodes
from vpt_jax.curation.validation.label_calibration import cooled, head_sums, label_outcomes, temperatures_of
from vpt_jax.curation.validation.predictions import (
    Predicted,
    log_likelihood,
    model_predictions,
    recorded_actions,
)
from vpt_jax.curation.validation.score import score
from vpt_jax.data.dataset import load_index, write_space
from vpt_jax.evaluation.scores import ScoredActions, compute_scores, score_actions

from .conftest import ideal_log_probs, small_idm


class IdealScorer:
    """Gives the recorded actions the probability 0.9, but in some frames another one."""

    def __init__(self, wrong):
        self.wrong = wrong

    def log_probs(self, episode):
        buttons, camera = recorded_actions(episode)
        buttons = buttons.copy()
        buttons[self.wrong, BUTTON_INDEX["attack"]] ^= 1
        return ideal_log_probs(buttons, camera)


@pytest.fixture
def few_draws(settings):
    return partial(settings, draws=20)


def labelled(clean, folder, confidence=None, flip=None, lengths=None):
    """Predicted labels of the split `valid`: the recorded ones, with changes."""
    shutil.copytree(clean, folder)
    shutil.rmtree(folder / "index" / "train")
    index = folder / "index" / "valid"
    np.save(index / "labels.npy", np.array("predicted"))
    buttons = np.load(index / "buttons.npy")
    if flip is not None:
        buttons[flip, BUTTON_INDEX["attack"]] ^= 1
    np.save(index / "buttons.npy", buttons)
    if confidence is not None:
        np.save(index / "confidence.npy", confidence.astype(np.float32))
    index.rename(folder / "index" / "train")
    return folder


def test_perfect_labels_have_perfect_scores(clean, few_draws, tmp_path, capsys):
    folder = labelled(clean, tmp_path / "labels", np.full(320, 1.0))
    COMMANDS["score"](few_draws(clean, split="valid", labels=str(folder)))
    results = json.loads((tmp_path / "out" / "score.json").read_text())
    assert (results["episodes"], results["frames"]) == (2, 320)
    perfect = {"value": 1, "low": 1, "high": 1}
    names = ("key_exact", "f1/mean", "event_f1/mean", "exact_event_f1/mean", "camera_accuracy")
    assert {name: results["metrics"][name] for name in names} == dict.fromkeys(names, perfect)
    assert results["metrics"]["d2e/pearson/yaw"]["value"] == pytest.approx(1)
    assert results["metrics"]["d2e/scale_ratio/yaw"]["value"] == 1
    assert results["metrics"]["d2e/count_accuracy/buttons"] == perfect
    assert results["metrics"]["nll"]["value"] is None  # labels have no loss
    assert results["thresholds"]["all"]["kept"] == perfect
    assert results["confidence"]["ece"]["value"] == 0
    repeat = results["baselines"]["repeat"]
    assert repeat["f1/mean"]["value"] > 0.5
    assert repeat["event_f1/mean"]["value"] == results["baselines"]["released"]["event_f1/mean"]["value"] == 0
    text = (tmp_path / "out" / "score.md").read_text()
    assert "| F1 of presses and releases within one frame, mean | 1.000 (1.000 to 1.000) | 0.000" in text
    assert "Frames with all keys right  " in capsys.readouterr().out
    assert (tmp_path / "out" / "score.html").is_file()


def test_the_threshold_keeps_the_precision(clean, few_draws, tmp_path):
    """Of the labels of confidence 0.8, one in four is wrong; of 0.95, none; of 0.3, all."""
    confidence = np.resize([0.8, 0.95, 0.8, 0.3, 0.8, 0.95, 0.8, 0.3], 320)
    flip = (confidence == np.float64(0.3)) | (np.arange(320) % 8 == 4)
    results = score(few_draws(clean, split="valid", labels=str(labelled(clean, tmp_path / "labels", confidence, flip))))
    threshold = results["thresholds"]["keys"]  # of 0.95: 1/4 of the labels, all right; with 0.8: 3/4, of them 5/6
    assert threshold.confidence.value == pytest.approx(0.95)
    assert (threshold.kept.value, threshold.precision.value) == (0.25, 1)
    lower = score(few_draws(clean, split="valid", labels=str(tmp_path / "labels"), target_precision=0.8))
    assert lower["thresholds"]["keys"].confidence.value == pytest.approx(0.8)
    assert lower["thresholds"]["keys"].kept.value == 0.75
    assert lower["thresholds"]["keys"].precision.value == pytest.approx(5 / 6)
    expected = 0.25 * abs(1 - 0.95) + 0.5 * abs(3 / 4 - 0.8) + 0.25 * 0.3
    assert results["confidence"]["ece"].value == pytest.approx(expected, abs=1e-6)


def test_a_model_is_run_on_the_play(clean, few_draws, tmp_path, monkeypatch):
    scorer = EpisodeScorer(small_idm())
    monkeypatch.setattr(validate, "load_idm", lambda workdir: small_idm())
    monkeypatch.setattr(score_module, "EpisodeScorer", lambda idm, *settings: scorer)  # compiled once
    results = score(few_draws(clean, split="valid", idm="some"))
    episodes = [episode for episode in find_episodes(clean) if episode.split == "valid"]
    log_probs = [scorer.log_probs(episode) for episode in episodes]
    rows = [load_index(clean, "valid").rows(i) for i in range(2)]
    buttons, camera = np.asarray(load_index(clean, "valid").buttons), np.asarray(load_index(clean, "valid").camera)
    bins = MINERL.to_bins(camera)
    losses = [
        -np.take_along_axis(head, chosen[row].astype(int)[..., None], -1).sum()
        for each, row in zip(log_probs, rows, strict=True)
        for head, chosen in zip(each, (buttons, bins), strict=True)
    ]
    assert results["metrics"]["nll"].value == pytest.approx(sum(losses) / 320, rel=1e-5)
    assert set(results["temperatures"]) == {"buttons", "camera"}
    assert set(results["calibration"]) == {*MINERL.keys, "pitch", "yaw"}
    assert "Temperatures" in (tmp_path / "out" / "score.md").read_text()


def test_heads_of_a_known_model_are_measured(clean, few_draws, monkeypatch):
    wrong = np.arange(160) % 8 == 0  # 1/8 of the frames, where the model gives 1/10
    monkeypatch.setattr(score_module, "load_fitting_idm", lambda config, episodes: None)
    monkeypatch.setattr(score_module, "EpisodeScorer", lambda *arguments: IdealScorer(wrong))
    results = score(few_draws(clean, split="valid", idm="some"))
    assert results["metrics"]["key_exact"].value == 7 / 8
    calibration = results["calibration"]
    assert calibration["pitch"]["ece"].value == pytest.approx(0.1, abs=1e-4)  # always right at 0.9
    assert calibration["attack"]["ece"].value == pytest.approx(1 / 8 - 0.1, abs=0.03)
    assert results["temperatures"]["camera"].value < 0.5  # surer than it says it is
    thresholds = results["key_thresholds"]
    assert thresholds["forward"].precision.value == thresholds["forward"].kept.value == 1


def test_sampled_predictions_follow_the_distribution(clean):
    episodes = find_episodes(clean)
    scorer = IdealScorer(np.zeros(160, bool))
    sampled = list(model_predictions(scorer, episodes, MINERL, "sample", 0))
    again = list(model_predictions(scorer, episodes, MINERL, "sample", 0))
    recorded = [recorded_actions(episode) for episode in episodes]
    shares = [np.mean(p.actions.keys == r.keys) for p, r in zip(sampled, recorded, strict=True)]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)
    assert all(np.array_equal(a.actions.keys, b.actions.keys) for a, b in zip(sampled, again, strict=True))
    likeliest = next(model_predictions(scorer, episodes, MINERL, "argmax", 0))
    np.testing.assert_allclose(likeliest.confidence, 0.9**22, rtol=1e-4)
    mean = next(model_predictions(scorer, episodes, MINERL, "mean", 0))
    centres = MINERL.to_movement(MINERL.to_bins(recorded[0].movement))
    np.testing.assert_allclose(mean.actions.movement, 0.89 * centres, atol=1e-4)  # the others' mean is 0


def test_temperatures_undo_a_wrong_scale(clean):
    episode = find_episodes(clean)[0]
    recorded = recorded_actions(episode)
    sums = head_sums(IdealScorer(np.zeros(160, bool)).log_probs(episode), recorded, MINERL)
    assert temperatures_of(sums) == temperatures_of([sums])
    warm = cooled(ideal_log_probs(*recorded), {"buttons": 1.0, "camera": 2.0})
    np.testing.assert_allclose(warm.buttons, ideal_log_probs(*recorded).buttons, atol=1e-5)
    odds = np.exp(warm.camera.max(-1) - warm.camera.min(-1))
    np.testing.assert_allclose(odds, np.sqrt(0.9 / 0.01), rtol=1e-4)  # 0.1 spread over ten bins


def test_a_space_of_keys_alone_is_scored():
    space, rng = ActionSpace("pinball", ("left", "right", "tilt")), np.random.default_rng(0)
    recorded = ScoredActions((rng.random((50, 3)) < 0.3).astype(np.uint8), np.zeros((50, 0), np.float32))
    held = np.where(recorded.keys > 0, 0.8, 0.2)[..., None]
    log_probs = FrameLogProbs(np.log(np.concatenate([1 - held, held], -1)), np.zeros((50, 0, 2)))
    confidence = np.exp(log_likelihood(log_probs, recorded.keys, np.zeros((50, 0), int)))
    predicted = Predicted(None, recorded, confidence, log_probs)
    assert predicted.confidence == pytest.approx(0.8**3)
    figures = compute_scores(space, score_actions(space, *[recorded] * 2))
    assert figures["key_exact"] == figures["event_f1/mean"] == 1
    assert label_outcomes(predicted, recorded, space).all_right.all()
    assert temperatures_of([head_sums(log_probs, recorded, space)])["camera"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs either labels or a model"),
        ({"labels": "DATA", "idm": "some"}, "needs either labels or a model"),
        ({"labels": "DATA"}, "holds recorded actions"),
        ({"idm": "some", "split": "test"}, "no split 'test'"),
        ({"idm": "some", "target_precision": 0.0}, "above 0"),
        ({"idm": "some", "choice": "best"}, "choose one of"),
    ],
)
def test_errors_name_the_field(clean, few_draws, changes, message):
    changes = {name: str(clean) if value == "DATA" else value for name, value in changes.items()}
    with pytest.raises(InspectionError, match=message):
        score(few_draws(clean, **changes))


def test_labels_of_another_space_are_refused(clean, few_draws, tmp_path):
    folder = labelled(clean, tmp_path / "labels")
    write_space(folder, replace(MINERL, groups=(), cancelling=()))
    with pytest.raises(ActionSpaceError, match=r"the recorded play has the action space 'minerl'.*groups differ"):
        score(few_draws(clean, split="valid", labels=str(folder)))


def test_labels_of_other_play_are_refused(clean, few_draws, tmp_path):
    folder = labelled(clean, tmp_path / "labels")
    with pytest.raises(InspectionError, match="is among"):
        score(few_draws(clean, split="train", labels=str(folder)))
    predicted = shutil.copytree(clean, tmp_path / "predicted")
    np.save(predicted / "index" / "valid" / "labels.npy", np.array("predicted"))
    with pytest.raises(InspectionError, match="'valid', holds predicted labels"):
        score(few_draws(predicted, labels=str(folder)))
