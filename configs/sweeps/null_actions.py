"""Sweep: rules for null actions, judged by play (the paper's comparison, recalled; configs/sweeps/base.py).

The losses are not compared: each rule has a loss on other frames.

    python launch/sweep.py --config=configs/sweeps/null_actions.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

RULES = {
    "demo": ("drop", "drop_3", "drop_21", "keep"),  # the paper's; each takes ten minutes of a core
    "full": ("drop", "drop_3", "drop_21", "mask", "keep"),
    "small": ("drop", "keep"),
}


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("null_actions", variant)
    config.vary.rule = ConfigDict({"fields": ("policy.data.null_actions",), "choices": RULES[variant]})
    base.add_play(config, variant)
    config.stages.policy = base.policy_stage(variant)
    game = "minerl" if variant == "full" else "doom"
    episodes = {"demo": ("episodes=20",), "small": ("episodes=1", "game.arguments.seconds=3.0")}.get(variant, ())
    config.stages.play = base.stage("evaluate", f"evaluate:{game}", "policies={policy*}", *episodes)
    report = config.report
    report.title = "Null actions"
    report.claim = "Every kind of filtering helped; policies that were trained on null actions mostly do nothing"
    report.source = "recalled, not verified"
    report.stage, report.metric, report.higher_is_better = "play", "return", True
    report.x, report.x_label, report.y_label = "rule", "rule for null actions", "return"
    report.better = tuple((rule, "keep") for rule in config.vary.rule.choices if rule != "keep")
    return config
