"""Actions from latent actions: an inverse dynamics model on frozen codes, trained on labelled minutes.

    python launch/train.py --config=configs/latent_idm.py:full --config.init_from=LATENT --config.data.train=DATASET

LATENT is the work directory of a run of configs/latent_actions.py, whose encoder of frame pairs stays frozen. What maps
the codes of a window to actions is the transformer and the heads of the inverse dynamics model of configs/idm.py, with
its settings: so both are trained in the same way on the same minutes, and differ in what they see. launch/label.py and
launch/data.py take the run as `config.idm`.

Variants: `:full` (default) and `:demo`, those of configs/latent_actions.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import idm
from vpt_jax.configs.latent_actions import VARIANTS


def get_config(variant: str = "full") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/latent_idm.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    idm_variant, preset = VARIANTS[variant]
    config = idm.get_config(idm_variant)
    config.stage, config.workdir = "latent_idm", f"runs/latent-idm-{variant}"
    # Sizes, from LATENT_ACTIONS and LATENT_IDMS in vpt_jax/models/presets.py: the preset of the run in init_from.
    config.model.preset = preset
    # Work directory of the run of configs/latent_actions.py.
    config.init_from = f"runs/latent-actions-{variant}"
    # Frozen: the encoder of frame pairs and its codebook.
    config.frozen_pattern = "^latent/"
    # The codes were learnt from frames of these colours and angles.
    config.data.augment = False
    # Of the temporal convolution, which the codes replace.
    del config.initial.temporal_difference, config.model.temporal_convolution
    return config
