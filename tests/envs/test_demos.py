"""Demo files of Doom: reader, actions at 20 Hz, trace, plan and measured alignment, without the engine."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.record import get_config
from tests.envs.demo_maker import make_demo, make_wad, turning_demo
from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.actions import action_of, paused, step_bounds
from vpt_jax.envs.doom.demos.credits import credited_players
from vpt_jax.envs.doom.demos.lump import read_demo, with_view
from vpt_jax.envs.doom.demos.motion import image_shifts, turn_alignment
from vpt_jax.envs.doom.demos.plan import plan_views
from vpt_jax.envs.doom.demos.trace import read_trace, turned_as_commanded
from vpt_jax.envs.doom.demos.wad import demo_lumps, read_lmp, read_wad

TWO_PLAYERS = [[[50, -40, 3, 0], [0, 0, -128, 1]], [[-25, 24, 127, 2], [0, 0, 0, 4 | 3 << 3]]]


def test_a_demo_reads_as_it_was_made():
    data = make_demo(TWO_PLAYERS, skill=3, episode=2, level=7, view=1)
    demo = read_demo(data, "here")
    assert (demo.skill, demo.episode, demo.map, demo.view, demo.players) == (4, 2, 7, 1, (0, 1))
    np.testing.assert_array_equal(demo.moves, np.array(TWO_PLAYERS)[..., :3])
    np.testing.assert_array_equal(demo.buttons, [[0, 1], [2, 28]])
    assert demo.seconds == 2 / 35


def test_notes_after_the_end_mark_are_not_read_and_another_view_changes_one_byte():
    data = make_demo(TWO_PLAYERS)
    demo = read_demo(data + b"PWAD\x80 notes", "here")
    assert demo.data == data
    assert demo.moves.shape == (2, 2, 3)
    changed = with_view(demo, 1)
    assert [i for i, (a, b) in enumerate(zip(data, changed, strict=True)) if a != b] == [8]
    with pytest.raises(ValueError, match="player 2 does not play"):
        with_view(demo, 2)


def test_an_end_mark_is_looked_for_at_the_first_byte_of_a_tic_only():
    demo = read_demo(make_demo([[[1, -128, -128, 128]], [[2, 0, 0, 0]]]), "here")
    assert demo.moves[:, 0, 0].tolist() == [1, 2]


GOOD = make_demo(TWO_PLAYERS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes"),
        (GOOD[:13], "has 13 bytes"),
        (GOOD[:-1], "no end mark"),
        (GOOD[:-3] + b"\x80", "no end mark"),
        (GOOD[:13] + b"\x80", "0 tics"),
        (make_demo(TWO_PLAYERS, version=111), "version 111 .*16 bits"),
        (make_demo(TWO_PLAYERS, version=202), "version 202 .*Boom"),
        (make_demo(TWO_PLAYERS, version=4), "version 4 .*no demo"),
        (make_demo(TWO_PLAYERS, skill=5), "skill is 5"),
        (make_demo(TWO_PLAYERS, episode=0), "episode is 0"),
        (make_demo(TWO_PLAYERS, level=0), "map is 0"),
        (make_demo(TWO_PLAYERS, view=2), "view is that of player 2"),
        (make_demo(TWO_PLAYERS, view=200), "view is 200"),
        (make_demo(TWO_PLAYERS, playing=[0, 0, 0, 0]), "who does not play"),
        (make_demo(TWO_PLAYERS, playing=[1, 0, 1, 0]), "leaves out a player"),
        (bytes(40_000_000), "40,000,000 bytes"),
    ],
)
def test_what_is_no_demo_is_refused_with_file_and_problem(data, message):
    with pytest.raises(DemoError, match=rf"there\.lmp .*{message}"):
        read_demo(data, "there.lmp")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data, header):
    try:
        demo = read_demo(GOOD[:13] + data if header else data, "here")
    except DemoError:
        return
    assert demo.moves.shape == (len(demo.buttons), len(demo.players), 3)
    assert read_demo(demo.data, "again").data == demo.data


def test_the_demos_of_a_wad_are_found_by_name(tmp_path):
    first, last = turning_demo(1), turning_demo(2)
    lumps = [("MAP01", b""), ("DEMO1", first), ("demo2", last), ("DEMOX", b"?"), ("E3M9", b""), ("DEMO1", last)]
    (tmp_path / "game.wad").write_bytes(make_wad(lumps))
    wad = read_wad(tmp_path / "game.wad")
    assert wad.is_game
    assert wad.levels == {"MAP01", "E3M9"}
    assert demo_lumps(wad) == {"DEMO1": last, "DEMO2": last}


def test_overlapping_demos_are_refused_before_they_are_read(tmp_path):
    demo = turning_demo(1)
    entries = b"".join(struct.pack("<ii8s", 12, len(demo), f"DEMO{n}".encode()) for n in range(1, 100))
    head = struct.pack("<4sii", b"IWAD", 99, 12 + len(demo))
    (tmp_path / "game.wad").write_bytes(head + demo + entries)
    with pytest.raises(DemoError, match=rf"game.wad is damaged: its 99 demos have {99 * len(demo):,} bytes, and the"):
        demo_lumps(read_wad(tmp_path / "game.wad"))


ONE_LUMP = struct.pack("<4sii", b"IWAD", 1, 12)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a WAD file"),
        (b"PK\x03\x04" + bytes(20), "not a WAD file"),
        (struct.pack("<4sii", b"PWAD", -1, 12), "damaged: -1 directory entries"),
        (struct.pack("<4sii", b"PWAD", 2**30, 12), "damaged: 1073741824 directory entries"),
        (struct.pack("<4sii", b"PWAD", 1, 4), "damaged: 1 directory entries at byte 4"),
        (make_wad([("DEMO1", b"1")])[:-1], "damaged"),
        (ONE_LUMP + struct.pack("<ii8s", 8, 2**30, b"DEMO1"), "'DEMO1' of 1073741824 bytes"),
        (ONE_LUMP + struct.pack("<ii8s", -8, 4, b"D\xff\x1b"), r"\\x1b' of 4 bytes"),
    ],
)  # fmt: skip
def test_a_damaged_wad_is_refused_with_file_and_problem(tmp_path, data, message):
    (tmp_path / "game.wad").write_bytes(data)
    with pytest.raises(DemoError, match=rf"game\.wad is.*{message}"):
        read_wad(tmp_path / "game.wad")


def test_a_pipe_or_a_missing_file_is_no_demo_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.lmp")
    for name in ("pipe.lmp", "missing.lmp"):
        with pytest.raises(DemoError, match=rf"{name} is not a file"):
            read_lmp(tmp_path / name)


def test_steps_join_two_two_two_and_one_tics():
    assert step_bounds(2, 18).tolist() == [[2, 4], [4, 6], [6, 8], [8, 9], [9, 11], [11, 13], [13, 15], [15, 16],
                                           [16, 18]]  # fmt: skip
    assert step_bounds(2, 17).tolist() == step_bounds(2, 18).tolist()[:-1]  # the last step would be cut
    assert step_bounds(2, 2).tolist() == []
    assert len(step_bounds(0, 35 * 60)) == 20 * 60


def action(moves, buttons=(0, 0), dead=(False, False)):
    return action_of(np.array(moves, np.int8), np.array(buttons, np.uint8), np.array(dead))


@pytest.mark.parametrize(
    ("moves", "buttons", "keys"),
    [
        ([[0, 0, 0], [0, 0, 0]], (0, 0), set()),
        ([[25, 0, 0], [0, 0, 0]], (0, 0), {"forward"}),
        ([[-25, 24, 0], [-25, 24, 0]], (0, 0), {"back", "right"}),
        ([[50, 0, 0], [50, -40, 0]], (0, 0), {"forward", "left", "sprint"}),
        ([[0, 40, 0], [0, 40, 0]], (0, 0), {"right", "sprint"}),
        ([[50, 0, 0], [-25, 0, 0]], (0, 0), {"forward", "sprint"}),
        ([[50, 0, 0], [-50, 0, 0]], (0, 0), {"sprint"}),
        ([[4, 0, 0], [-3, 5, 0]], (0, 0), set()),  # of the mouse
        ([[0, 0, 0], [0, 0, 0]], (1, 2), {"attack", "use"}),
        ([[0, 0, 0], [0, 0, 0]], (0, 4 | 2 << 3), {"hotbar.3"}),
        ([[0, 0, 0], [0, 0, 0]], (4 | 6 << 3, 0), {"hotbar.7"}),
        ([[0, 0, 0], [0, 0, 0]], (4, 4 | 7 << 3), {"hotbar.1"}),  # fist, then chainsaw
        ([[0, 0, 0], [0, 0, 0]], (2 << 3, 0), set()),  # no change
        ([[0, 0, 0], [0, 0, 0]], (128 | 1, 128 | 2), set()),  # pause, save
    ],
)
def test_keys_are_joined(moves, buttons, keys):
    assert {name for name, value in action(moves, buttons).items() if name != "camera" and value} == keys


def test_turns_are_summed_in_degrees_to_the_right():
    assert action([[0, 0, 64], [0, 0, -1]])["camera"] == (0.0, -63 * 360 / 256)
    assert action([[0, 0, -128], [0, 0, -128]])["camera"] == (0.0, 360.0)


def test_a_dead_player_can_only_use():
    everything = [[50, 40, 9], [50, 40, 9]], (1 | 2 | 4, 0)
    assert {name for name in action(*everything, dead=(True, True)) if name != "camera"} == {"use"}
    assert action(*everything, dead=(True, True))["camera"] == (0.0, 0.0)
    assert action(*everything, dead=(True, False))["camera"] == (0.0, -9 * 360 / 256)


def test_a_pause_lasts_until_the_next_one():
    buttons = np.zeros((6, 2), np.uint8)
    buttons[1, 0] = buttons[4, 1] = 128 | 1
    buttons[2, 0] = 128 | 2  # a save
    assert paused(buttons).tolist() == [False, True, True, True, False, False]


def ghost(states, players=1):
    """An engine's trace of (x, angle / 2**24, frame, map) per tic and player."""
    rows = [[x, 0, 0, angle % 256 * 2**24 - (angle % 256 > 127) * 2**32, 28, frame, level, 1, tic]
            for tic, state in enumerate(states, 1) for x, angle, frame, level in state]  # fmt: skip
    return struct.pack("<2i", 2, players) + b"".join(struct.pack("<9i", *row) for row in rows)


