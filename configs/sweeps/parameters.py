"""Sweep: size of the policy (paper, appendix H, figure 8; configs/sweeps/base.py).

Other presets of vpt_jax/models/presets.py: --config.vary.preset.choices="('1m', 'tiny', '5m', '20m')".

    python launch/sweep.py --config=configs/sweeps/parameters.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base

# Those of the demo have 0.8, 1.7 and 4.0 million parameters at 16x16: each about twice those of the one before.
PRESETS = {"demo": ("1m", "tiny", "5m"), "full": ("1x", "2x", "3x"), "small": ("nano", "tiny")}


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("parameters", variant)
    config.vary.preset = ConfigDict({"fields": ("policy.model.preset",), "choices": PRESETS[variant]})
    base.add_play(config, variant)
    config.stages.policy = base.policy_stage(variant)
    report = config.report
    report.title = "Size of the policy"
    report.claim = (
        "On web data, from which they are trained, larger policies have the lower loss; zero-shot play and the loss on "
        "contractors' play favour the smallest, until they are fine-tuned"
    )
    report.source = "appendix H, figure 8, by notes that quote the paper"
    report.x, report.x_label, report.log_x = "parameters", "parameters", True
    report.notes = ("The held-out play is of the kind that the policies are trained on, as the web data above.",)
    if variant == "demo":
        report.notes += ("The presets differ in their memory as well: 128 frames, and 16 of `tiny`, the second.",)
    return config
