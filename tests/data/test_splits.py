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


@pytest.mark.parametrize("by", ["player", "session", "world"])
def test_recordings_are_split_by_their_facts(by):
    """No session, nor a player or a world if it is split by these, is in both splits."""
    facts = {f"take{i}": {"player": f"p{i % 60}", "session": f"s{i % 240}", "world": f"w{i % 30}"} for i in range(480)}
    facts["odd"] = {"licence": "CC0-1.0"}  # nothing is known: not held out
    names = list(facts)
    valid = held_out(names, 0.2, by, 0, facts)
    train = set(names) - valid
    assert 0.05 < len(valid) / len(names) < 0.4
    assert "odd" not in valid
    for unit in (by, "session"):
        assert not {facts[one].get(unit) for one in valid} & {facts[one].get(unit) for one in train}
    assert held_out(names[:240], 0.2, by, 0, facts) == valid & set(names[:240])


def test_players_who_share_a_session_are_in_one_split():
    facts = {f"{player}{i}": {"player": player, "session": f"{player}{i}"} for player in "abcdef" for i in range(2)}
    facts |= {"both1": {"player": "a", "session": "x"}, "both2": {"player": "b", "session": "x"}}
    for seed in range(20):
        valid = held_out(list(facts), 0.5, "player", seed, facts)
        assert ("a0" in valid) == ("b0" in valid) == ("both1" in valid) == ("both2" in valid)
        assert 0 < len(valid) < len(facts)


def test_a_single_world_is_split_by_session():
    facts = {f"take{i}": {"player": f"p{i}", "session": f"s{i % 5}", "world": "w"} for i in range(20)}
    valid = held_out(list(facts), 0.2, "world", 0, facts)
    assert 0 < len(valid) < 20
    assert not {facts[one]["session"] for one in valid} & {facts[one]["session"] for one in set(facts) - valid}


def test_a_fact_goes_before_the_name_of_a_contractor():
    names = names_of(4, sessions=1, segments=1)
    facts = {name: {"player": "one"} for name in names}
    assert held_out(names, 0.5, "player", 0) == held_out(names, 0.5, "player", 0, {})
    assert 0 < len(held_out(names, 0.5, "player", 0, facts)) < 4  # of a single player, sessions
