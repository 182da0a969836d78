"""Record Doom on the free Freedoom levels, played by a script with access to the game state and by human actions.

    python launch/record.py --config.out=runs/recordings

Two hours and a half of play at 640x360, in 10 to 20 minutes on two cores. After a stop or kill, run the same command
again to record the remaining episodes.

Variant `:demo`, for configs/demo.py: small frames of one level with much texture, on which a small inverse dynamics
model learns the camera and player movement within minutes, and a policy the routes of the player.

Variant `:bench`, for launch/bench.py: a few minutes of the same.

    python launch/record.py --player=demos --config.out=runs/human

records what people played instead: the demos in Freedoom, or Doom demo files of your own (`demos`). dsda-doom draws
them (apt-get install dsda-doom). Of the other fields, `height`, `width` and `workers` hold.
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "demo", "bench")
# Levels with a large area reachable from the start; the last four are short ViZDoom scenarios.
LEVELS = (
    "MAP01", "MAP02", "MAP03", "MAP04", "MAP08", "MAP13", "E1M1", "E1M2", "E1M4", "E1M5", "E1M6", "E1M8", "E2M1",
    "E3M5", "E4M1", "E4M4", "deathmatch", "my_way_home", "defend_the_line", "deadly_corridor",
)  # fmt: skip
DEMO_LEVEL = "E1M5"  # bright, of many textures, and wide
# Seeds of other play of `:demo`, for the demos and experiments: unlabelled; held out to choose a checkpoint; and held
# out for all reported figures, none of which are among the seeds on which the settings of the demo were tuned.
UNLABELLED_SEED, CHOOSING_SEED, HELD_OUT_SEED = 500_000, 3_500_000, 3_000_000


def get_config(variant: str = "full") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/record.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()

    # Folder of the recordings, with a subfolder for each split.
    config.out = ""
    # Size of the frames in pixels, even numbers (code: the contractors' recordings are 360x640).
    config.height, config.width = 360, 640
    # Maximum length of an episode in seconds; it ends earlier if the player dies or leaves the level.
    config.seconds = 60.0
    # Doom's skill, 1 (easiest) to 5: how many monsters there are and how hard they hit.
    config.skill = 2
    # Relative frequency of each player: "scripted" uses the game state, "runner" as well but with fewer keys, and
    # "human" replays recorded human keys and mouse regardless of the game, "random" takes a new random action in every
    # step.
    config.players = ConfigDict({"scripted": 0.9, "runner": 0.0, "human": 0.1, "random": 0.0})

    # Write what a scripted player is doing ("explore", "collect armor", "open the door", "press the switch", "fight",
    # "rest") as the text of every frame, for policies that are conditioned on text.
    config.captions = False

    config.splits = ConfigDict()
    # Of each split: the levels, used in turn; the number of episodes; the seed of the first, which later ones
    # increment. Splits share no seeds. Validation and test have levels that training does not have (the last ones),
    # except in `:demo`.
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

    config.demos = _demos()

    # Worker processes; 0: one per core that the program may use. The recordings do not depend on it.
    config.workers = 0
    return config if variant == "full" else _small(config, variant)


def _demos() -> ConfigDict:
    """Human games with --player=demos, in the format of Doom 1.9."""
    demos = ConfigDict()
    # Demo files (.lmp), and WAD files with lumps DEMO1, DEMO2, ...; none: those of Freedoom, in the package vizdoom.
    # dsda-doom is not confined: give files that you trust.
    demos.files = ()
    # WAD file of the game (IWAD) that these were played on. A WAD file that is a game needs none.
    demos.game = ""
    # WAD files that were loaded on top of the game for the .lmp files.
    demos.additions = ()
    # Name of the person who plays in `files`, by which splits hold people out; empty: each file is another person. In
    # games of several players the player's number is appended.
    demos.person = ""
    return demos


def _small(config: ConfigDict, variant: str) -> ConfigDict:
    """Settings of the small variants: frames just large enough for the small policy."""
    config.height, config.width = 18, 32
    config.players = ConfigDict({"scripted": 0.0, "runner": 1.0, "human": 0.0, "random": 0.0})
    config.splits.train.levels = config.splits.valid.levels = config.splits.test.levels = (DEMO_LEVEL,)
    episodes = {"train": 25, "valid": 10, "test": 0} if variant == "demo" else {"train": 8, "valid": 0, "test": 0}
    for split, number in episodes.items():
        config.splits[split].episodes = number
    return config
