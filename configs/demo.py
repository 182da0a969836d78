"""The whole VPT pipeline at small scale, on the embedded game (paper, section 3; the curves of its figure 3).

    python launch/pipeline.py

Play is recorded with its actions, and two to three times as much play of which only the video is used. An inverse
dynamics model is trained on the first set and labels the second; one policy is cloned from these labels, one from the
true labels and one from the first set alone. Takes 25 to 47 minutes on two CPU cores. After a stop or kill, run the
same command again to resume; finished stages are skipped. The result is WORKDIR/report.html.

Variant `:showcase`, larger models on frames of 64x64: one IDM, and one policy on its labels, of three hours of play by
the scripted players and by human keys at 320x180, in the game's own action space. The policy then plays against the
scripted player. Its models are of about one million parameters, for two CPU cores; `:showcase,gpu` has five million,
for one GPU, and `:showcase,tiny` tries all of it out in minutes: its figures mean nothing.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "showcase", "showcase,gpu", "showcase,tiny")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/demo.py has no variant {variant!r}; choose one of {', '.join(VARIANTS[1:])}")
    config = ConfigDict()

    # Folder of all stages; a run in an existing folder resumes.
    config.workdir = "runs/demo"
    # Height and width of the models' input frames.
    config.size = 16
    # Action space of the models, as in configs/prepare.py: "minerl" (the paper's) or "doom" (the game's own).
    config.space = "minerl"
    # Stages that run in parallel; training uses one processor core each. Use 1 with an accelerator, which only one
    # program can use at a time.
    config.max_parallel = 2
    # Episodes of up to a minute: labelled, and unlabelled (its true labels are kept to compare with).
    config.labelled, config.unlabelled = 68, 170
    # Numbers of held-out episodes: `choosing` selects a policy's best step, and no figure of it is reported; `held_out`
    # selects nothing, and all reported figures are measured on it.
    config.choosing, config.held_out = 4, 12

    # Minutes of labelled play that the inverse dynamics models are trained on, and their steps. The last model labels;
    # its minutes are also the small set that a policy is trained on.
    config.idm = ConfigDict({"minutes": (3.0, 8.0, 20.0, 55.0), "steps": (100, 180, 300, 1500)})
    # Minutes of play with true labels that further policies are trained on, for the same curve, and their steps; the
    # last number of steps is that of the three compared policies.
    config.policy = ConfigDict({"minutes": (5.0, 15.0), "steps": (100, 250, 1000)})

    # Also train the inverse dynamics models on people's games, the demos in Freedoom (38 minutes, a quarter of every
    # batch). Needs dsda-doom (docs/guides/recordings.md).
    config.human_demos = False
    # Also train policies on the true labels and on the small labelled set, and report how they compare. False: only the
    # policy on predicted labels is trained, and the report has its figures and those of its play.
    config.compare = True
    # Episodes in which the policy plays against the scripted player, if it is not compared.
    config.play_episodes = 0

    # Configs of the stages, FILE:VARIANT of configs/.
    config.stages = ConfigDict({"record": "record:demo", "idm": "idm:demo", "policy": "foundation:demo"})
    # Further settings of the stages' configs, each "FIELD=VALUE".
    config.record = ()
    config.train_idm = ()
    config.label = ()
    config.train_policy = ()
    config.evaluate = ()
    if variant:
        _showcase(config, variant.partition(",")[2])
    return config


def _showcase(config: ConfigDict, machine: str) -> None:
    """Settings of one IDM and one policy for films: frames that show the game, and all its actions."""
    config.workdir = "runs/showcase"
    config.size = 64
    config.space = "doom"
    config.max_parallel = 1  # each program then uses all cores
    config.compare = False
    config.labelled, config.unlabelled = 64, 100
    config.play_episodes = 100
    size = "5m" if machine == "gpu" else "1m,cpu"
    config.stages = ConfigDict({"record": "record:demo", "idm": f"idm:{size}", "policy": f"foundation:{size}"})
    config.idm = ConfigDict({"minutes": (55.0,), "steps": (8000 if machine == "gpu" else 400,)})
    config.policy = ConfigDict({"minutes": (), "steps": (8000 if machine == "gpu" else 800,)})
    config.record = (
        "height=180", "width=320", "players.runner=0.5", "players.scripted=0.4", "players.human=0.1",
    )  # fmt: skip
    # Windows, rate and optimizer as in the `:demo` variants: many short windows of nearly equal frames.
    short = ("data.length=32", "data.batch=16", "data.valid_batch=16", "optimizer.name=muon", "evaluate_every=200",
             "optimizer.learning_rate=1e-3", "optimizer.warmup_steps=30", "save_every=100",
             "checkpoint.keep_every_hours=0.0")  # fmt: skip
    config.train_idm = (*short, "data.augment=False", "data.mirror=True")
    config.train_policy = short
    # Without the mirror images, which would double the time.
    config.label = ("mirror=False",)
    config.evaluate = ("game.arguments.height=180", "game.arguments.width=320")
    if machine == "tiny":
        _tiny(config)


def _tiny(config: ConfigDict) -> None:
    config.workdir = "runs/showcase-tiny"
    config.labelled, config.unlabelled, config.choosing, config.held_out = 4, 3, 1, 2
    config.play_episodes = 2
    config.idm = ConfigDict({"minutes": (0.2,), "steps": (4,)})
    config.policy = ConfigDict({"minutes": (), "steps": (4,)})
    config.record += ("seconds=6.0",)
    small = ("model.preset=nano", "optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=4", "evaluate_every=2")
    config.train_idm += small
    config.train_policy += small
    config.label += ("windows_per_span=3", "batch=2", "num_films=1")
    config.evaluate += ("game.arguments.seconds=3.0",)
