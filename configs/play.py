"""Play a game with a policy, and record films with its keys, its mouse and its value estimate.

    python launch/play.py --config.policy=runs/mine --config.out=runs/films

Variants: `:doom` (default), a level of the embedded game with frames of 360x640; `:demo`, the same with the frame size
of the policies of `make demo`; `:showcase`, 20 seconds of the same level by the policy that is in the repository, with
frames of 180x320, as it was trained on; `:minerl`; `:luanti`; and `:video`, where the game is a video
(--config.game.arguments.path=FILE), and the film shows the actions that the policy would take in it.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import evaluate

GAMES = ("doom", "demo", "showcase", "minerl", "luanti")


def get_config(variant: str = "doom") -> ConfigDict:
    if variant not in (*GAMES, "video"):
        raise ValueError(f"configs/play.py has no variant {variant!r}; choose one of {', '.join(GAMES)}, video")
    config = ConfigDict()

    # Work directory of the policy, and folder of the films: OUT/GAME-SEED.mp4.
    config.policy = "weights/showcase-policy" if variant == "showcase" else ""
    config.out = "runs/showcase-films" if variant == "showcase" else ""
    # Episodes, and the seed of the first and of its actions; later episodes increment it.
    config.episodes = 1
    config.seed = 0
    # Sampling temperature. 1: actions are sampled from the policy; 0: always the most probable action.
    config.temperature = 1.0
    # What the policy is asked to do, such as "open the door", if it was trained on text (docs/text.md); empty: nothing.
    # Guidance: 1: the policy itself; more: its logits move further from those without the text.
    config.text = ""
    config.guidance = 1.0
    # Folder of the text embedder; empty: where it was in training.
    config.text_embedder = ""
    # Also display it in a window, at the game's own speed. Closing the window ends the program.
    config.window = False
    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else ~/.cache/vpt_jax/compiled; empty: none (configs/base.py says more).
    config.compilation_cache = "auto"

    # The game and the rewards, as in configs/rl_base.py.
    if variant == "video":
        arguments, config.rewards = {"path": "", "aspect": (16, 9)}, "nothing"
        config.game = ConfigDict({"name": "video", "arguments": arguments, "python": ""})
        return config
    evaluation = evaluate.get_config("doom" if variant in ("demo", "showcase") else variant)
    config.game, config.rewards = evaluation.game, evaluation.rewards
    if variant == "doom":
        config.game.arguments.height, config.game.arguments.width = 360, 640
    elif variant == "showcase":
        config.game.arguments.height, config.game.arguments.width = 180, 320
    return config
