"""Demos replayed and drawn by dsda-doom, and their recorder, on short demos made here (skipped where it is missing)."""

import hashlib
import json
import os
import shutil
from itertools import islice, pairwise

import numpy as np
import pytest

from configs.record import get_config
from tests.envs.demo_maker import make_demo, make_wad, turning_demo
from tests.programs import Program
from vpt_jax.contractor_names import parse_name
from vpt_jax.data.bridges.facts import facts_file, read_facts
from vpt_jax.envs.doom.demos import DemoError, engine
from vpt_jax.envs.doom.demos.engine import draw, trace
from vpt_jax.envs.doom.demos.lump import read_demo
from vpt_jax.envs.doom.demos.motion import image_shifts, turn_alignment
from vpt_jax.envs.doom.demos.recorder import record_demos
from vpt_jax.envs.doom.demos.trace import turned_as_commanded
from vpt_jax.envs.doom.demos.wad import demo_lumps, read_wad
from vpt_jax.recording import find_recordings, read_frames, read_steps

pytest.importorskip("vizdoom")
from vpt_jax.envs.doom.level import level_file

pytestmark = pytest.mark.skipif(
    not shutil.which("dsda-doom", path=f"{os.environ.get('PATH', os.defpath)}:/usr/games"),
    reason="dsda-doom is not installed: apt-get install dsda-doom",
)
FREEDOOM = level_file("MAP03").game
PLAY = read_demo(turning_demo(5.0, players=2, level=3), "play")


def config_of(folder, files, **changes):
    config = get_config()
    values = {"out": str(folder), "height": 90, "width": 160, "workers": 2, "demos.files": tuple(map(str, files)),
              "demos.game": str(FREEDOOM)}  # fmt: skip
    config.update_from_flattened_dict(values | changes)
    return config


def test_players_turn_as_their_demo_says():
    replayed = trace(PLAY, FREEDOOM, (), "play")
    assert len(replayed.angle) == len(PLAY.moves) - 1  # the last tic's state is not exported
    assert [turned_as_commanded(replayed, PLAY, player) for player in (0, 1)] == [1.0, 1.0]
    assert not replayed.dead.any()


@pytest.fixture(scope="module")
def drawn():
    """Frames of the second player's view: made half as wide to save memory."""
    frames = draw(PLAY, 1, FREEDOOM, (), 854, "play")
    return np.array([frame[::2, ::2] for frame in frames])


def test_every_tic_is_drawn_from_the_second_on(drawn):
    assert drawn.shape == (len(PLAY.moves), 240, 427, 3)
    assert drawn[0].max() < 8 < drawn[engine.FIRST_FRAME].max()
    assert all((a != b).any() for a, b in pairwise(drawn))


def test_a_frame_shows_the_state_after_the_commands_of_its_tic(drawn):
    turns = -PLAY.moves[:, :, 2].astype(float) * 360 / 256
    shifts = np.array(list(image_shifts(drawn[1:])))
    alignment = turn_alignment(shifts, turns[1:, 1])
    assert alignment.late == 0
    assert alignment.correlation > 0.6
    assert alignment.pixels_per_degree == pytest.approx(0.7, abs=0.2)
    assert turn_alignment(shifts, turns[1:, 0]) is None  # the other player's turns are not in this view


def test_drawing_twice_gives_the_same_frames_and_can_be_left_early(drawn):
    frames = draw(PLAY, 1, FREEDOOM, (), 854, "play")
    for frame, before in zip(islice(frames, 20), drawn, strict=False):
        np.testing.assert_array_equal(frame[::2, ::2], before)
    frames.close()


def test_a_game_that_does_not_start_is_an_error_with_the_engines_words(tmp_path):
    (tmp_path / "empty.wad").write_bytes(make_wad([("MAP03", b"")]))
    with pytest.raises(DemoError, match=r"(?s)did not replay play.*log:\n.+"):
        trace(PLAY, tmp_path / "empty.wad", (), "play")
    with pytest.raises(DemoError, match=r"(?s)play.*log:\n.+"):
        list(draw(PLAY, 0, tmp_path / "empty.wad", (), 854, "play"))


