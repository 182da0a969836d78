"""Replay of recorded Doom episodes at the size of films."""

from itertools import islice

import numpy as np
import pytest
from demo.films import large_play

from vpt_jax.actions.minerl import MINERL
from vpt_jax.envs.doom.recorder import EpisodePlan, Settings, record_episode
from vpt_jax.envs.games import make_env_spec
from vpt_jax.evaluation.episode_files import read_actions
from vpt_jax.evaluation.replay import FILM_SIZE, film_spec, large_frames, replay
from vpt_jax.system.atomic_files import write_text
from vpt_jax.video import decode

SEED = 7


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Six seconds of scripted play in frames of 32x18 pixels, as launch/record.py writes them."""
    folder = tmp_path_factory.mktemp("recordings")
    path = folder / "test" / f"E1M5-runner-{SEED:06}"
    path.parent.mkdir()
    record_episode(EpisodePlan(path, "E1M5", "runner", SEED), Settings(18, 32, 6.0, 2))
    write_text(folder / "settings.json", '{"height": 18, "width": 32, "seconds": 6.0, "skill": 2}')
    return path


def test_a_recorded_episode_is_shown_in_large_frames(recording):
    """The 32x18 pixels of the demo's models show nothing."""
    small, large = list(decode(recording.with_suffix(".mp4"))), large_play(recording)
    assert len(large) == len(small) == 120
    assert {frame.shape for frame in large} == {(*FILM_SIZE, 3)}


def test_other_play_is_not_shown_in_place_of_the_recorded_one(recording):
    steps, game = read_actions(recording, MINERL, 1000), {"level": "E1M5", "seconds": 6.0}
    small = list(decode(recording.with_suffix(".mp4")))
    spec = film_spec(make_env_spec("doom", game))
    backwards = steps._replace(camera=-steps.camera)
    other = list(replay(spec, SEED, backwards))
    assert len(other) == len(small)
    assert large_frames(small, other)[0] is small[0]
    assert large_frames(small, islice(replay(spec, SEED, steps), 119))[0] is small[0]  # it must be whole


def test_a_replay_ends_with_the_episode(recording):
    steps = read_actions(recording, MINERL, 1000)
    spec = film_spec(make_env_spec("doom", {"level": "E1M5", "seconds": 2.0}))
    frames = list(replay(spec, SEED, steps))
    assert len(frames) == 40
    assert (frames[0] != frames[-1]).mean() > 0.5


def test_recordings_of_other_programs_are_shown_as_they_are(recording, tmp_path):
    for suffix in (".mp4", ".jsonl"):
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / f"clip{suffix}").write_bytes(recording.with_suffix(suffix).read_bytes())
    np.testing.assert_array_equal(large_play(tmp_path / "test" / "clip"), list(decode(recording.with_suffix(".mp4"))))
