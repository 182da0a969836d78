"""Fine-tune the 248M policy to make a diamond pickaxe in Minecraft (paper, section 4.4, table 6 and appendix G).

    xvfb-run -a python launch/train.py --config=configs/rl_diamond.py --config.init_from=runs/early-game \
        --config.game.python=MINERL/bin/python --config.mesh.fsdp=8

MINERL is a virtual environment with MineRL v1 (vpt_jax/envs/minerl.py describes its installation, and what is
untested). The paper used 80 GPUs, 56,719 CPUs and six days for some 1.4 million episodes of ten minutes; it does not
state the number of parallel environments. With 40, the rows of its batch, 4,000 iterations are 82,000 episodes.

Variants: `:main` (default), from the policy fine-tuned to the early game; and the paper's comparisons: `:scratch`, from
random parameters; `:no_kl_penalty`, without the KL penalty to the pretrained policy, so that skills may be forgotten;
`:house`, from the policy fine-tuned to building houses, with the same reward for every kind of item (with
`--config.init_from=runs/early-game`, the run that the paper compares it with).
"""

from ml_collections import ConfigDict

from vpt_jax.configs import rl_base

VARIANTS = {
    "main": {},
    "scratch": {"init_from": "", "ppg.kl_pretrained_coef": 0.0, "ppg.entropy_coef": 0.01},
    "no_kl_penalty": {"ppg.kl_pretrained_coef": 0.0, "optimizer.learning_rate": 3e-6},
    "house": {
        "init_from": "runs/house", "ppg.kl_pretrained_coef": 0.4, "optimizer.learning_rate": 6e-5,
        "rewards": "diamond_even",
    },
}  # fmt: skip


def get_config(variant: str = "main") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/rl_diamond.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = rl_base.get_config(f"runs/rl-diamond-{variant}", "minerl", {"seconds": 600.0}, "diamond")
    config.init_from = "runs/early-game"
    config.game.episodes_per_process = 10  # memory leaks are known to MineRL's authors
    config.update_from_flattened_dict(VARIANTS[variant])
    return config
