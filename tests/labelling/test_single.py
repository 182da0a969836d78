import jax
import numpy as np
import pytest

import vpt_jax
from vpt_jax.video import VideoError

from .conftest import BROKEN, labels_by_name


def test_a_video_by_itself_has_the_labels_of_the_dataset(undisturbed, idm_dir, videos):
    expected, agent = labels_by_name(undisturbed[0]), vpt_jax.Agent.load(idm_dir)
    for name in sorted(expected)[:3]:
        (video,) = videos.rglob(f"{name.rpartition('/')[2]}.*")
        labels = agent.label(video)
        jax.tree.map(np.testing.assert_array_equal, list(labels), expected[name])


def test_what_cannot_be_labelled_is_named(idm_dir, videos, tmp_path):
    agent = vpt_jax.Agent.load(idm_dir)
    with pytest.raises(VideoError):
        agent.label(videos / BROKEN[0])
    with pytest.raises(FileNotFoundError):
        agent.label(tmp_path / "none.mp4")
    with pytest.raises(TypeError, match="it cannot play: load a policy"):
        agent.act({"pov": np.zeros((8, 8, 3), np.uint8)})
