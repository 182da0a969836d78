"""A policy plays, and is filmed, with its keys, its mouse and the value that it sees.

    python launch/play.py --config.policy=runs/mine --config.out=runs/films

Variants: `:doom` (default), a level of the embedded game, in pictures of 360x640; `:demo`, the same in those of the
policies of `make demo`; `:minerl`; `:luanti`; and `:video`, where the game is a video
(--config.game.arguments.path=FILE), and the film shows what the policy would do in it.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

GAMES = ("doom", "demo", "minerl", "luanti")


def get_config(variant: str = "doom") -> ConfigDict:
    if variant not in (*GAMES, "video"):
        raise ValueError(f"configs/play.py has no variant {variant!r}; choose one of {', '.join(GAMES)}, video")
    config = ConfigDict()

    # Work directory of the policy, and folder of the films: OUT/GAME-SEED.mp4.
    config.policy = ""
    config.out = ""
    # Episodes, and the seed of the first and of the actions in it; the others' count up from there.
    config.episodes = 1
    config.seed = 0
    # 1: actions are drawn as probable as the policy says; 0: always the likeliest.
    config.temperature = 1.0
    # Show it in a window as well, at the game's own pace. Closing the window ends the program.
    config.window = False

    # The game, and what is paid for: as in configs/rl_base.py.
    if variant == "video":
        arguments, config.rewards = {"path": "", "aspect": (16, 9)}, "nothing"
        config.game = ConfigDict({"name": "video", "arguments": arguments, "python": ""})
        return config
    evaluation = runpy.run_path(str(Path(__file__).with_name("evaluate.py")))["get_config"](
        variant.replace("demo", "doom")
    )
    config.game, config.rewards = evaluation.game, evaluation.rewards
    if variant == "doom":
        config.game.arguments.height, config.game.arguments.width = 360, 640
    return config
