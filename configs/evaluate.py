"""Evaluation of policies in a game: many episodes of fixed seeds, compared with a random agent and a scripted player.

    python launch/evaluate.py --config.policies="('runs/demo/policy-predicted', 'runs/rl-doom')" --config.out=runs/play

The result is OUT/report.html with films of the best, the median and the worst episode of each, OUT/figures.json,
and a recording of every episode in OUT/recordings. After a stop or kill, run the same command again to evaluate the
remaining agents.

Variants: `:doom` (default), exploration of a level of the embedded game; `:minerl` and `:luanti`, the item sequence to
a diamond pickaxe. Each uses the game and the rewards of its configs/rl_*.py. `:paper`, the paper's evaluation of cloned
policies: 2,500 episodes of 60 minutes of standard survival in MineRL, and the items that it counts.

With `--config.policies="('runs/foundation@all',)"`, all checkpoints that a run has kept are evaluated, and the report
has charts of return and items per episode, with standard errors, over the epochs of training (paper, figures of section
4). `config.checkpoint.keep_every_hours` of the run decides which are kept.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import rl_diamond, rl_doom, rl_luanti

VARIANTS = {"doom": rl_doom, "minerl": rl_diamond, "luanti": rl_luanti, "paper": rl_diamond}


def get_config(variant: str = "doom") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/evaluate.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    tuning = VARIANTS[variant].get_config()
    config = ConfigDict()

    # Work directories of policies, cloned or fine-tuned; "NAME=FOLDER" sets the name in the table. The newest
    # checkpoint is evaluated; "FOLDER@STEP" is another one, and "FOLDER@all" are all that the run has kept.
    config.policies = ()
    # Name of the reference policy, from which the drift (KL divergence) of the others is measured; empty: the first.
    config.reference = ""
    # Folder of the results.
    config.out = ""

    # The game and the rewards, as in configs/rl_base.py.
    config.game = ConfigDict({name: tuning.game[name] for name in ("name", "arguments", "python")})
    config.game.episodes_per_process = tuning.game.episodes_per_process
    config.game.games_per_process = tuning.game.games_per_process
    if variant == "doom":
        config.game.arguments.fresh = True  # equal seeds, equal episodes
    config.rewards = tuning.rewards

    # Episodes of each agent, and the seed of the first; later episodes increment it. Training uses other seeds. The
    # small number is our choice: the paper played more than 2,500 episodes of 60 minutes of each cloned policy (notes
    # that quote it), and episodes of ten minutes of fine-tuned ones, as the games here do.
    config.episodes = 100
    config.seed = 5_000_000
    # Episodes of each agent that are recorded, from the first on, and may be in the films; 0: all.
    config.recorded_episodes = 0
    # Number of parallel environments.
    config.num_envs = 10
    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else ~/.cache/vpt_jax/compiled; empty: none (configs/base.py says more).
    config.compilation_cache = "auto"
    if variant == "paper":
        config.game.arguments.seconds = 3600.0
        config.rewards = "items"
        config.episodes = 2500  # paper: "more than"
        config.recorded_episodes = 10
    return config
