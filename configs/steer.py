"""Effect of text on play, as in the paper's appendix I: counts in episodes of the same seeds for every caption.

    python launch/steer.py --config.policy=runs/text --config.out=runs/steer

The policy was trained with model.text_features and data.text_embedder (docs/text.md). OUT/steer.json has the difference
for every caption, asked for it minus asked for the others, with intervals, a permutation test and a verdict;
OUT/recordings has every episode. After a stop or kill, run the same command again to play the remaining captions.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import evaluate


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/steer.py has no variants: change its fields with --config.FIELD=VALUE")
    evaluation = evaluate.get_config("doom")
    config = ConfigDict()

    # Work directory of the policy, and folder of the results.
    config.policy = ""
    config.out = ""
    # Captions, each with what it should raise, as CAPTION=COUNT; the counts are those of `rewards`. The paper's were
    # explore, house, dig, seed, water and wood, as recalled.
    config.captions = (
        "explore=places",
        "fight=hits",
        "open the door=doors",
        "collect ammo=pickups.ammo",
        "collect health=pickups.health",
        "rest=still",
    )
    # Weight of classifier-free guidance; 1: the policy itself, as in the paper, as far as recalled.
    config.guidance = 2.0
    # Folder of the text embedder; empty: where it was in training.
    config.text_embedder = ""

    # The game, as in configs/rl_base.py; episodes of a minute.
    config.game = evaluation.game
    config.game.arguments.seconds = 60.0
    # Table of what is counted (vpt_jax/envs/rewards.py).
    config.rewards = "steering"
    # Episodes of every caption, the seed of the first, and parallel environments, as in configs/evaluate.py.
    config.episodes = 100
    config.seed = 6_000_000
    config.num_envs = 10
    # Episodes of every caption, counted from its first, that are recorded; 0: all.
    config.recorded_episodes = evaluation.recorded_episodes
    # Folder of the compilation cache, as in configs/evaluate.py.
    config.compilation_cache = "auto"
    return config
