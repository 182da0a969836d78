"""Sweep: amount of pseudo-labelled play that a policy is cloned from (paper, section 4.5, figure 9; base.py).

python launch/sweep.py --config=configs/sweeps/hours.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

MINUTES = {
    "demo": (5.0, 12.0, 30.0, 75.0),
    "full": tuple(60.0 * hours for hours in (1, 10, 100, 1_000, 5_000, 70_000)),
    "small": (0.2, 0.4),
}


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("hours", variant)
    config.vary.minutes = ConfigDict({"fields": ("policy.data.minutes",), "choices": MINUTES[variant]})
    base.add_play(config, variant)
    base.add_labels(config, variant)
    config.stages.policy = base.policy_stage(variant, train="{labels}")
    report = config.report
    report.title = "Amount of pseudo-labelled play"
    report.claim = "Policies improve with the amount of web data, up to all 70,000 hours"
    report.source = "section 4.5, figure 9, by notes that quote the paper"
    report.x, report.x_label, report.log_x = "minutes", "minutes of pseudo-labelled play", True
    report.notes = (
        "Trained on predicted labels, measured on true ones. All runs of the demo have the same number of steps. "
        "Smaller amounts are parts of the larger ones, the same for every seed.",
    )
    return config
