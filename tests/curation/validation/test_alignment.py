"""Alignment of actions with log-probabilities of an ideal and of an uninformative model; scores of an episode."""

import numpy as np
import pytest

from vpt_jax.actions.minerl import CAMERA
from vpt_jax.curation.validation.alignment import MAX_SHIFT, EpisodeScorer, measure_alignment
from vpt_jax.curation.validation.episodes import find_episodes
from vpt_jax.curation.validation.findings import alignment_findings, describe_shift
from vpt_jax.labelling.single import label_video

from .conftest import ideal_log_probs, small_idm

FRAMES = 600


def play(seed, frames=FRAMES):
    """Random actions: keys held for six frames each, and a camera that moves in half of the frames."""
    rng = np.random.default_rng(seed)
    buttons = (rng.random((frames // 6 + 1, 20)) < 0.2).repeat(6, 0)[:frames].astype(np.uint8)
    camera = rng.normal(0, 3, (frames, 2)) * (rng.random((frames, 1)) < 0.5)
    return buttons, camera.astype(np.float32)


@pytest.mark.parametrize("late", [-MAX_SHIFT, -3, -1, 0, 1, 4, MAX_SHIFT])
def test_displacement_is_measured(late):
    buttons, camera = play(0)
    alignment = measure_alignment(ideal_log_probs(buttons, camera), np.roll(buttons, late, 0), np.roll(camera, late, 0))
    assert alignment.late == late
    assert alignment.log_likelihood[alignment.late + MAX_SHIFT] == pytest.approx(22 * np.log(0.9), abs=1e-4)
    found = list(alignment_findings({"episode": alignment}))
    assert [finding.kind for finding in found] == (["displaced"] if late else [])
    assert not late or describe_shift(alignment) in found[0].detail


def test_actions_of_another_episode_do_not_fit():
    alignments = {seed: measure_alignment(ideal_log_probs(*play(seed)), *play(seed)) for seed in range(5)}
    assert not list(alignment_findings(alignments))
    found = list(alignment_findings(alignments | {"other": measure_alignment(ideal_log_probs(*play(5)), *play(6))}))
    assert [(finding.kind, finding.where) for finding in found] == [("does not fit", "other")]


def test_uninformative_models_and_idle_players_give_no_findings():
    buttons, camera = play(0)
    uniform = ideal_log_probs(buttons, camera, probability=1 / 2)._replace(camera=np.full((FRAMES, 2, 11), -np.log(11)))
    uninformative = measure_alignment(uniform, np.roll(buttons, 3, 0), np.roll(camera, 3, 0))
    idle = measure_alignment(ideal_log_probs(buttons * 0, camera * 0), buttons * 0, camera * 0)
    alignments = {seed: measure_alignment(ideal_log_probs(*play(seed)), *play(seed)) for seed in range(5)}
    assert not list(alignment_findings(alignments | {"uninformative": uninformative, "idle": idle}))
    assert not list(alignment_findings({"uninformative": uninformative}))


def test_too_few_frames_give_no_alignment():
    buttons, camera = play(0, 219)
    assert measure_alignment(ideal_log_probs(buttons, camera), buttons, camera) is None


def test_scores_of_an_episode_equal_those_of_labelling(clean):
    idm, episode = small_idm(), find_episodes(clean)[0]
    labels = label_video(idm, clean.parent / "recordings" / f"{episode}.mp4", aspect=(1, 1))
    log_probs = EpisodeScorer(idm).log_probs(episode)
    chosen = (labels.buttons, log_probs.buttons), (CAMERA.to_bins(labels.camera), log_probs.camera)
    likelihood = sum(np.take_along_axis(x, np.int64(classes)[..., None], -1).sum((1, 2)) for classes, x in chosen)
    np.testing.assert_allclose(likelihood, np.log(labels.confidence), atol=1e-4)
    assert len(log_probs.buttons) == episode.frames
