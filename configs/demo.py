"""The whole VPT pipeline at small scale, on the embedded game (paper, section 3; the curves of its figure 3).

    python launch/pipeline.py

Play is recorded with its actions, and two to three times as much play of which only the video is used. An inverse
dynamics model is trained on the first set and labels the second; one policy is cloned from these labels, one from the
true labels and one from the first set alone. Takes 25 to 47 minutes on two CPU cores. After a stop or kill, run the
same command again to resume; finished stages are skipped. The result is WORKDIR/report.html.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/demo.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of all stages; a run in an existing folder resumes.
    config.workdir = "runs/demo"
    # Height and width of the models' input frames.
    config.size = 16
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

    # Further settings of the stages' configs, each "FIELD=VALUE".
    config.record = ()
    config.train_idm = ()
    config.label = ()
    config.train_policy = ()
    return config
