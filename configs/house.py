"""Fine-tune to building houses: the paper's `contractor_house` (section 4.3), 420 hours of people asked to do so.

    python launch/train.py --config=configs/house.py --config.data.train=DATASET --config.data.valid=DATASET

The paper took 16 A100 and about six hours (that this set took the six is recalled); play then has 213 times as many
crafting tables as the foundation model's, and 59 times as many planks: notes that quote the paper, of the 0.5B model as
we recall it (`:500m`; the default is the 248M one). Variants and fields: configs/fine_tuning.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(variant: str = "248m") -> ConfigDict:
    base = runpy.run_path(str(Path(__file__).with_name("fine_tuning.py")))
    return base["get_config"](variant, "house")
