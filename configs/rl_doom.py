"""Fine-tune a cloned policy by reinforcement learning in the embedded game (paper, section 4.4, in small).

    python launch/train.py --config=configs/rl_doom.py --config.init_from=runs/demo/policy-predicted

The policy of `make demo` is trained to explore its level: a reward of 1 for every new place. Takes seven to twelve
minutes on two CPU cores. These settings are for a small policy and a short run; configs/rl_base.py documents the
fields, and has the paper's values.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import rl_base

# With `fresh` engines, a reset would take ten times as long.
LEVEL = {"level": "E1M5", "seconds": 20.0, "height": 18, "width": 32, "skill": 2, "fresh": False}


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/rl_doom.py has no variants: change its fields with --config.FIELD=VALUE")
    config = rl_base.get_config("runs/rl-doom", "doom", LEVEL, "explore")
    config.steps = 40
    config.checkpoint.keep_every_hours = 0.0

    config.model.preset = "tiny"
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.remat = "none"
    config.height, config.width = 16, 16

    config.num_envs = 16
    config.unroll_length = 32
    config.updates_per_rollout = 8
    config.ppg.discount = 0.99  # the next place is a few seconds away
    # The limit of 20 seconds is ours, not the level's, and frames do not show the remaining time: it is a truncation.
    config.ppg.bootstrap_on_truncation = True
    config.optimizer.learning_rate = 3e-4
    return config
