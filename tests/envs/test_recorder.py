"""The recorder: contractor files with aligned frames and actions, after any interruption."""

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from configs.record import get_config
from tests.programs import Program
from vpt_jax.actions.minerl import MINERL
from vpt_jax.envs.doom.bot.senses import ITEMS
from vpt_jax.envs.doom.env import DoomEnv
from vpt_jax.envs.doom.level import LEVELS
from vpt_jax.envs.doom.recorder import EpisodePlan, RecordError, Settings, plan_episodes, record, record_episode
from vpt_jax.recording import find_recordings, read_frames, read_steps

ITEM_CAPTIONS = {f"collect {kind.lower()}" for kind in ITEMS}
SMALL = {
    "height": 90, "width": 160, "seconds": 2.0, "workers": 2, "players": {"scripted": 0.5, "human": 0.5},
    "splits.train.levels": ("MAP01", "E1M1"), "splits.train.episodes": 4, "splits.valid.episodes": 1,
    "splits.test.episodes": 0,
}  # fmt: skip


def small_config(out, **changes):
    config = get_config()
    config.update_from_flattened_dict(SMALL | changes | {"out": str(out)})
    return config


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(small_config(tmp_path_factory.mktemp("recorded")))


def test_every_planned_episode_is_recorded(recorded):
    assert len(find_recordings(recorded / "train")) == 4
    assert len(find_recordings(recorded / "valid")) == 1
    assert not list(recorded.rglob("*.partial"))
    names = [path.name for path in find_recordings(recorded / "train")]
    assert {re.sub(r"-\d+$", "", name) for name in names} <= {f"{level}-{player}" for level in ("MAP01", "E1M1")
                                                             for player in ("scripted", "human")}  # fmt: skip


def test_a_frame_is_the_observation_before_its_action(recorded):
    path = next(path for path in find_recordings(recorded / "train") if "scripted" in path.name)
    steps = read_steps(Path(f"{path}.jsonl"))
    frames = np.array(list(read_frames(Path(f"{path}.mp4"), steps, 90, 160)), float)
    level, _, seed = path.name.split("-")
    env = DoomEnv(level, 90, 160)
    played = [env.reset(seed=int(seed))[0]["pov"]]
    for buttons, camera in zip(steps.buttons, steps.camera, strict=True):
        played.append(env.step(MINERL.to_env(buttons, camera))[0]["pov"])
    env.close()
    assert len(frames) == 40
    played = np.array(played, float)
    error = [np.abs(frames - played[i : i + 40]).mean((1, 2, 3)) for i in (0, 1)]
    assert error[0].mean() < 8  # the compression error
    fastest = np.argsort(np.abs(np.diff(played, axis=0)).mean((1, 2, 3)))[
        -10:
    ]  # in other frames the next one is nearly equal
    assert error[0][fastest].mean() < error[1][fastest].mean() / 2


def test_the_files_do_not_depend_on_the_workers_or_on_interruptions(recorded, tmp_path):
    assert digests(record(small_config(tmp_path / "one", workers=1))) == digests(recorded)
    flags = [f"--config.out={tmp_path / 'killed'}", "--config.players.scripted=0.5", "--config.players.human=0.5"]
    flags += [f"--config.{field}={value}" for field, value in SMALL.items() if field != "players"]
    run = Program("record", flags, os.environ)
    while len(list(tmp_path.glob("killed/*/*.jsonl"))) < 1 or not list(tmp_path.glob("killed/*/*.partial")):
        assert run.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*.jsonl")}
    assert digests(record(small_config(tmp_path / "killed"))) == digests(recorded)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # not recorded twice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_the_recorder_cleanly(tmp_path, number):
    flags = [f"--config.out={tmp_path}", "--config.splits.train.episodes=500", "--config.workers=1"]
    flags += ["--config.height=90", "--config.width=160", "--config.seconds=2.0"]
    run = Program("record", flags, os.environ)
    while not list(tmp_path.glob("*/*.jsonl")):
        assert run.poll() is None
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(run.pid, number)  # as a terminal does: to the workers and the engines too
    else:
        run.send_signal(number)
    message, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "run the same command again to resume" in message
    assert not list(tmp_path.rglob("*.partial"))
    assert not {path.stem for path in tmp_path.glob("*/*.mp4")} ^ {path.stem for path in tmp_path.glob("*/*.jsonl")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits.train.levels": ("MAP77",)}, r"MAP77.*E1M1.*MAP32.*deathmatch"),
        ({"splits.valid.seed": 3}, "train and valid share seeds"),
        ({"players.scripted": -1.0}, "config.players.*scripted"),
        ({"width": 161}, "even"),
        ({"height": 5000}, "1920x1080"),
        ({"skill": 9}, "skill"),
        ({"seconds": 0.0}, "at least one frame"),
    ],
)
def test_invalid_settings_are_refused_at_once(tmp_path, changes, message):
    with pytest.raises(RecordError, match=message):
        record(small_config(tmp_path, **changes))


def test_captions_say_what_the_scripted_player_does_and_change_nothing_else(recorded, tmp_path):
    path = next(path for path in find_recordings(recorded / "train") if "scripted" in path.name)
    level, player, seed = path.name.split("-")
    plan = EpisodePlan(tmp_path / path.name, level, player, int(seed))
    record_episode(plan, Settings(90, 160, 2.0, 2, captions=True))
    lines, plain = (
        [json.loads(line) for line in Path(f"{file}.jsonl").read_text().splitlines()] for file in (plan.path, path)
    )
    texts = [line.pop("text", "") for line in lines]
    assert lines == plain
    assert set(texts) <= {"explore", "fight", "rest", "open the door", "press the switch", *ITEM_CAPTIONS}
    assert all(texts)
    assert Path(f"{plan.path}.mp4").read_bytes() == Path(f"{path}.mp4").read_bytes()


def test_a_folder_of_other_settings_is_refused(recorded, tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(RecordError, match="in use by something else"):
        record(small_config(tmp_path))
    with pytest.raises(RecordError, match=r"1 recordings that these settings do not plan.*000003"):
        record(small_config(recorded, **{"splits.train.episodes": 3}))
    with pytest.raises(RecordError, match=r"made with other settings: seconds was 2\.0 and is now 3\.0\. Remove it"):
        record(small_config(recorded, seconds=3.0))


@pytest.mark.parametrize(
    ("variant", "holds_out_levels", "players"),
    [("full", True, {"scripted", "human"}), ("demo", False, {"runner"})],
)
def test_splits_share_no_seeds(variant, holds_out_levels, players):
    config = get_config(variant)
    config.out, config.splits.train.episodes = "recordings", 128
    episodes = plan_episodes(config)
    assert len({episode.seed for episode in episodes}) == len({episode.path for episode in episodes}) == len(episodes)
    levels = {split: {e.level for e in episodes if e.path.parent.name == split} for split in config.splits}
    assert bool(levels["valid"] - levels["train"]) == holds_out_levels
    assert set.union(*levels.values()) <= set(LEVELS)
    assert {episode.player for episode in episodes} == players
