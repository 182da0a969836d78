"""What is recorded and what is not: focus, text fields, the pause key, keys outside the list; the server's clock."""

import pytest

from vpt_jax.curation.window_recorder.clock import ServerClock
from vpt_jax.curation.window_recorder.gate import Gate, Input, Row


def rows(events, **options):
    """Rows of events (kind, name or value), one a second."""
    gate = Gate(("w", "a", "mouse.left"), **options)
    found = []
    for time, (kind, what) in enumerate(events):
        name, value = ("", what) if kind == "focus" else (what, 3.0 if kind == "move" else 0.0)
        found += gate.feed(Input(time, kind, name, value))
    return found


def test_nothing_is_recorded_without_the_focus():
    assert rows([("press", "w"), ("move", "mouse.x"), ("focus", 1), ("release", "w"), ("press", "a")]) == [
        Row(2, "resume"), Row(4, "press", "a")
    ]  # fmt: skip


def test_held_keys_are_released_where_the_focus_is_lost_and_what_is_typed_elsewhere_is_forgotten():
    events = [("focus", 1), ("press", "w"), ("press", "a"), ("focus", 0), ("press", "a"), ("release", "w"),
              ("release", "a"), ("focus", 1), ("press", "w"), ("press", "w"), ("release", "w")]  # fmt: skip
    assert rows(events) == [
        Row(0, "resume"), Row(1, "press", "w"), Row(2, "press", "a"), Row(3, "release", "a"), Row(3, "release", "w"),
        Row(3, "pause"), Row(7, "resume"), Row(8, "press", "w"), Row(10, "release", "w"),
    ]  # fmt: skip


def test_keys_outside_the_list_leave_no_row():
    assert rows([("focus", 1), ("press", "p"), ("release", "p"), ("press", ""), ("move", "mouse.x")]) == [
        Row(0, "resume"), Row(4, "move", "mouse.x", 3.0)
    ]  # fmt: skip


@pytest.mark.parametrize("end", ["enter", "escape"])
def test_nothing_is_recorded_from_a_text_field_s_key_to_enter_or_escape(end):
    typed = [("press", "w"), ("press", "a"), ("release", "w"), ("move", "mouse.x"), ("press", "t")]
    events = [("focus", 1), ("press", "t"), *typed, ("press", end), ("release", end), ("press", "w")]
    assert rows(events, text_keys=("t", "enter")) == [
        Row(0, "resume"), Row(1, "pause"), Row(7, "resume"), Row(9, "press", "w")
    ]  # fmt: skip


def test_a_text_field_ends_with_the_focus():
    events = [("focus", 1), ("press", "t"), ("focus", 0), ("focus", 1), ("press", "w")]
    assert rows(events, text_keys=("t",))[-2:] == [Row(3, "resume"), Row(4, "press", "w")]


def test_the_pause_key_pauses_until_it_is_pressed_again():
    events = [("focus", 1), ("press", "pause"), ("press", "w"), ("press", "t"), ("press", "pause"), ("press", "a")]
    assert rows(events, pause_key="pause", text_keys=("t",)) == [
        Row(0, "resume"), Row(1, "pause"), Row(4, "resume"), Row(5, "press", "a")
    ]  # fmt: skip


def test_held_keys_are_those_whose_press_is_recorded():
    gate = Gate(("w", "a"))
    for event in (Input(0, "focus", value=1), Input(1, "press", "w"), Input(2, "press", "p"), Input(3, "press", "a")):
        list(gate.feed(event))
    assert gate.held == ("a", "w")


def test_round_trips_bound_the_server_s_clock():
    clock = ServerClock()
    clock.add(100.000, 5_000, 100.020)  # 95 s ahead, 0 to 20 ms
    assert clock.seconds(6_000) == pytest.approx(101.0095)
    clock.add(101.000, 5_995, 101.004)
    assert clock.seconds(6_000) == pytest.approx(101.0065, abs=1e-3)
    clock.add(201.0, 105_000, 201.002)  # another clock, which has drifted by a second
    assert clock.seconds(105_000) == pytest.approx(201.0005, abs=1e-3)


def test_the_server_s_clock_continues_after_its_largest_number():
    clock = ServerClock()
    clock.add(10.0, 2**32 - 500, 10.0)
    assert clock.seconds(500) == pytest.approx(11.0, abs=1e-3)
    assert clock.seconds(2**32 - 500) == pytest.approx(10.0, abs=1e-3)
