"""Reinforcement learning with PPG in any game (paper, section 4.4 and table 6): base of configs/rl_*.py.

Values are the paper's where it states them, marked (paper): table 6 and appendix G, as restated in a research note.
Where it only states that the algorithm is PPG, the default is that of PPG's own code (PPG's code:
github.com/openai/phasic-policy-gradient, read), from which VPT may have differed: no code of VPT's reinforcement
learning was released.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.configs import base


def get_config(workdir: str, game: str, arguments: Mapping[str, Any], rewards: str) -> ConfigDict:
    """The config of PPG in a game: its name and arguments (`GAMES`), and the name of its rewards (`REWARDS`)."""
    config = base.get_config("ppg", workdir)

    # `init_from` is the pretrained policy that is fine-tuned, and the reference of the KL penalty.
    # Iterations: a rollout, a wake cycle and sleep cycles (paper: about 4,000).
    config.steps = 4000
    config.log_every = 1
    config.save_every = 10

    # The game.
    config.game = _game(game, arguments)
    # The reward function: from REWARDS in vpt_jax/envs/rewards.py.
    config.rewards = rewards
    # Height and width of the policy's input frames (paper).
    config.height, config.width = 128, 128
    # Number of parallel environments, on all machines together (paper: batch 40).
    config.num_envs = 40
    # Unroll length: steps of every environment per update (paper), and number of updates of a wake cycle (paper). A
    # rollout has unroll_length * updates_per_rollout steps.
    config.unroll_length = 128
    config.updates_per_rollout = 48

    config.model = _model()
    config.ppg = _ppg()
    config.optimizer = _optimizer()
    return config


def _game(name: str, arguments: Mapping[str, Any]) -> ConfigDict:
    game = ConfigDict()
    # From GAMES in vpt_jax/envs/games.py, with the arguments of its function there.
    game.name = name
    game.arguments = ConfigDict(arguments)
    # The Python interpreter with the game's packages; empty: this one.
    game.python = ""
    # Seed of the first episode; later episodes increment it.
    game.seed = 10_000_000
    # Truncate the first episode of each environment to a fraction of its time, from 1/num_envs to 1, so that
    # environments are spread over the episode from then on. Otherwise environments with episodes of equal length stay
    # synchronous (our choice; the paper's games ran asynchronously).
    game.stagger = True
    # Number of episodes after which a game is made anew: by another process, if no other game shares its own.
    game.episodes_per_process = 100
    # Largest number of games that share a process; 0: the usual one of the game (GAMES in vpt_jax/envs/games.py). A
    # process that is lost costs the episodes of all its games.
    game.games_per_process = 0
    # 2: one half of the games plays while the policy acts in the other half; 1: all together; 0: two halves where the
    # policy runs on an accelerator. Two need an even number of games on every device (and of machines), else there is
    # one. Actions and episodes do not depend on it.
    game.parts = 0
    # Action space of new parameters, one that the game takes: a name of vpt_jax/actions/spaces.py, or a JSON file. A
    # policy in config.init_from keeps its own.
    game.space = "minerl"
    # Number of machines that run games, by Ray (`pip install -c constraints.txt -e ".[ray]"`); 0: all games run here.
    # The processor cores per game, and the cluster's address ("auto": the cluster of this machine).
    game.num_machines = 0
    game.cpus = 1.0
    game.cluster = "auto"
    return game


def _model() -> ConfigDict:
    model = ConfigDict()
    # Size, temperature etc. of the policy, as in configs/foundation.py (paper: the 248M one).
    model.preset = "2x"
    model.temperature = 1.0
    model.head = "joint"
    model.dtype = "bfloat16"
    model.remat = "auto"
    # The second value head of PPG (paper).
    model.aux_value = True
    return model


def _ppg() -> ConfigDict:
    ppg = ConfigDict()
    # Discount (gamma) and lambda of the generalized advantage estimates, GAE (paper).
    ppg.discount = 0.999
    ppg.gae_lambda = 0.95
    # Coefficient of the KL penalty KL(pretrained, policy), and its decay factor per iteration (paper). With
    # coefficient 0 the KL is still logged; without `init_from` there is no pretrained policy, and no KL is computed.
    ppg.kl_pretrained_coef = 0.2
    ppg.kl_pretrained_decay = 0.9995
    # Wake phase: number of passes over the rollout (paper: at most one, by a secondary source; PPG's code:
    # n_epoch_pi=1).
    ppg.wake_cycles = 1
    # Sleep (auxiliary) phase: number of passes (paper: 2 per iteration, and no sample more than 6 times; PPG's code:
    # n_aux_epochs=6, after every 32nd iteration; 0: plain PPO).
    ppg.sleep_cycles = 2
    # Random minibatches: one segment of every environment, each from another time (PPG's code: make_minibatches, which
    # also samples environments). False: segments in temporal order, of all environments together.
    ppg.shuffle_segments = True
    # A separate optimizer state for the sleep phase (PPG's code: aux_state; not stated in the paper). It needs memory
    # of twice the parameters. False: one state for both phases, whose moments are carried from one to the other.
    ppg.sleep_optimizer = True
    # Normalize advantages to mean 0 and variance 1 over a rollout (PPG's code: compute_advantage; MineStudio as well;
    # not mentioned in the paper). It determines the weight of the rewards relative to the KL penalty.
    ppg.normalize_advantages = True
    # Episodes truncated by the game's time limit: bootstrap with the value of the last frame (True), or treat the end
    # as terminal (False; PPG's code: notlast = 1 - first).
    ppg.bootstrap_on_truncation = False
    # PPO's clipping range of the probability ratio (paper).
    ppg.clip_range = 0.2
    # Coefficient of the value loss in the wake phase (PPG's code: vfcoef=0.5; the paper states its 0.5 for the sleep
    # phase).
    ppg.wake_value_coef = 0.5
    # Coefficients in the sleep phase of both value losses and of the KL to the policy before the phase (paper, by a
    # secondary source; PPG's code has the same).
    ppg.sleep_value_coef = 0.5
    ppg.aux_value_coef = 0.5
    ppg.kl_old_policy_coef = 1.0
    # Coefficient of an entropy bonus (paper: 0, and 0.01 from random parameters).
    ppg.entropy_coef = 0.0
    return ppg


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    # From OPTIMIZERS in vpt_jax/training/optimizers.py.
    optimizer.name = "adam"
    # The following three values are the paper's.
    optimizer.learning_rate = 2e-5
    optimizer.weight_decay = 0.04
    optimizer.clip_norm = 5.0
    return optimizer
