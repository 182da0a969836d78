"""Fine-tune a policy in Luanti, a free voxel game with trees, tools, a furnace and a diamond pickaxe.

    apt-get install minetest xvfb && pip install -c constraints.txt -e ".[luanti]"
    python launch/train.py --config=configs/rl_luanti.py --config.init_from=runs/early-game

It runs in real time, 20 steps per second, with two processor cores for each game: more machines
(`--config.game.num_machines`) allow more games. The rewards are the paper's for the items up to a diamond pickaxe;
Luanti has no crafting table. The other values are those of configs/rl_base.py, the paper's, with fewer environments and
shorter rollouts.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import rl_base


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/rl_luanti.py has no variants: change its fields with --config.FIELD=VALUE")
    config = rl_base.get_config("runs/rl-luanti", "luanti", {"seconds": 600.0}, "diamond")
    config.init_from = "runs/early-game"
    config.num_envs = 8
    config.updates_per_rollout = 8
    return config
