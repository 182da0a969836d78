"""The whole loop of VPT in small, on the embedded game (paper, section 3; the curves of its figure 3).

    python launch/pipeline.py

Play is recorded with its actions, and two to three times as much of which only the video is used. An inverse dynamics
model learns from the first and labels the second; a policy is cloned from these labels, one from the true ones and one
from the first set alone. Takes about 25 minutes on two CPU cores. Stopped or killed, the same command goes on; what is
done is skipped. The result is WORKDIR/report.html.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/demo.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of everything; the same folder resumes.
    config.workdir = "runs/demo"
    # Height and width of the frames that the models see.
    config.size = 16
    # Stages that run side by side; training takes a processor core each. 1 with an accelerator, which one program has
    # to itself.
    config.at_once = 2
    # Episodes of up to a minute: labelled, and unlabelled (its labels are kept for scoring and for the twin).
    config.labelled, config.unlabelled = 68, 170
    # Held-out episodes: by those of the first number a policy's best step is chosen, and no figure of them is reported;
    # on the others, which choose nothing, all reported figures are measured.
    config.choosing, config.held_out = 4, 12

    # Minutes of labelled play that inverse dynamics models are trained on, and for how many steps. The last one labels;
    # as many minutes are the small set that a policy is trained on.
    config.idm = ConfigDict({"minutes": (3.0, 8.0, 20.0, 55.0), "steps": (100, 180, 300, 1500)})
    # Minutes of truly labelled play that further policies are trained on, for the same curve, and for how many steps;
    # the last number of steps is that of the three policies that are compared.
    config.policy = ConfigDict({"minutes": (5.0, 15.0), "steps": (100, 250, 1000)})

    # More settings of the stages' own configs, each "FIELD=VALUE".
    config.record = ()
    config.train_idm = ()
    config.label = ()
    config.train_policy = ()
    return config
