"""Pairing by physical time: hand-made cases of taps, edges, unequal rates, lost releases, cuts and absurd values."""

import tracemalloc
from itertools import pairwise
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, ActionSpaceError, Axis
from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.interface import InputEvents, TimedPlay
from vpt_jax.data.bridges.pairing import (
    find_holds,
    frames_at_rate,
    kept_ranges,
    num_steps,
    pair_actions,
    require_mapped,
)
from vpt_jax.recording import BrokenRecordingError

PATH = Path("somewhere/play.csv")
SPACE = ActionSpace("made up", ("w", "jump"), (Axis("x", "counts", AxisQuantizer(100, 10, None), limit=500),))
DOWN, UP = 1.0, 0.0


def events(*rows, names=("w", "jump", "x"), num_keys=2):
    """Events of rows (time, name, value)."""
    time, name, value = zip(*rows, strict=True) if rows else ((), (), ())
    codes = np.array([names.index(one) for one in name], np.int32)
    return InputEvents(names, num_keys, np.array(time, np.float64), codes, np.array(value, np.float64))


def pair(*rows, steps=10, start=0.0, excluded=(), mapping=None, factor=1.0, **names):
    play = TimedPlay(events(*rows, **names), lambda: iter(()), tuple(excluded))
    return pair_actions(play, PATH, start, steps, SPACE, mapping, factor)


def steps_of(paired, key="w"):
    return np.flatnonzero(paired.buttons[:, SPACE.key_index[key]]).tolist()


@pytest.mark.parametrize(
    ("press", "release", "held"),
    [
        (0.10, 0.20, [2, 3]),  # at the frames' times: released at frame 4, so up in step 4
        (0.11, 0.20, [2, 3]),
        (0.11, 0.21, [2, 3, 4]),
        (0.11, 0.12, [2]),  # a tap within a step
        (0.11, 0.11, [2]),
        (0.149, 0.151, [2, 3]),
        (0.15 - 4e-17, 0.2 + 6e-17, [3]),  # rounding of floats
        (3 / 20 - 2e-7, 4 / 20 + 2e-7, [3]),  # rounding of Unix time
        (-1.0, 0.06, [0, 1]),  # before the first frame
        (-1.0, -0.5, []),
        (0.46, 99.0, [9]),
        (7.0, 8.0, []),
    ],
)
@pytest.mark.parametrize("start", [0.0, 1_700_000_000.25])
def test_a_key_is_down_in_every_step_in_which_it_is_held(press, release, held, start):
    if start and press == 0.15 - 4e-17:
        press, release = 0.15, 0.2
    assert steps_of(pair((start + press, "w", DOWN), (start + release, "w", UP), start=start)) == held


def test_events_at_the_times_of_frames_fall_in_their_steps():
    rng = np.random.default_rng(0)
    held = rng.random(5000) < 0.5
    held[-1] = False
    moved = rng.integers(-99, 99, 5000)
    for start in (0.0, 0.1, 1_764_000_000.1234):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(int)])))
        rows = [(start + step * 0.05, "w", float(held[step])) for step in edges.tolist()]
        rows += [(start + step * 0.05, "x", float(moved[step])) for step in range(5000)]
        paired = pair(*rows, steps=5000, start=start)
        np.testing.assert_array_equal(paired.buttons[:, 0], held)
        np.testing.assert_array_equal(paired.camera[:, 0], moved)


def test_movements_are_summed_over_the_step_with_the_recordings_and_the_mappings_factor():
    mapping = ActionMapping((), (("mouse.x", "x", 0.5), ("stick", "x", 10.0)))
    rows = [(0.05, "mouse.x", 3), (0.099, "mouse.x", 4), (0.1, "mouse.x", -8), (0.1, "stick", 0.25)]
    paired = pair(*rows, mapping=mapping, factor=2.0, names=("mouse.x", "stick"), num_keys=0, steps=4)
    assert paired.camera[:, 0].tolist() == [0, 7, -8 + 2.5, 0]


