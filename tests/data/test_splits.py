"""Held-out players and sessions: complete, chosen by name only, and stable when recordings are added."""

import pytest

from vpt_jax.contractor_names import parse_name
from vpt_jax.data.splits import held_out


def names_of(players, sessions=3, segments=4, prefix=""):
    return [
        f"{prefix}player-{player}-{1000 * player + session:012x}-20220421-{10 + segment}0000"
        for player in range(players)
        for session in range(sessions)
        for segment in range(segments)
    ]


def units(names, by):
    return {parse_name(name)[: 1 + (by == "session")] for name in names}


@pytest.mark.parametrize("by", ["player", "session"])
@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5, 0.999])
def test_players_and_sessions_are_held_out_completely(by, fraction):
    """The split never divides a session nor, by default, a player (fidelity S7)."""
    names = names_of(300 if by == "player" else 30, 1 if by == "player" else 10)
    valid = held_out(names, fraction, by, 0)
    train = set(names) - valid
    assert valid
    assert train
    assert not units(valid, by) & units(train, by)
    assert abs(len(units(valid, by)) - 300 * fraction) < max(2, 4 * (300 * fraction * (1 - fraction)) ** 0.5)


@pytest.mark.parametrize("by", ["player", "session"])
def test_added_recordings_do_not_change_the_split_of_others(by):
    names = names_of(80)
    valid = held_out(names[: len(names) // 2], 0.1, by, 0)
    assert valid == held_out(names, 0.1, by, 0) & set(names[: len(names) // 2])
    assert valid == held_out(names[: len(names) // 2][::-1], 0.1, by, 0)
    assert held_out(names, 0.1, by, 0) != held_out(names, 0.1, by, 1)


def test_a_player_is_the_same_in_all_indexes_and_segments():
    plain = names_of(40)
    others = [f"{prefix}{name}{suffix}" for name in plain for prefix, suffix in (
        ("8.0_", ""), ("find-cave_", ""), ("deep/6.9_", "@20-40"), ("", "-0123456789abcdef"))]  # fmt: skip
    players = units(held_out(plain, 0.2, "player", 0), "player")
    assert units(held_out(others, 0.2, "player", 0), "player") == players


def test_splits_of_few_players_and_sessions():
    one = names_of(1)
    assert 0 < len(held_out(one, 0.05, "player", 0)) < len(one)  # of a single player, sessions
    assert not units(held_out(one, 0.05, "player", 0), "session") & units(
        set(one) - held_out(one, 0.05, "player", 0), "session"
    )
    assert not held_out(names_of(1, sessions=1), 0.5, "player", 0)  # a session stays whole
    for fraction in (0.001, 0.999):
        assert len(units(held_out(names_of(2), fraction, "player", 0), "player")) == 1


def test_other_names_and_no_fraction_hold_out_nothing():
    assert not held_out([f"take {number}" for number in range(50)], 0.5, "player", 0)
    assert not held_out([], 0.5, "player", 0)
    assert not held_out(names_of(50), 0.0, "player", 0)
