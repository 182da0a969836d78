"""Fine-tune to building houses: the paper's `contractor_house` (section 4.3), 420 hours of contractors' play.

    python launch/train.py --config=configs/house.py --config.data.train=DATASET --config.data.valid=DATASET

`launch/prepare.py --config=configs/prepare.py:house` makes the dataset of downloaded recordings. The paper's two sizes,
whose settings are not known to differ (configs/fine_tuning.py has their sources):

- 0.5B (`:500m`): about six hours on 16 A100 (recalled: that the six hours are of this set). 213 times as many crafting
  tables as the foundation model, and 59 times as many planks: from notes that quote the paper, recalled to be of this
  size. OpenAI released this one (docs/guides/released-weights.md).
- 248M (`:248m`, the default): one run of reinforcement learning starts from it (`configs/rl_diamond.py:house`; OpenAI
  released its result, `rl-from-house-2x`). Figures of this model alone are not known.

Variants and fields: configs/fine_tuning.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import fine_tuning


def get_config(variant: str = "248m") -> ConfigDict:
    return fine_tuning.get_config(variant, "house")
