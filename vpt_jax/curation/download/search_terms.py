"""Default search terms, and reject words for video metadata, after the paper (App. A.1) by a public crawler's list.

The appendix was not available: both lists come from a public crawler that follows it, and may differ in details.
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
