"""The command `early-game`: titles with the words, and the first minutes of clean segments."""

import pytest

from configs.data import get_config
from vpt_jax.curation.download.early_game import SCHEMA, EarlyGameError, find_word
from vpt_jax.curation.download.search_terms import EARLY_GAME_WORDS
from vpt_jax.curation.download.web import MANIFEST
from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.data.manifest import read_segments, write_table

TITLES = {  # by title: True if a set like `earlygame_keyword` includes the video
    "I made a NEW WORLD in Minecraft": True, "Minecraft new survival world": True, "A Fresh Start!": True,
    "Let's Play Minecraft Episode 1": True, "lets play ep. 01 - wood": True, "Survival part #1": True,
    "100 days: Day 1": True, "My first night": True, "Episode 1": True,
    "Let's Play Minecraft Episode 12": False, "Episode 10": False, "part 21": False, "I tour my old world": False,
    "Redstone tutorial": False, "step 1": False, None: False,
}  # fmt: skip


@pytest.mark.parametrize("title", TITLES)
def test_titles_are_chosen_by_their_words(title):
    assert bool(find_word(title or "", EARLY_GAME_WORDS)) == TITLES[title]


def test_words_of_other_languages_are_chosen_only_if_given():
    assert not find_word("Minecraft Episodio 1", EARLY_GAME_WORDS)
    assert find_word("Minecraft Episodio 01!", ["episodio 1"]) == "episodio 1"
    assert find_word("Minecraft 1. B\u00d6L\u00dcM", ["1. b\u00f6l\u00fcm"]) == "1. b\u00f6l\u00fcm"


@pytest.fixture
def config(tmp_path):
    """Clean segments of four videos, of which two say that a world begins."""
    titles = {"a.mp4": "A new world", "b.mp4": "My castle", "c.mp4": "Day 1", "d.mp4": None}
    rows = [{"title": title, "video": video, "start": 0.0, "end": 900.0} for video, title in titles.items()]
    write_table(tmp_path / "videos.parquet", rows, MANIFEST)
    clean = [("a.mp4", 10, 100), ("a.mp4", 200, 400), ("a.mp4", 500, 600), ("b.mp4", 0, 900), ("c.mp4", 299.99, 350)]
    rows = [{"video": video, "start": start, "end": end} for video, start, end in clean]
    write_table(tmp_path / "segments.parquet", rows, SCHEMA)
    config = get_config()
    config.manifest, config.titles = str(tmp_path / "segments.parquet"), str(tmp_path / "videos.parquet")
    return config


def test_clean_segments_are_cut_at_the_first_minutes(config, tmp_path, capsys):
    COMMANDS["early-game"](config)
    assert read_segments(tmp_path / "early_game.parquet") == [("a.mp4", 10.0, 100.0), ("a.mp4", 200.0, 300.0)]
    assert capsys.readouterr().out.splitlines()[:2] == [
        "1 of 3 videos, 0.05 of 0.37 hours", "  1 with 'new world' (of notes that quote the paper)",
    ]  # fmt: skip


def test_a_manifest_of_collect_has_titles_of_its_own(config, tmp_path):
    config.manifest, config.titles, config.title_words = config.titles, "", ("castle",)
    COMMANDS["early-game"](config)
    assert read_segments(tmp_path / "early_game.parquet") == [("b.mp4", 0.0, 300.0)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"manifest": ""}, "config.manifest is empty"),
        ({"out": "/elsewhere/early.parquet"}, "relative to its folder"),
        ({"first_minutes": 0.0}, "config.first_minutes is 0.0"),
        ({"title_words": ("new world", "!")}, "config.title_words is"),
        ({"title_words": ("parkour",)}, "no segment in the first 5 minutes .* 3 videos have a title"),
        ({"titles": "nowhere.parquet"}, "has no titles .*--config.titles"),
    ],
)
def test_errors_name_the_field_and_the_remedy(config, fields, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config.update(fields)
    with pytest.raises(EarlyGameError, match=message):
        COMMANDS["early-game"](config)


def test_titles_of_other_videos_are_an_error(config, tmp_path):
    rows = [{"title": "A new world", "video": "videos/a.mp4", "start": 0.0, "end": 900.0}]
    write_table(tmp_path / "videos.parquet", rows, MANIFEST)
    with pytest.raises(EarlyGameError, match="names of videos must be equal"):
        COMMANDS["early-game"](config)
