"""Fine-tune to building houses: the paper's `contractor_house` (section 4.3), 420 hours of contractors' play.

    python launch/train.py --config=configs/house.py --config.data.train=DATASET --config.data.valid=DATASET

The paper's training took about six hours on 16 A100 (recalled: that the six hours are of this set). The fine-tuned
model crafts 213 times as many crafting tables as the foundation model, and 59 times as many planks: from notes that
quote the paper, recalled to be of the 0.5B model (`:500m`; the default is the 248M model). Variants and fields:
configs/fine_tuning.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import fine_tuning


def get_config(variant: str = "248m") -> ConfigDict:
    return fine_tuning.get_config(variant, "house")