def test_a_missing_engine_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(engine, "_GAMES", str(tmp_path))
    with pytest.raises(DemoError, match="apt-get install dsda-doom"):
        record_demos(config_of(tmp_path / "out", ["run.lmp"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A game of two players, and one that is too short."""
    folder = tmp_path_factory.mktemp("demos")
    (folder / "two.lmp").write_bytes(PLAY.data)
    (folder / "short.lmp").write_bytes(turning_demo(10 / 35, level=3))
    return [folder / "two.lmp", folder / "short.lmp"]


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, files):
    return record_demos(config_of(tmp_path_factory.mktemp("human"), files))


def test_every_players_view_is_a_recording_with_the_demos_actions(recorded, drawn):
    paths = find_recordings(recorded / "train")
    names = [parse_name(path.name) for path in paths]
    assert sorted(name.player for name in names) == ["two.1", "two.2"]
    path = paths[[name.player for name in names].index("two.2")]
    steps = read_steps(path.with_name(path.name + ".jsonl"))
    tics = PLAY.moves[2 : len(PLAY.moves) - 1, 1, 2].astype(int)  # from the third tic on, as far as the trace
    assert len(steps.buttons) == len(tics) * 4 // 7
    sums = [tics[start:stop].sum() for start, stop in ((0, 2), (2, 4), (4, 6), (6, 7), (7, 9))]
    np.testing.assert_allclose(steps.camera[:5, 1], -np.array(sums) * 360 / 256, rtol=1e-6)
    assert steps.buttons.sum(0).tolist() == [0, 0, len(steps.buttons)] + [0] * 17  # forward, all the time
    frames = np.array(list(read_frames(path.with_name(path.name + ".mp4"), steps, 240, 427)), float)
    for step, tic in ((0, 2), (1, 4), (3, 8), (4, 9)):  # the frame before the commands of the tic
        errors = [np.abs(frames[step] - drawn[number]).mean() for number in range(1, 14)]
        assert 1 + int(np.argmin(errors)) == tic - 1


def test_the_facts_name_players_alignment_and_what_was_left_out(recorded):
    facts = json.loads((recorded / "demos.json").read_text())
    assert [fact["player"] for fact in facts] == ["two.1", "two.2", "short"]
    assert [fact["left_out"] for fact in facts] == ["", "", "the player leads it for 0.2 s only"]
    assert [fact["seconds"] for fact in facts] == [4.9, 4.9, 0.0]
    assert {fact["session"] for fact in facts[:2]} == {hashlib.sha256(PLAY.data).hexdigest()[:12]}
    assert facts[0]["world"] == "MAP03"
    assert [(fact["skill"], fact["demo_seconds"]) for fact in facts] == [(2, 5.0), (2, 5.0), (2, 0.29)]
    for fact in facts[:2]:
        assert fact["turned_as_commanded"] == 1
        assert fact["late"] == 0


def test_the_facts_that_a_dataset_reads_are_beside_each_recording(recorded):
    paths = find_recordings(recorded / "train")
    facts = [read_facts(facts_file(path)) for path in paths]
    session = hashlib.sha256(PLAY.data).hexdigest()[:12]
    assert facts == [
        {"player": f"two.{player}", "session": session, "world": "MAP03", "game": "freedoom2"} for player in (1, 2)
    ]


def test_what_was_not_measured_is_said(files, tmp_path):
    commands = np.zeros((70, 1, 4), int)
    commands[:, :, 0] = 25  # forward, without a turn
    (tmp_path / "still.lmp").write_bytes(make_demo(commands, level=3))
    out = record_demos(config_of(tmp_path / "out", [tmp_path / "still.lmp"]))
    [fact] = json.loads((out / "demos.json").read_text())
    assert fact["left_out"] == ""
    assert fact["alignment"].startswith("not measured")
    [path] = find_recordings(out / "train")
    assert read_facts(facts_file(path))["notes"].startswith("alignment: not measured")


def test_the_files_do_not_depend_on_the_workers_or_on_interruptions(recorded, files, tmp_path, capsys):
    again = shutil.copytree(recorded, tmp_path / "again")
    lost = find_recordings(again / "train")[0]
    lost.with_name(lost.name + ".jsonl").unlink()
    (again / "train" / f"{lost.name}.mp4.partial").touch()
    record_demos(config_of(again, files, workers=1))
    assert "1 of 3 views are recorded already" in capsys.readouterr().out
    assert digests(again) == digests(recorded)


def test_other_settings_are_refused(recorded, files, tmp_path):
    with pytest.raises(DemoError, match="height was 90 and is now 92"):
        record_demos(config_of(recorded, files, height=92))
    with pytest.raises(DemoError, match="made with other settings: demos was"):
        record_demos(config_of(recorded, files[:1]))
    (tmp_path / FREEDOOM.name).write_bytes(FREEDOOM.read_bytes() + b"another")
    with pytest.raises(DemoError, match="made with other settings: wads was"):
        record_demos(config_of(recorded, files, **{"demos.game": str(tmp_path / FREEDOOM.name)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"width": 161}, "must be even"), ({"height": 2000}, "1920x1080"), ({"out": ""}, "config.out is empty")],
)
def test_wrong_sizes_are_refused_at_once(tmp_path, files, changes, message):
    with pytest.raises(DemoError, match=message):
        record_demos(config_of(tmp_path, files, **changes))


def test_the_command_says_which_minutes_it_has_and_what_it_left_out(tmp_path, files):
    flags = ["--player=demos", f"--config.out={tmp_path}", f"--config.demos.files=('{files[1]}',)"]
    run = Program("record", [*flags, f"--config.demos.game={FREEDOOM}", "--config.workers=1"], os.environ)
    message, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    assert f"left out: {files[1]}, player 1: the player leads it for 0.2 s only" in message
    assert "0 of 1 views, nothing" in message


@pytest.mark.slow
def test_a_human_game_of_freedoom_is_aligned_throughout(tmp_path):
    lump = demo_lumps(read_wad(FREEDOOM))["DEMO1"]
    (tmp_path / "map03.lmp").write_bytes(lump)
    record_demos(config_of(tmp_path / "out", [tmp_path / "map03.lmp"]))
    [fact] = json.loads((tmp_path / "out" / "demos.json").read_text())
    assert (fact["player"], fact["world"], fact["seconds"]) == ("mc776", "MAP03", 74.25)
    assert (fact["late"], fact["late_by_part"]) == (0, [0, 0, 0, 0])
    assert fact["turned_as_commanded"] > 0.99
    assert fact["correlation"] > 0.4
