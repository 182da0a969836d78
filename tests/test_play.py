"""launch/play.py as a user starts it: films of a game, and of the actions that a policy predicts for a video."""

import os
import re
import signal

import numpy as np
import pytest

from configs import label as label_config
from configs import play as play_config
from tests import programs
from tests.openai.test_convert import policy_files
from tests.programs import ROOT
from tests.training.conftest import wait_until
from vpt_jax.openai.convert import import_weights
from vpt_jax.video import decode, decode_timed, resample

CLIP = ROOT / "tests" / "clips" / "combat_spider_7.mp4"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    policy_files(folder, "nano", (32, 32, 3), scale=0.1)
    import_weights(folder / "a.model", folder / "a.weights", folder / "run")
    return folder / "run"


def play(policy, out, *flags, config="play.py", check=True, **variables):
    flags = [f"--config=configs/{config}", f"--config.policy={policy}", f"--config.out={out}", *flags]
    return programs.run("play", *flags, status=0 if check else 1, DISPLAY="", WAYLAND_DISPLAY="", **variables)


def test_a_video_is_shown_with_the_actions_of_the_policy(policy, tmp_path):
    flags = [f"--config.game.arguments.path={CLIP}", "--config.temperature=0.0"]
    count = len(list(resample(decode_timed(CLIP))))
    for name in ("one", "two"):
        output = play(policy, tmp_path / name, *flags, config="play.py:video")
        assert f"video-0.mp4: {count} steps, reward 0.00, truncated" in output
    one, two = (list(decode(tmp_path / name / "video-0.mp4")) for name in ("one", "two"))
    assert len(one) == count
    np.testing.assert_array_equal(one, two)
    panel = len(one[0]) - 360
    assert len({frame[:panel].tobytes() for frame in one}) > 1
    shown, source = (np.float32(frame) for frame in (one[0][panel:], next(decode(CLIP))))
    top = slice(0, 180)  # the note is below
    assert np.abs(shown[top] - source[top]).mean() < 6  # it was encoded twice


def test_a_game_is_filmed_and_shown_in_a_window(policy, tmp_path):
    flags = ["--config.episodes=2", "--config.game.arguments.seconds=1.0", "--config.game.arguments.fresh=False",
             "--config.seed=7", "--config.window"]  # fmt: skip
    output = play(policy, tmp_path, *flags, SDL_VIDEODRIVER="dummy")
    assert re.findall(r"doom-(\d)\.mp4: 20 steps", output) == ["7", "8"]
    films = sorted(tmp_path.iterdir())
    assert [film.name for film in films] == ["doom-7.mp4", "doom-8.mp4"]
    for film in films:
        frames = list(decode(film))
        assert len(frames) == 20
        assert frames[0].shape[1] == 640
        assert (frames[0] != frames[-1]).any()


def test_a_stopped_film_keeps_its_frames(policy, tmp_path):
    flags = [f"--config.policy={policy}", f"--config.out={tmp_path}", "--config.game.arguments.seconds=100000.0"]
    process = programs.Program("play", flags, os.environ)
    wait_until(lambda: any(file.stat().st_size > 100_000 for file in tmp_path.glob("doom-0.mp4.*")), process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "doom-0.mp4: stopped before its end" in output
    assert len(list(decode(tmp_path / "doom-0.mp4"))) > 20


@pytest.mark.parametrize(
    ("flags", "config", "message"),
    [
        (["--config.window"], "play.py", "needs a display, and there is none"),
        (["--config.policy=nowhere"], "play.py", "nowhere holds no checkpoint"),
        (["--config.game.arguments.path=none.mp4"], "play.py:video", "none.mp4"),
    ],
)
def test_errors_name_the_cause(policy, tmp_path, flags, config, message):
    output = play(policy, tmp_path, *flags, config=config, check=False)
    assert message in output
    assert "error: " in output
    assert list(tmp_path.iterdir()) == []


def test_showcase_configs_have_a_clip_and_play_in_frames_of_its_size():
    labelling = label_config.get_config("showcase")
    (clip,) = (ROOT / labelling.videos).iterdir()
    frames = list(decode(clip))
    game = play_config.get_config("showcase").game.arguments
    assert (len(frames), *frames[0].shape[:2]) == (200, game.height, game.width)


@pytest.mark.slow  # some seconds
def test_the_showcases_settings_film_frames_of_its_recordings_size(policy, tmp_path):
    flags = ["--config.game.arguments.seconds=0.5", "--config.game.arguments.fresh=False"]
    assert "doom-0.mp4: 10 steps" in play(policy, tmp_path, *flags, config="play.py:showcase")
    frames = list(decode(tmp_path / "doom-0.mp4"))
    assert len(frames) == 10
    assert frames[0].shape[0] > 360  # 180 twice, and the actions
    assert frames[0].shape[1] == 640
