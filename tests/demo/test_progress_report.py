"""Progress page of a running pipeline, which shows a film within minutes."""

import shutil

import numpy as np
import pytest
from demo.progress_report import ProgressPage, labelled_play, recorded_play

from configs.demo import get_config
from launch import pipeline
from tests.conftest import record_episode
from vpt_jax.actions.minerl import MINERL
from vpt_jax.data.dataset import write_index, write_space
from vpt_jax.recording import read_steps
from vpt_jax.video import decode

from ..html_page import Page


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for number, frames in enumerate((24, 30)):
        record_episode(folder / f"play{number}", number, frames)
    return folder


def test_a_film_appears_once_its_data_exist(recordings, tmp_path):
    drawn, in_progress = [], tmp_path / "recordings"
    in_progress.mkdir()

    def load():
        if film_frames := recorded_play(in_progress):
            drawn.append("film")
        return film_frames

    path = tmp_path / "report.html"
    progress_page = ProgressPage(path, ["record", "prepare", "train"], {"Recorded <play>": load})
    progress_page.write({})
    page = Page(path.read_text())
    assert page.text("dt") == ["record", "prepare", "train"]
    assert page.text("dd") == ["not done yet"] * 3
    assert page.tags.count("video") == 0

    shutil.copy(recordings / "play0.mp4", in_progress)  # a recording is complete with its second file
    progress_page.write({})
    assert Page(path.read_text()).tags.count("video") == 0
    shutil.copy(recordings / "play0.jsonl", in_progress)
    for seconds in ({}, {"record": 61.4}, {"record": 61.4, "prepare": 3.0}):
        progress_page.write(seconds)
        page = Page(path.read_text())
        assert page.tags.count("video") == 1
        assert page.text("figcaption") == ["Recorded <play>"]
        assert page.text("dd")[0] == ("61 s" if seconds else "not done yet")
    assert drawn == ["film"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["film-1.mp4", "recordings", "report.html"]
    assert len(list(decode(tmp_path / "film-1.mp4"))) == 24


def test_recorded_play_has_its_own_actions(recordings):
    steps = read_steps(recordings / "play0.jsonl")
    film_frames = list(recorded_play(recordings))
    assert len(film_frames) == len(steps.buttons)
    for film_frame, buttons, camera in zip(film_frames, steps.buttons, steps.camera, strict=True):
        np.testing.assert_array_equal(film_frame.action[0], buttons)
        np.testing.assert_array_equal(film_frame.action[1], camera)


def test_labelled_play_is_the_longest_video_with_its_labels(recordings, tmp_path):
    buttons, camera = np.eye(54, 20, dtype=np.uint8), np.arange(108, dtype=np.float32).reshape(54, 2)
    write_index(
        tmp_path / "index" / "train", {"play0": 24, "play1": 30}, [buttons], [camera], [np.ones(54, np.float32)],
        "predicted", 8,
    )  # fmt: skip
    (tmp_path / "dataset_info.json").touch()
    write_space(tmp_path, MINERL)
    actions = [film_frame.action for film_frame in labelled_play(tmp_path, recordings)]
    np.testing.assert_array_equal([keys for keys, _ in actions], buttons[24:])
    np.testing.assert_array_equal([degrees for _, degrees in actions], camera[24:])


def test_the_demo_has_a_film_as_soon_as_an_episode_is_recorded(recordings, tmp_path):
    films = pipeline.films_of(pipeline.runs_of(get_config(), tmp_path))
    assert {caption: load() for caption, load in films.items()} == dict.fromkeys(films)
    shutil.copytree(recordings, tmp_path / "recordings" / "labelled" / "test")
    assert [load() is not None for load in films.values()] == [True, False]
