"""Sweep: the inverse dynamics model with and without its temporal convolution (paper, figure 14; base.py).

python launch/sweep.py --config=configs/sweeps/temporal_convolution.py
"""

from ml_collections import ConfigDict

from vpt_jax.configs.sweeps import base


def get_config(variant: str = "demo") -> ConfigDict:
    config = base.get_config("temporal_convolution", variant)
    config.seeded = ("idm",)
    config.vary.convolution = ConfigDict({"fields": ("idm.model.temporal_convolution",), "choices": (True, False)})
    base.add_play(config, variant)
    config.stages.idm = base.training_stage("idm", variant, "steps=240", "evaluate_every=80")
    report = config.report
    report.title = "Temporal convolution of the inverse dynamics model"
    report.claim = "Without the temporal convolution, loss and accuracy are clearly worse"
    report.source = "appendix D, figure 14, by notes that quote the paper"
    report.stage, report.x, report.x_label = "idm", "convolution", "temporal convolution"
    report.better = (("True", "False"),)
    report.notes = (
        "In the demo, three in four temporal filters start as differences of two frames (configs/idm.py); without the "
        "convolution, there are none.",
    )
    return config
