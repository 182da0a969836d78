"""Latent actions against an inverse dynamics model at small scale, on the embedded game.

    python launch/latent_actions.py

Not of the VPT paper: LAPA's claim (arXiv 2410.11758) that pretraining without labels approaches pretraining with action
labels, measured for labels. Codes of frame pairs are learnt from play whose actions are not used; then both models get
the same few labelled minutes, label the same play, and a policy is cloned from the labels of each. After a stop or
kill, run the same command again to resume. The results are the files WORKDIR/results/*.json
(vpt_jax/report/experiments.py), with charts in latent.html there, and are printed.

Variants: `:demo` (default), for two CPU cores, and `:small`, which tries the program out in minutes: its figures mean
nothing.
"""

from ml_collections import ConfigDict

VARIANTS = ("demo", "small")


def get_config(variant: str = "demo") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/latent_demo.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()

    # Folder of all stages; a run in an existing folder resumes.
    config.workdir = "runs/latent-demo"
    # Folder of the result files, for a page of several experiments; empty: WORKDIR/results.
    config.result_files = ""
    # Height and width of the models' input frames.
    config.size = 16
    # Stages that run in parallel; training uses one processor core each.
    config.max_parallel = 2
    # Episodes of up to a minute: labelled, and unlabelled (its actions are not used).
    config.labelled, config.unlabelled = 30, 80
    # Numbers of held-out episodes: `choosing` for the losses while training; `held_out` for all reported figures.
    config.choosing, config.held_out = 4, 12

    # Minutes of labelled play that both models are trained on, and their steps. The last ones label.
    config.minutes, config.steps = (3.0, 8.0, 20.0), (100, 180, 300)
    # Steps of the latent actions, which are learnt once, from the unlabelled play, and of the policies.
    config.latent_steps, config.policy_steps = 800, 500

    # Further settings of the stages' configs, each "FIELD=VALUE"; `train_labellers` are of both models.
    config.record = ()
    config.train_latent = ()
    config.train_labellers = ()
    config.label = ()
    config.train_policy = ()
    if variant == "small":
        _small(config)
    return config


def _small(config: ConfigDict) -> None:
    """A few steps of everything, on seconds of play."""
    config.labelled, config.unlabelled, config.choosing, config.held_out = 4, 4, 1, 2
    config.record = ("seconds=6.0",)
    config.minutes, config.steps, config.latent_steps, config.policy_steps = (0.1, 0.3), (3, 4), 4, 4
    small = ("optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=4", "model.preset=nano")
    config.train_latent = config.train_labellers = config.train_policy = small
    config.label = ("windows_per_span=3", "batch=2", "num_films=0")