def test_a_step_further_than_the_limit_is_clipped_and_named():
    paired = pair((0.0, "x", 400), (0.01, "x", 400), (0.1, "x", -900))
    assert paired.camera[:3, 0].tolist() == [500, 0, -500]
    assert any("2 steps move further" in remark for remark in paired.remarks)


def test_zero_is_never_negative():
    mapping = ActionMapping((), (("x", "x", -1.0),))
    paired = pair((0.0, "x", 2), (0.01, "x", -2), mapping=mapping)
    assert not np.signbit(paired.camera).any()


def test_repeats_a_release_without_a_press_and_a_first_release():
    paired = pair(
        (0.1, "w", UP), (0.2, "w", DOWN), (0.23, "w", DOWN), (0.27, "w", DOWN), (0.3, "w", UP), (0.4, "w", UP)
    )
    assert steps_of(paired) == [0, 1, 4, 5]
    assert any("down from the start, since its first event is a release: w at 0.00 s" in one for one in paired.remarks)


def test_a_key_that_never_comes_up_is_held_to_the_end_or_the_interruption():
    assert steps_of(paired := pair((0.3, "w", DOWN))) == [6, 7, 8, 9]
    assert any("never released" in remark and "w at 0.30 s" in remark for remark in paired.remarks)
    assert steps_of(pair((0.1, "w", DOWN), excluded=[(0.2, 0.3)])) == [2, 3]
    # Pressed again after the interruption: the release went to the other program.
    assert steps_of(pair((0.1, "w", DOWN), (0.4, "w", DOWN), (0.45, "w", UP), excluded=[(0.2, 0.3)])) == [2, 3, 8]
    # Released after it: held all the time.
    assert steps_of(pair((0.1, "w", DOWN), (0.45, "w", UP), excluded=[(0.2, 0.3)])) == [2, 3, 4, 5, 6, 7, 8]
    # Pressed in the other program.
    assert steps_of(pair((0.25, "w", DOWN), excluded=[(0.2, 0.3)])) == [5]


def test_a_key_held_for_minutes_is_named():
    paired = pair((1.0, "w", DOWN), (100.0, "w", UP), steps=2400)
    assert any("held for more than 60 s" in remark and "w from 1.00 to 100.00 s" in remark for remark in paired.remarks)


def test_events_outside_and_unmapped_ones_are_counted():
    mapping = ActionMapping((("w", "w"),))
    paired = pair(
        (-1, "w", DOWN), (-0.9, "w", UP), (0.1, "jump", DOWN), (0.2, "jump", UP), (5, "x", 3), mapping=mapping
    )
    assert not paired.buttons.any()
    assert "2 events are before the first frame" in paired.remarks
    assert "1 events are after the last frame" in paired.remarks
    assert "not in the mapping: jump (1), x (1)" in paired.remarks


def test_events_out_of_order_are_sorted():
    assert steps_of(pair((0.2, "w", UP), (0.1, "w", DOWN))) == [2, 3]


def test_several_keys_may_have_one_target():
    mapping = ActionMapping((("w", "jump"), ("jump", "jump")))
    rows = [(0, "w", DOWN), (0.1, "w", UP), (0.1, "jump", DOWN), (0.2, "jump", UP)]
    assert steps_of(pair(*rows, mapping=mapping), "jump") == [0, 1, 2, 3]


def test_times_in_whole_seconds_are_refused():
    rows = [(1_700_000_000.0 + second // 3, "w", float(second % 2)) for second in range(60)]
    with pytest.raises(BrokenRecordingError, match=r"whole seconds: .*20 steps per second.*Leave this recording out"):
        pair(*rows, start=1_700_000_000.0)
    pair(*((time + 0.01 * number, *rest) for number, (time, *rest) in enumerate(rows)), start=1_700_000_000.0)


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ((np.nan, "w", DOWN), "w is 1.0 at nan s"),
        ((np.inf, "w", DOWN), "w is 1.0 at inf s"),
        ((0.1, "w", 2.0), "w is 2.0 at 0.1 s"),
        ((0.1, "x", np.nan), "x is nan"),
        ((0.1, "x", 1e6), "x is 1000000.0"),
    ],
)
def test_impossible_events_are_named(row, place):
    with pytest.raises(BrokenRecordingError, match=f"somewhere/play.csv: bad value: event 1: {place}"):
        pair((0.0, "jump", DOWN), row)