def test_a_trace_ends_where_the_level_is_left():
    demo = read_demo(make_demo(np.zeros((9, 1, 4), int)), "here")
    moving = [[(x, 0, 0, 1)] for x in range(4)]
    assert len(read_trace(ghost(moving), demo, "here").dead) == 4
    assert len(read_trace(ghost(moving + moving[-1:] * 4), demo, "here").dead) == 4  # statistics of the level
    assert len(read_trace(ghost([*moving, [(9, 0, 0, 2)]]), demo, "here").dead) == 4  # the next level
    assert len(read_trace(ghost(moving * 5), demo, "here").dead) == 9
    assert len(read_trace(ghost([]), demo, "here").dead) == 0
    with pytest.raises(DemoError, match="begins with"):
        read_trace(ghost(moving, players=2), demo, "here")


def test_a_trace_tells_turns_and_deaths():
    demo = read_demo(make_demo([[[0, 0, turn, 0]] for turn in (9, 5, -7, 100, 100, 0)]), "here")
    states = [(0, 9, 0, 1), (0, 14, 6, 1), (0, 7, 0x8001, 1), (0, 107, 7, 1), (1, 107, 8, 1)]
    trace = read_trace(ghost([[state] for state in states]), demo, "here")
    assert trace.dead[:, 0].tolist() == [False, False, False, True, True]
    assert turned_as_commanded(trace, demo, 0) == 1.0  # the last turn is a dead player's
    other = read_demo(make_demo([[[0, 0, turn, 0]] for turn in (9, 5, -7, 99, 100, 0)]), "here")
    assert turned_as_commanded(trace, other, 0) == pytest.approx(2 / 3)


