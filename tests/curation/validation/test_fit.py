"""Actions against what a model said of their frames: one that is right, one that knows nothing; and how one reads."""

import numpy as np
import pytest

from vpt_jax.actions import CAMERA
from vpt_jax.curation.validation.alignment import FURTHEST, Reader, fit_actions
from vpt_jax.curation.validation.episodes import find_episodes
from vpt_jax.curation.validation.findings import describe, misfits
from vpt_jax.labelling.single import label_video

from .conftest import perfect, small_idm

FRAMES = 600


def play(seed, frames=FRAMES):
    """Keys held for some frames each, and a camera that moves in half of them."""
    rng = np.random.default_rng(seed)
    buttons = (rng.random((frames // 6 + 1, 20)) < 0.2).repeat(6, 0)[:frames].astype(np.uint8)
    camera = rng.normal(0, 3, (frames, 2)) * (rng.random((frames, 1)) < 0.5)
    return buttons, camera.astype(np.float32)


@pytest.mark.parametrize("late", [-FURTHEST, -3, -1, 0, 1, 4, FURTHEST])
def test_the_displacement_is_found(late):
    buttons, camera = play(0)
    fit = fit_actions(perfect(buttons, camera), np.roll(buttons, late, 0), np.roll(camera, late, 0))
    assert fit.late == late
    assert fit.log_likelihood[fit.late + FURTHEST] == pytest.approx(22 * np.log(0.9), abs=1e-4)
    found = list(misfits({"episode": fit}))
    assert [finding.kind for finding in found] == (["displaced"] if late else [])
    assert not late or describe(fit) in found[0].detail


def test_actions_of_another_episode_do_not_fit():
    fits = {seed: fit_actions(perfect(*play(seed)), *play(seed)) for seed in range(5)}
    assert not list(misfits(fits))
    found = list(misfits(fits | {"other": fit_actions(perfect(*play(5)), *play(6))}))
    assert [(finding.kind, finding.where) for finding in found] == [("does not fit", "other")]


def test_of_a_model_that_knows_nothing_and_of_rest_nothing_is_concluded():
    buttons, camera = play(0)
    ignorant = fit_actions(perfect(buttons, camera, sure=1 / 2)._replace(camera=np.full((FRAMES, 2, 11), -np.log(11))),
                           np.roll(buttons, 3, 0), np.roll(camera, 3, 0))  # fmt: skip
    resting = fit_actions(perfect(buttons * 0, camera * 0), buttons * 0, camera * 0)
    fits = {seed: fit_actions(perfect(*play(seed)), *play(seed)) for seed in range(5)}
    assert not list(misfits(fits | {"ignorant": ignorant, "resting": resting}))
    assert not list(misfits({"ignorant": ignorant}))


def test_of_few_frames_nothing_is_said():
    buttons, camera = play(0, 219)
    assert fit_actions(perfect(buttons, camera), buttons, camera) is None


def test_an_episode_is_read_as_labelling_reads_its_video(clean):
    idm, episode = small_idm(), find_episodes(clean)[0]
    labels = label_video(idm, clean.parent / "recordings" / f"{episode}.mp4", aspect=(1, 1))
    said = Reader(idm).read(episode)
    chosen = (labels.buttons, said.buttons), (CAMERA.to_bins(labels.camera), said.camera)
    likelihood = sum(np.take_along_axis(of, np.int64(at)[..., None], -1).sum((1, 2)) for at, of in chosen)
    np.testing.assert_allclose(likelihood, np.log(labels.confidence), atol=1e-4)
    assert len(said.buttons) == episode.frames
