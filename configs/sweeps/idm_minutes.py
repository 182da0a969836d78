"""Sweep: labelled play of the inverse dynamics model, judged by a policy cloned from its labels (paper, section 4.6).

Variants: configs/sweeps/base.py.

    python launch/sweep.py --config=configs/sweeps/idm_minutes.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

# Minutes, and steps (0: by the epochs of the config). On few minutes, more steps only overfit, as in configs/demo.py.
POINTS = {
    "demo": ((3.0, 100), (8.0, 180), (20.0, 300), (55.0, 600)),
    "full": tuple((60.0 * hours, 0) for hours in (1, 10, 100, 1_000, 1_962)),
    "small": ((0.1, 3), (0.3, 4)),
}


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("idm_minutes", variant)
    base.add_play(config, variant)
    base.add_labels(config, variant)
    config.stages.policy = base.policy_stage(variant, train="{labels}")
    fields = ("idm.data.minutes", "idm.steps")
    config.vary.minutes = ConfigDict({"fields": fields, "choices": POINTS[variant]})
    report = config.report
    report.title = "Labelled play of the inverse dynamics model"
    report.claim = (
        "Policies cloned from an IDM's labels craft only if it was trained on 10 hours or more, craft tables from 50, "
        "and gain little beyond 100"
    )
    report.source = "section 4.6, by notes that quote the paper"
    report.x, report.x_label, report.log_x = "minutes", "minutes of the IDM's labelled play", True
    report.notes = ("The policies differ in their labels alone. The seeds are those of the policies.",)
    return config
