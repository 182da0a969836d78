"""Steering by text: a policy trained on captioned play, asked for each caption (paper, appendix I, as recalled).

Variants: configs/sweeps/base.py. The data of `:full` have captions (docs/text.md).

    python launch/sweep.py --config=configs/sweeps/steering.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

_PLAY = {
    "demo": ("game.arguments.seconds=30.0",),  # six times a hundred episodes: in half the time of the default
    "full": ("game.arguments.height=360", "game.arguments.width=640"),
    "small": ("episodes=2", "num_envs=2", "game.arguments.seconds=3.0"),
}


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("steering", variant)
    config.seeds = (0,)
    base.add_play(config, variant)
    policy = base.training_stage("policy", variant, "steps=800", "evaluate_every=200")
    text = "data.text_embedder=hashed", "model.text_features=256"
    config.stages.policy = base.stage("train", policy.config, *policy.settings, *text)
    config.stages.steer = base.stage("steer", "steer", "policy={policy}", *_PLAY[variant])
    config.report.stage, config.report.file = "steer", "steer.json"
    return config
