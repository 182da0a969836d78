"""Reinforcement learning, whatever the game (paper, section 4.4 and table 6): configs/rl_*.py begin with it.

Values are the paper's where it gives them, marked (paper).
"""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def get_config(workdir: str, game: str, arguments: Mapping[str, Any], rewards: str) -> ConfigDict:
    config = runpy.run_path(str(Path(__file__).with_name("base.py")))["get_config"]("ppg", workdir)

    # `init_from` is the policy that is fine-tuned, and at the other end of the leash.
    # Iterations: a rollout, a wake cycle and sleep cycles (paper: about 4,000).
    config.steps = 4000
    config.log_every = 1
    config.save_every = 10

    # What is played, and what for
    config.game = _game(game, arguments)
    # What is paid for: from REWARDS in vpt_jax/envs/rewards.py.
    config.rewards = rewards
    # Height and width of the frames that the policy sees (paper).
    config.height, config.width = 128, 128
    # Games played side by side, on all machines together (paper: batch 40).
    config.games = 40
    # Steps of all games that make one update (paper), and updates of a wake cycle (paper). A rollout is as long as all
    # of them.
    config.length = 128
    config.fragments = 48

    config.model = _model()
    config.ppg = _ppg()
    config.optimizer = _optimizer()
    return config


def _game(name: str, arguments: Mapping[str, Any]) -> ConfigDict:
    game = ConfigDict()
    # From GAMES in vpt_jax/envs/games.py, with the arguments of its function there.
    game.name = name
    game.arguments = ConfigDict(arguments)
    # The interpreter that has the game's packages; empty: this one.
    game.python = ""
    # Seed of the first episode; the others count up from there.
    game.seed = 10_000_000
    # After so many episodes a game's process is started anew.
    game.episodes_per_process = 100
    # Machines that play, by Ray (`pip install -c constraints.txt -e ".[ray]"`); 0: all games run here. How many
    # processor cores each takes, and the cluster's address ("auto": the one that this machine is part of).
    game.machines = 0
    game.cpus = 1.0
    game.cluster = "auto"
    return game


def _model() -> ConfigDict:
    model = ConfigDict()
    # The policy's own size, temperature and so on, as in configs/foundation.py (paper: the 248M one).
    model.preset = "2x"
    model.temperature = 1.0
    model.dtype = "bfloat16"
    model.remat = True
    # The second value head of PPG (paper).
    model.aux_value = True
    return model


def _ppg() -> ConfigDict:
    ppg = ConfigDict()
    # Discount and decay of the advantage estimates (paper).
    ppg.discount = 0.999
    ppg.gae_decay = 0.95
    # Weight of KL(pretrained, policy), and its factor from iteration to iteration (paper).
    ppg.leash = 0.2
    ppg.leash_decay = 0.9995
    # Sleep cycles of an iteration (paper; 0: plain PPO).
    ppg.sleep_cycles = 2
    # Advantages to mean 0 and variance 1 over a rollout (not mentioned in the paper).
    ppg.normalize_advantages = False
    # PPO's clip, and weights of both values' errors and of the KL to the policy before the sleep (paper).
    ppg.clip = 0.2
    ppg.value = 0.5
    ppg.aux_value = 0.5
    ppg.clone = 1.0
    # Weight of an entropy bonus (paper: 0, and 0.01 from random parameters).
    ppg.entropy = 0.0
    return ppg


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    # From OPTIMIZERS in vpt_jax/training/optimizers.py.
    optimizer.name = "adam"
    # All three are the paper's.
    optimizer.learning_rate = 2e-5
    optimizer.weight_decay = 0.04
    optimizer.clip_norm = 5.0
    return optimizer
