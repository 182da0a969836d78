"""Default search terms, reject words and words of the early game for video metadata.

Search terms and reject words are after the paper (App. A.1). The appendix was not available: both lists come from a
public crawler that follows it, and may differ in details. The paper's list of words of the early game is not known.
"""

SEARCH_TERMS = (
    "minecraft survival longplay",
    "minecraft gameplay no webcam",
    "minecraft gameplay survival mode",
    "minecraft survival tutorial",
    "minecraft survival guide",
    "minecraft survival let's play",
    "minecraft survival for beginners",
    "minecraft beginners guide",
    "ultimate minecraft starter guide",
    "minecraft survival guide 1.16",
    "minecraft how to start a new survival world",
    "minecraft survival fresh start",
    "minecraft survival let's play episode 1",
    "let's play minecraft episode 1",
    "minecraft survival 101",
    "minecraft survival learning to play",
    "how to play minecraft survival",
    "how to play minecraft",
    "minecraft survival basic",
    "minecraft survival for noobs",
    "minecraft survival for dummies",
    "how to play minecraft for beginners",
    "minecraft survival tutorial series",
    "minecraft survival new world",
    "minecraft survival a new beginning",
    "minecraft survival episodio 1",
    "minecraft survival 1. bölüm",
    "i made a new minecraft survival world",
)

REJECT_WORDS = (
    "ps3",
    "ps4",
    "ps5",
    "xbox 360",
    "playstation",
    "timelapse",
    "multiplayer",
    "minecraft pe",
    "pocket edition",
    "skyblock",
    "realistic minecraft",
    "how to install",
    "how to download",
    "realmcraft",
    "animation",
)

# Words in titles of videos in which a world begins (`early_game.py`), English ones only, by how far each is trusted.
EARLY_GAME_WORDS = {
    "new world": "of notes that quote the paper",
    "episode 1": 'of these notes as "let\'s play episode 1"',
    "new survival world": "of the search terms",
    "fresh start": "of the search terms",
    "new beginning": "of the search terms",
    "ep 1": "our choice",
    "part 1": "our choice",
    "day 1": "our choice",
    "first day": "our choice",
    "first night": "our choice",
}
