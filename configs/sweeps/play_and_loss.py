"""Play against held-out loss, over the checkpoints of a policy that overfits few minutes (paper, section 4.2).

Variants: configs/sweeps/base.py.

    python launch/sweep.py --config=configs/sweeps/play_and_loss.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

# Little data and many steps, so that the loss can rise again; every checkpoint is evaluated, kept, and plays.
_DEMO = ("steps=600", "evaluate_every=100", "save_every=100", "checkpoint.keep_last=6", "data.minutes=5.0")
_PLAY = {
    "demo": ("choosing.episodes=10",),  # only the verdict on the best by play depends on these
    "full": (),
    "small": (
        "num_envs=2", "choosing.episodes=2", "reported.episodes=2", "game.arguments.seconds=3.0",
    ),
}  # fmt: skip


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("play_and_loss", variant)
    config.seeds = (0,)
    base.add_play(config, variant)
    policy = base.training_stage("policy", variant, *_DEMO)
    more = ("save_every=2",) if variant == "small" else ()
    game = "minerl" if variant == "full" else "doom"
    play = (f"play.game={game}", *((f"play.settings={_PLAY[variant]}",) if _PLAY[variant] else ()))
    config.stages.policy = base.stage("train", policy.config, *policy.settings, *more, *play)
    config.report.file = "play_and_loss.json"
    return config