def panorama_play(steps, late=0, drift=0.0):
    """Frames of a turning view, and the turns that a clock with an offset and a drift gives for them."""
    rng = np.random.default_rng(1)
    turns = rng.normal(0, 3, steps).round(1) * (rng.random(steps) < 0.7)
    picture = np.kron(rng.integers(0, 255, (12, 120, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    place = np.concatenate([[0], np.cumsum(turns[1:])]) * 2  # pixels a degree
    frames = (np.roll(picture, -round(x), 1)[:, :214] for x in place)
    recorded = np.arange(steps) - late - np.round(drift * np.arange(steps)).astype(int)
    return frames, turns[np.clip(recorded, 0, steps - 1)]


@pytest.mark.parametrize("late", [0, 3, -2])
def test_the_alignment_of_turns_is_measured_in_the_frames(late):
    frames, recorded = panorama_play(400, late)
    alignment = turn_alignment(np.array(list(image_shifts(frames))), recorded)
    assert alignment.late == late
    assert alignment.late_by_part == (late,) * 4
    assert alignment.correlation > 0.9
    assert alignment.pixels_per_degree == pytest.approx(1, rel=0.1)  # of frames half as wide


def test_drift_shows_in_the_parts():
    frames, recorded = panorama_play(800, drift=4.5 / 800)
    alignment = turn_alignment(np.array(list(image_shifts(frames))), recorded)
    assert alignment.late_by_part == pytest.approx((0, 2, 3, 4), abs=1)
    assert alignment.late_by_part[0] < alignment.late_by_part[3]


def test_no_alignment_is_claimed_where_the_player_does_not_turn_or_nothing_fits():
    frames, recorded = panorama_play(400)
    shifts = np.array(list(image_shifts(frames)))
    assert turn_alignment(shifts, np.zeros(400)) is None
    assert turn_alignment(np.zeros(400), recorded) is None
    assert turn_alignment(shifts, np.random.default_rng(8).permutation(recorded)) is None
    assert turn_alignment(shifts[:20], recorded[:20]) is None


def demos_config(out, **changes):
    config = get_config()
    config.out = str(out)
    config.update_from_flattened_dict({f"demos.{name}": value for name, value in changes.items()})
    return config


def write_game(folder, levels=("MAP01",), kind=b"IWAD", name="game.wad", demos=()):
    path = folder / name
    path.write_bytes(make_wad([*((level, b"") for level in levels), *demos], kind))
    return str(path)


def test_the_demos_of_freedoom_are_planned_with_their_players(tmp_path):
    pytest.importorskip("vizdoom")
    views = plan_views(demos_config(tmp_path))
    games = {view.session: view for view in views}
    assert sorted(view.level for view in games.values()) == [
        "E1M6", "E2M4", "E3M9", "E4M6", "MAP03", "MAP10", "MAP22", "MAP23",
    ]  # fmt: skip
    assert all(credited_players(view.demo.data) or view.level == "MAP22" for view in views)  # its lump has notes
    assert {view.person for view in views} == {"mc776", "Stratos", "Xindage", "Erick.or.Korp"}
    assert len(views) == len({view.path.name for view in views}) == 16
    assert sum(view.demo.seconds for view in views) / 60 == pytest.approx(39, abs=1)
    alone = {view.level: round(view.demo.seconds) for view in views if len(view.demo.players) == 1}
    assert alone == {"E1M6": 203, "MAP03": 76, "MAP22": 78}
    recorded_view = {view.level: view.person for view in views if view.player == view.demo.view}
    assert recorded_view == {
        "E1M6": "mc776", "E2M4": "Xindage", "E3M9": "Xindage", "E4M6": "Xindage", "MAP03": "mc776",
        "MAP10": "Xindage", "MAP22": "Stratos", "MAP23": "Xindage",
    }  # fmt: skip


def test_demos_of_ones_own_are_planned(tmp_path):
    (tmp_path / "my run_2.lmp").write_bytes(turning_demo(1))
    (tmp_path / "both.LMP").write_bytes(turning_demo(1, players=2, level=2))
    game = write_game(tmp_path, ("MAP01", "MAP02"), demos=[("DEMO1", turning_demo(2))])
    more = write_game(tmp_path, ("MAP02",), b"PWAD", "more.wad", [("DEMO3", turning_demo(1, level=2))])
    files = [str(tmp_path / "my run_2.lmp"), str(tmp_path / "both.LMP"), game, more]
    views = plan_views(demos_config(tmp_path / "out", files=files, game=game, additions=(more,)))
    assert [(view.level, view.person, view.player) for view in views] == [
        ("MAP01", "my.run.2", 0), ("MAP02", "both.LMP.1", 0), ("MAP02", "both.LMP.2", 1),
        ("MAP01", "game.wad.DEMO1", 0), ("MAP02", "more.wad.DEMO3", 0),
    ]  # fmt: skip
    assert views[0].game == Path(game)
    assert [view.additions for view in views] == [(Path(more),)] * 3 + [(), (Path(more),)]
    views = plan_views(demos_config(tmp_path / "out", files=files[:1] * 2, game=game, person="ann"))
    assert [view.person for view in views] == ["ann"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ("{run}",)}, r"run\.lmp was played on a game: .*--config\.demos\.game"),
        ({"files": ("{run}",), "game": "{more}"}, "more.wad is an addition .*--config.demos.game"),
        ({"files": ("{run}",), "game": "{other}"}, r"level E1M1, which .*other\.wad does not have.*demos\.additions"),
        ({"files": ("{game}",)}, r"no demos .*game\.wad"),
        ({"files": ("{run}x",), "game": "{game}"}, "is not a file"),
    ],
)
def test_a_plan_that_lacks_something_names_the_remedy(tmp_path, changes, message):
    (tmp_path / "run.lmp").write_bytes(turning_demo(1))
    places = {
        "run": tmp_path / "run.lmp", "game": write_game(tmp_path),
        "other": write_game(tmp_path, ("E1M2",), name="other.wad"),
        "more": write_game(tmp_path, kind=b"PWAD", name="more.wad"),
    }  # fmt: skip
    filled = {
        name: tuple(text.format(**places) for text in value) if isinstance(value, tuple) else value.format(**places)
        for name, value in changes.items()
    }
    with pytest.raises(DemoError, match=message):
        plan_views(demos_config(tmp_path / "out", **filled))
