"""Inverse dynamics models of explored play against one of scripted play, on the embedded game (paper, section 4.1).

    python launch/explored.py

BCO (Torabi et al. 2018) trains its inverse dynamics model on play of the policy itself: of a random agent at first;
then that model labels videos of demonstrations, a policy is cloned from these labels, and the next model is trained on
this policy's play, in rounds. VPT records people instead; here the scripted player stands for them. The models are
trained on the same minutes of each play, by the same steps, and tested on held-out play of the scripted player.

Takes about half an hour on two CPU cores. After a stop or kill, run the
same command again to resume; finished stages are skipped. The result is WORKDIR/report.html, with its figures as
files explored_loss.json, explored_keys.json and explored_mouse.json.

Variants: `:demo` (default), and `:small`, which tries the program out in minutes: its figures mean nothing.
"""

from ml_collections import ConfigDict

from vpt_jax.configs.record import DEMO_LEVEL

VARIANTS = ("demo", "small")


def get_config(variant: str = "demo") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/explored.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()

    # Folder of all stages; a run in an existing folder resumes.
    config.workdir = "runs/explored"
    # Folder of the result files, for a page of several experiments; empty: WORKDIR/results.
    config.result_files = ""
    # Height and width of the frames. The game draws this size for every player, so that the plays differ in their
    # actions alone.
    config.size = 16
    # Stages that run in parallel, on one processor core each.
    config.max_parallel = 2
    # Level of the game, for all players.
    config.level = DEMO_LEVEL
    # Maximum length of an episode in seconds; it ends earlier if the player dies or leaves the level.
    config.seconds = 30.0
    # Each seed is a repetition of everything, with other episodes, but the same held-out ones.
    config.seeds = (0, 1)
    # Rounds of BCO after the one of random play: policies, and models that are trained on their play.
    config.rounds = 2
    # Episodes of each player: enough for the largest number of minutes below, although some end early.
    config.episodes = 30
    # Held-out episodes of the scripted player; they select nothing.
    config.held_out = 16

    # Minutes of play that the inverse dynamics models are trained on, and their steps. In each round, the model of the
    # most minutes labels the demonstrations: the videos of the scripted player's episodes.
    config.idm = ConfigDict({"minutes": (4.0, 12.0), "steps": (100, 250)})
    # Steps of each policy.
    config.policy_steps = 250

    # Further settings of the stages' configs, each "FIELD=VALUE".
    config.record = ()
    config.train_idm = ()
    config.label = ()
    config.train_policy = ()
    config.evaluate = ()
    config.score = ()
    if variant == "small":
        _small(config)
    return config


def _small(config: ConfigDict) -> None:
    config.workdir = "runs/explored-small"
    config.seconds = 4.0
    config.seeds = (0,)
    config.rounds, config.episodes, config.held_out = 1, 4, 2
    config.idm = ConfigDict({"minutes": (0.1,), "steps": (3,)})
    config.policy_steps = 3
    small = ("model.preset=nano", "optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=4", "evaluate_every=3")
    config.train_idm = config.train_policy = small
    config.label = ("windows_per_span=3", "batch=2", "num_films=0")
    config.score = ("draws=20",)
