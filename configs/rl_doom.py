"""Fine-tune a cloned policy by reinforcement learning in the embedded game (paper, section 4.4, in small).

    python launch/train.py --config=configs/rl_doom.py --config.init_from=runs/demo/policy-predicted

The policy of `make demo` learns to see more of its level: a point for every new place. Takes about ten minutes on two
CPU cores. Numbers marked (paper) are the paper's; the others suit a small policy and a short run.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/rl_doom.py has no variants: change its fields with --config.FIELD=VALUE")
    base = runpy.run_path(str(Path(__file__).with_name("base.py")))
    config = base["get_config"]("ppg", "runs/rl-doom")

    # Work directory of the run whose policy is fine-tuned, and at the other end of the leash. Empty: a random one.
    config.init_from = ""
    # Iterations: a rollout, a wake cycle and sleep cycles.
    config.steps = 60
    config.log_every = 1
    config.save_every = 10

    config.model = ConfigDict()
    # The policy's own size, temperature and so on, as in configs/foundation.py.
    config.model.preset = "tiny"
    config.model.temperature = 1.0
    config.model.dtype = "float32"
    config.model.remat = False
    # The second value head of PPG (paper).
    config.model.aux_value = True

    config.game = ConfigDict()
    # From GAMES in vpt_jax/envs/games.py, with the arguments of its function there.
    config.game.name = "doom"
    config.game.arguments = ConfigDict({"level": "E1M5", "seconds": 20.0, "height": 18, "width": 32, "skill": 2})
    config.game.arguments.fresh = False  # ten times faster from one episode to the next
    # The interpreter that has the game's packages; empty: this one.
    config.game.python = ""
    # Seed of the first episode; the others count up from there.
    config.game.seed = 10_000_000
    # After so many episodes a game's process is started anew.
    config.game.episodes_per_process = 100
    # What is paid for: from REWARDS in vpt_jax/envs/rewards.py.
    config.rewards = "explore"
    # Height and width of the frames that the policy sees.
    config.height, config.width = 16, 16

    # Games played side by side, over all hosts (paper: batch 40).
    config.games = 16
    # Steps of all games that make one update (paper: 128), and updates of a wake cycle (paper: 48). A rollout is as
    # long as all of them.
    config.length = 32
    config.fragments = 8

    config.ppg = ConfigDict()
    # Discount (paper: 0.999; here a place is a few seconds away) and decay of the advantage estimates (paper).
    config.ppg.discount = 0.99
    config.ppg.gae_decay = 0.95
    # Weight of KL(pretrained, policy), and its factor from iteration to iteration (paper).
    config.ppg.leash = 0.2
    config.ppg.leash_decay = 0.9995
    # Sleep cycles of an iteration (paper: 2; 0: plain PPO).
    config.ppg.sleep_cycles = 2
    # Advantages to mean 0 and variance 1 over a rollout (not mentioned in the paper).
    config.ppg.normalize_advantages = True
    # PPO's clip, and weights of both values' errors and of the KL to the policy before the sleep (paper).
    config.ppg.clip = 0.2
    config.ppg.value = 0.5
    config.ppg.aux_value = 0.5
    config.ppg.clone = 1.0
    # Weight of an entropy bonus (paper: 0, and 0.01 from random parameters).
    config.ppg.entropy = 0.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    # Paper: 2e-5, weight decay 0.04, clip norm 5.
    config.optimizer.learning_rate = 3e-4
    config.optimizer.weight_decay = 0.04
    config.optimizer.clip_norm = 5.0

    config.checkpoint.keep_every_hours = 0.0
    return config