def test_a_mapping_to_an_unknown_key_is_refused():
    with pytest.raises(ActionSpaceError, match=r"goes to fly, which the action space 'made up' lacks"):
        pair(mapping=ActionMapping((("w", "fly"),)))


def test_a_recording_of_which_nothing_is_mapped_is_refused():
    pressed = events((0.1, "w", DOWN))
    require_mapped(pressed, PATH, SPACE, None)
    require_mapped(events(names=(), num_keys=0), PATH, SPACE, ActionMapping((("q", "w"),)))
    with pytest.raises(
        BrokenRecordingError, match=r"not in the mapping: it has jump, w, x, and the mapping is from q: "
    ):
        require_mapped(pressed, PATH, SPACE, ActionMapping((("q", "w"),)))


def test_a_recording_without_events_has_null_actions():
    paired = pair(names=(), num_keys=0)
    assert (paired.buttons.shape, paired.camera.shape) == ((10, 2), (10, 1))
    assert not paired.buttons.any()


def test_excluded_ranges_cut_a_recording():
    assert kept_ranges([], 5.0, 10) == [range(10)]
    assert kept_ranges([(5.1, 5.2)], 5.0, 10) == [range(2), range(4, 10)]
    assert kept_ranges([(5.11, 5.12), (5.3, np.inf)], 5.0, 10) == [range(2), range(3, 6)]
    assert kept_ranges([(0, 5.0), (5.49, 5.5), (7.0, 6.0)], 5.0, 10) == [range(9)]
    assert kept_ranges([(-np.inf, np.inf)], 5.0, 10) == []


def frames(times):
    """Black pixels with their number in two colours."""
    return [(time, np.full((1, 1, 3), (*divmod(number, 256), 0), np.uint8)) for number, time in enumerate(times)]


def shown(times):
    start: list[float] = []
    return [
        int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1]) for frame in frames_at_rate(frames(times), PATH, start)
    ], start


@pytest.mark.parametrize("start", [0.0, 3.7, 1_700_000_000.3])
def test_frames_of_any_rate_are_resampled_to_twenty_per_second(start):
    for rate, count in ((20, 60), (30, 90), (60, 180), (10, 30), (144, 432), (30000 / 1001, 90)):
        taken, times = shown(start + np.arange(count) / rate)
        expected = np.ceil(np.arange(60) * rate / 20 - 0.5 - 1e-9).clip(0).astype(int)
        assert times[0] == start
        assert len(taken) in ((60, 61) if rate == 30000 / 1001 else (60,))
        assert taken[:60] == expected.clip(max=count - 1).tolist()


def test_frames_at_uneven_times_are_taken_by_nearest_time():
    assert shown([0, 0.01, 0.12, 0.13, 0.19, 0.31])[0] == [0, 1, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(("times", "reason"), [([0, np.nan], "has the time nan"), ([0, 100], "nothing is shown from")])
def test_impossible_times_of_frames_are_named(times, reason):
    with pytest.raises(BrokenRecordingError, match=reason):
        shown(times)


def test_a_recorder_may_store_no_frames_during_a_pause():
    times = [*np.arange(0, 5, 0.05), *np.arange(305, 308, 0.05)]
    start = []
    excluded = [(4.97, 304.99)]
    found = list(frames_at_rate(frames(times), PATH, start, excluded))
    steps = num_steps(start, len(found), excluded)
    assert steps == 308 * 20
    assert kept_ranges(excluded, 0.0, steps) == [range(99), range(6100, 6160)]
    numbers = [int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1]) for frame in found]
    assert numbers[:99] + numbers[6100:steps] == [*range(99), *range(100, 160)]
    with pytest.raises(BrokenRecordingError, match="nothing is shown from"):
        list(frames_at_rate(frames(times), PATH, [], [(4.97, 100.0)]))
    assert num_steps([0, 0.05], 2, []) == 2


