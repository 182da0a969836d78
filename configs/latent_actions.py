"""Latent actions: discrete codes of what changes between frames, learnt without labels (arXiv 2410.11758, 2402.15391).

    python launch/train.py --config=configs/latent_actions.py:full --config.data.train=DATASET --config.workdir=FOLDER

Not of the VPT paper: the first stage of LAPA and of Genie, in place of an inverse dynamics model. It reads the frames
of a dataset and no action. Afterwards, configs/latent_idm.py learns from few labelled minutes which actions the codes
are. LAPA's values are recalled; all others are our choice.

Variants: `:full` (default), for frames of 128x128, never trained; and `:demo`, a small one for frames of 16x16 on two
CPU cores, which configs/latent_demo.py trains.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import idm

VARIANTS = {"full": ("paper", "full"), "demo": ("demo", "tiny")}  # that of configs/idm.py, and the preset


def get_config(variant: str = "full") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/latent_actions.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}"
        )  # fmt: skip
    # Data, optimizer and the rest are an inverse dynamics model's.
    idm_variant, preset = VARIANTS[variant]
    config = idm.get_config(idm_variant)
    config.stage, config.workdir = "latent_actions", f"runs/latent-actions-{variant}"
    del config.report  # it compares predicted and recorded actions; the losses are in metrics.jsonl
    dtype, remat = config.model.dtype, config.model.remat
    config.model = ConfigDict()
    # Sizes, from LATENT_ACTIONS in vpt_jax/models/presets.py (LAPA: 4 choices among 8 codes).
    config.model.preset = preset
    # Computation dtype; parameters, norms and the quantizer are always float32.
    config.model.dtype = dtype
    # Rematerialization of the image stacks, as in configs/idm.py.
    config.model.remat = remat
    # Weights in the loss, of which the error of the next frame, as a share of copying the last one, has 1: of the
    # distance between vectors and codebook (VQ-VAE: 0.25 for the vectors, 1 for the codebook), and of how much the
    # entropy of the codes is below its maximum, against codebook collapse.
    config.loss = ConfigDict({"commitment_weight": 0.25, "entropy_weight": 0.1})
    # No augmentation of colours and angles: the decoder would have to predict the same change of both frames.
    del config.data.augment
    del config.initial  # there are no action heads
    return config
