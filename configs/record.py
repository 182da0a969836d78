"""Recordings of Doom, played on the free Freedoom levels by a script that knows the game and by human action streams.

    python launch/record.py --config.out=runs/recordings

Two hours and a half of play at 640x360, in 10 to 20 minutes on two cores. Killed or stopped, the same command goes
on with what is missing.

Variant `:demo`, for configs/demo.py: small pictures of one level with much to see, on which a small inverse dynamics
model learns within minutes how they move, and a policy where the player goes from where.

Variant `:bench`, for launch/bench.py: a few minutes of the same.
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "demo", "bench")
# Levels of which much can be reached from the start; four of ViZDoom's scenarios, which are short, come last.
LEVELS = (
    "MAP01", "MAP02", "MAP03", "MAP04", "MAP08", "MAP13", "E1M1", "E1M2", "E1M4", "E1M5", "E1M6", "E1M8", "E2M1",
    "E3M5", "E4M1", "E4M4", "deathmatch", "my_way_home", "defend_the_line", "deadly_corridor",
)  # fmt: skip
DEMO_LEVEL = "E1M5"  # bright, of many textures, and wide


def get_config(variant: str = "full") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/record.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()

    # Folder of the recordings, with a subfolder for each split.
    config.out = ""
    # Size of the frames in pixels, even numbers (code: the contractors' recordings are 360x640).
    config.height, config.width = 360, 640
    # Longest episode; it ends before if the player dies or leaves the level.
    config.seconds = 60.0
    # Doom's skill, 1 (easiest) to 5: how many monsters there are and how hard they hit.
    config.skill = 2
    # How often each player plays, relative to the others: "scripted" knows the game, "runner" too but uses fewer keys,
    # and "human" follows recorded human keys and mouse blindly.
    config.players = ConfigDict({"scripted": 0.9, "runner": 0.0, "human": 0.1})

    config.splits = ConfigDict()
    # Of each split: the levels, which take turns; the number of episodes; the seed of the first, counted up from there.
    # Splits share no seeds. Validation and test have levels that training has not (the last ones), but in `:demo`.
    config.splits.train = ConfigDict()
    config.splits.train.levels = LEVELS
    config.splits.train.episodes = 128
    config.splits.train.seed = 0
    config.splits.valid = ConfigDict()
    config.splits.valid.levels = ("MAP01", "E1M5", "MAP14", "E2M7")
    config.splits.valid.episodes = 16
    config.splits.valid.seed = 1_000_000
    config.splits.test = ConfigDict()
    config.splits.test.levels = ("MAP02", "E2M1", "MAP16", "E3M9")
    config.splits.test.episodes = 16
    config.splits.test.seed = 2_000_000

    # Worker processes; 0: one per core that the program may use. The recordings do not depend on it.
    config.workers = 0
    return config if variant == "full" else _small(config, variant)


def _small(config: ConfigDict, variant: str) -> ConfigDict:
    """Frames just large enough for the small policy; what else differs is set here."""
    config.height, config.width = 18, 32
    config.players = ConfigDict({"scripted": 0.0, "runner": 1.0, "human": 0.0})
    config.splits.train.levels = config.splits.valid.levels = config.splits.test.levels = (DEMO_LEVEL,)
    episodes = {"train": 25, "valid": 10, "test": 0} if variant == "demo" else {"train": 8, "valid": 0, "test": 0}
    for split, number in episodes.items():
        config.splits[split].episodes = number
    return config