def naive(rows, steps):
    """Keys by simulation in milliseconds: held in a step if held in any of its 50."""
    held, down = np.zeros(steps * 50 + 1, bool), False
    for (time, _, value), following in pairwise([*rows, (steps * 50, "w", UP)]):
        down = value == DOWN
        if down:
            held[max(time, 0) : max(following[0], time + 1, 0)] = True  # a tap of no length counts
    return held[:-1].reshape(steps, 50).any(1)


def test_pairing_agrees_with_a_simulation_in_milliseconds():
    rng = np.random.default_rng(5)
    for _ in range(200):
        times = np.sort(rng.integers(-200, 1200, rng.integers(1, 30))).tolist()
        values = rng.random(len(times)) < 0.5
        values[0] = True  # a first release would mean that the key was down before
        rows = [(time, "w", float(value)) for time, value in zip(times, values, strict=True)]
        start = float(rng.choice([0.0, 0.3, 1_700_000_000.7]))
        paired = pair(*((start + time / 1000, *rest) for time, *rest in rows), start=start, steps=20)
        np.testing.assert_array_equal(paired.buttons[:, 0], naive(rows, 20))


def test_names_that_are_not_mapped_take_no_memory():
    names = (*(f"key{number}" for number in range(1999)), "x")
    rows = [(0.1, "key7", DOWN), (0.2, "key7", UP), (0.1, "key8", DOWN), (0.3, "x", 4.0)]
    mapping = ActionMapping((("key8", "jump"),), (("x", "x", 2.0),))
    tracemalloc.start()
    paired = pair(*rows, mapping=mapping, names=names, num_keys=1999, steps=50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6  # 50,000 x 2,000 numbers of 8 bytes are 800 MB
    assert steps_of(paired) == []
    assert steps_of(paired, "jump") == list(range(2, 50_000))
    assert np.flatnonzero(paired.camera[:, 0]).tolist() == [6]
    assert paired.camera[6, 0] == 8
    assert "not in the mapping: key7 (1)" in paired.remarks


def test_many_presses_and_many_pauses_are_paired_in_no_time():
    """A key that is pressed again after each of many pauses: the release before was lost in it."""
    count = 50_000
    rows = [(number + 0.25, "w", DOWN) for number in range(count)]
    excluded = [(number + 0.5, number + 0.75) for number in range(count)]
    start = monotonic()
    holds, _ = find_holds(events(*rows), 0.0, float(count), excluded)
    assert monotonic() - start < 5  # a search of all pauses for each press takes a minute
    np.testing.assert_array_equal(holds.start, np.arange(count) + 0.25)
    np.testing.assert_array_equal(holds.end, np.arange(count) + 0.5)


def test_a_list_of_events_refuses_more_than_a_recording_may_have(monkeypatch):
    monkeypatch.setattr("vpt_jax.data.bridges.event_list.MAX_NAMES", 2)
    monkeypatch.setattr("vpt_jax.data.bridges.event_list.MAX_EVENTS", 4)
    listed = EventList(PATH)
    listed.key(0.0, "w", True)
    listed.move(0.1, "x", 1.0)
    with pytest.raises(BrokenRecordingError, match=r"play\.csv: absurd size: more than 4 events, or than 2 keys"):
        listed.key(0.2, "a", True)
    listed.key(0.3, "w", False)
    listed.move(0.4, "x", 2.0)
    with pytest.raises(BrokenRecordingError, match="absurd size"):
        listed.move(0.5, "x", 3.0)
    assert listed.to_events().time.tolist() == [0.0, 0.1, 0.3, 0.4]
