"""Names of contractor recordings in OpenAI's index, in downloads and in manifests."""

from datetime import datetime
from pathlib import Path

import pytest

from vpt_jax.contractor_names import is_version, parse_name, recorder_version, video_name

NAME = "cheeky-cornflower-setter-02e496ce4abb-20220421-092639"


@pytest.mark.parametrize(
    "name", [NAME, f"6.9_{NAME}", f"deep/6.9_{NAME}@20-40", f"{NAME}-0123456789abcdef", f"6.9_{NAME}-0123456789abcdef"]
)
def test_names_contain_player_session_and_start(name):
    """Splits hold players and sessions out by these names (fidelity S7)."""
    assert parse_name(name) == ("cheeky-cornflower-setter", "02e496ce4abb", datetime(2022, 4, 21, 9, 26, 39))


@pytest.mark.parametrize(
    "name", ["", "a", "E1M5-runner-000001", "player003-abc-20220101", NAME[:-1], f"{NAME}-take", f"6.9_{NAME[25:]}"]
)
def test_other_names_are_not_parsed(name):
    assert parse_name(name) is None


def test_digits_that_are_no_time_do_not_hide_player_and_session():
    assert parse_name("Player65-02e496ce4abb-20221399-250000") == ("Player65", "02e496ce4abb", None)


def test_recorder_versions_and_video_names_are_parsed():
    """The recorder's version is in the name of a file or of its folder (fidelity D2)."""
    assert recorder_version(Path(f"a/6.13_{NAME}.jsonl")) == "6.13"
    assert recorder_version(Path(f"/data/10.0/valid/{NAME}")) == "10.0"
    assert recorder_version(Path(f"/data/6.9/recordings/{NAME}")) is None
    assert recorder_version(Path(NAME)) is None
    assert video_name("deep/talk@0-200") == "deep/talk"


def test_a_major_version_stands_for_all_of_its_minor_ones():
    assert [is_version(version, ["8", "9.1"]) for version in ("8.0", "8.12", "9.1")] == [True] * 3
    assert not any(is_version(version, ["8", "9.1"]) for version in ("9.0", "9.12", "18.0", "10.0", "none"))
