"""Reinforcement learning, whatever the game (paper, section 4.4 and table 6): configs/rl_*.py begin with it.

Values are the paper's where it gives them, marked (paper): table 6 and appendix G, as a research note restates them.
Where it only says that the algorithm is PPG, the default is that of PPG's own code (PPG's code:
github.com/openai/phasic-policy-gradient, read), which VPT's need not have been: nothing of VPT's reinforcement learning
was released.
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
    # Cut the first episode of each game to a share of its time, from 1/games to the whole, so that games are spread
    # over the episode from then on. Otherwise games whose episodes are equally long stay at the same step for ever (our
    # choice; the paper's games ran asynchronously).
    game.stagger = True
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
    # Weight of KL(pretrained, policy), and its factor from iteration to iteration (paper). With weight 0 the KL is
    # still logged; without `init_from` there is no pretrained policy, and none is computed.
    ppg.leash = 0.2
    ppg.leash_decay = 0.9995
    # How often the wake uses every sample (paper: at most once, by a secondary source; PPG's code: n_epoch_pi=1).
    ppg.wake_cycles = 1
    # How often the sleep does: its cycles (paper: 2 an iteration, and no sample more than 6 times; PPG's code:
    # n_aux_epochs=6, after every 32nd iteration; 0: plain PPO).
    ppg.sleep_cycles = 2
    # Draw minibatches at random: of every game a segment, each at another time (PPG's code: make_minibatches, which
    # draws games as well). False: segments in the order of time, all games at once.
    ppg.shuffle_segments = True
    # Whether the sleep has an optimizer state of its own (PPG's code: aux_state; the paper does not say). It takes the
    # memory of twice the parameters. False: one state for both, whose moments go on from one to the other.
    ppg.sleep_optimizer = True
    # Advantages to mean 0 and variance 1 over a rollout (PPG's code: compute_advantage; MineStudio as well; not
    # mentioned in the paper). It decides how the rewards weigh against the leash.
    ppg.normalize_advantages = True
    # Where the game's time limit cuts an episode: the value of the last picture stands for the rest (True), or it is an
    # end as any other (False; PPG's code: notlast = 1 - first).
    ppg.bootstrap_on_truncation = False
    # PPO's clip (paper).
    ppg.clip = 0.2
    # Weight of the value's error in the wake (PPG's code: vfcoef=0.5; the paper's 0.5 is named for the sleep).
    ppg.wake_value = 0.5
    # Weights in the sleep of both values' errors and of the KL to the policy before it (paper, by a secondary source;
    # PPG's code has the same).
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
