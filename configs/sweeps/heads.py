"""Sweep: the joint action head against independent keys and axes (paper, appendix E.3; configs/sweeps/base.py).

python launch/sweep.py --config=configs/sweeps/heads.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("heads", variant)
    config.vary.head = ConfigDict({"fields": ("policy.model.head",), "choices": ("joint", "factored")})
    base.add_play(config, variant)
    config.stages.policy = base.policy_stage(variant)
    report = config.report
    report.title = "Joint against factored actions"
    report.claim = (
        "Independent heads cannot represent keys that are pressed together: the paper's policies have joint ones"
    )
    report.source = "appendix E.3, by notes that quote the paper"
    report.x, report.x_label = "head", "action head"
    report.better = (("joint", "factored"),)
    report.notes = (
        "Both losses are of the same actions, except where two keys are held that exclude each other: the joint head "
        "has no class for that.",
    )
    return config
