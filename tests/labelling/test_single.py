"""Labels of a single video equal those of a labelling job."""

import jax
import numpy as np
import pytest

import vpt_jax
from vpt_jax.labelling.job import label
from vpt_jax.labelling.single import label_video
from vpt_jax.training.checkpoints import WrongStageError
from vpt_jax.video import VideoError

from .conftest import BROKEN, labels_by_name, load_once, pictures, settings, write_video


def test_a_single_video_has_the_labels_of_the_dataset(uninterrupted, idm_dir, videos):
    expected, labeller = labels_by_name(uninterrupted[0]), vpt_jax.VideoLabeller(idm_dir)
    for name in sorted(expected)[:3]:
        (video,) = videos.rglob(f"{name.rpartition('/')[2]}.*")
        labels = labeller.label(video)
        jax.tree.map(np.testing.assert_array_equal, list(labels), expected[name])


def test_invalid_videos_are_named(idm_dir, videos, tmp_path):
    labeller = vpt_jax.VideoLabeller(str(idm_dir))
    with pytest.raises(VideoError):
        labeller.label(videos / BROKEN[0])
    with pytest.raises(FileNotFoundError):
        labeller.label(tmp_path / "none.mp4")
    with pytest.raises(WrongStageError, match="idm"):
        vpt_jax.PolicyAgent.load(idm_dir)


@pytest.mark.slow
def test_sampled_labels_are_those_of_the_dataset(idm_dir, tmp_path, in_process):
    """The sampling seed depends on the content of the video only, not on its name or the other videos."""
    for number, name in enumerate("ab"):
        write_video(tmp_path / "videos" / f"{name}.mkv", "ffv1", "bgr0", pictures(12, 32, 16 + 16 * number))
    config = settings(tmp_path / "videos", idm_dir, tmp_path / "out", num_films=0, choice="sample", seed=3)
    expected = labels_by_name(label(config))["b"]
    moved = (tmp_path / "videos" / "b.mkv").rename(tmp_path / "moved.mkv")
    labels = label_video(load_once(str(idm_dir)), moved, choice="sample", seed=3)
    jax.tree.map(np.testing.assert_array_equal, list(labels), expected)
