"""Play of a training run's checkpoints: loss against play, and the checkpoint that plays best (paper, section 4.2).

    python launch/follow.py --config.workdir=runs/mine

Every checkpoint that is kept plays episodes of fixed seeds, once. WORKDIR/play.jsonl has a line for each, and for a
random agent and the scripted player; WORKDIR/play.html the curves; WORKDIR/best_by_play is the work directory of the
best. After a stop or kill, the same command resumes. Training runs start this program themselves if config.play.game is
set (configs/base.py).

Variants: those of configs/evaluate.py, with its games and rewards: `:doom` (default), `:minerl`, `:luanti`, `:paper`.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import evaluate


def get_config(variant: str = "doom") -> ConfigDict:
    if variant not in evaluate.VARIANTS:
        raise ValueError(f"configs/follow.py has no variant {variant!r}; choose one of {', '.join(evaluate.VARIANTS)}")
    evaluation = evaluate.get_config(variant)
    config = ConfigDict()

    # Work directory of the training run.
    config.workdir = ""
    # Episodes by which the best checkpoint is chosen, and the seed of the first; later episodes increment it. The
    # paper states no numbers for single checkpoints; those here are ours.
    config.choosing = ConfigDict({"episodes": 20, "seed": 7_000_000})
    # Episodes that are reported, of other seeds: they select nothing. configs/evaluate.py has further ones.
    config.reported = ConfigDict({"episodes": 20, "seed": 7_500_000})
    # Number of parallel environments.
    config.num_envs = 10
    # Wait for further checkpoints until standard input has the line "finished"; its end stops the program.
    # launch/train.py sets it. False: end when all checkpoints have played.
    config.wait = False
    # Folder of the compilation cache, as in configs/evaluate.py.
    config.compilation_cache = "auto"

    # The game and the rewards, as in configs/rl_base.py.
    config.game, config.rewards = evaluation.game, evaluation.rewards
    return config
