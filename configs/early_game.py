"""Fine-tune to the first minutes in a new world: the paper's `earlygame_keyword` (section 4.3), found videos of it.

    python launch/train.py --config=configs/early_game.py --config.data.train=DATASET --config.data.valid=DATASET

Its labels are an inverse dynamics model's. The paper took 16 A100 and about two days; play then has 2.5 times as many
crafting tables as the foundation model's, and 6.1 times as many planks. Reinforcement learning goes on from here:
configs/rl_diamond.py. Variants and fields: configs/fine_tuning.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict


def get_config(variant: str = "248m") -> ConfigDict:
    base = runpy.run_path(str(Path(__file__).with_name("fine_tuning.py")))
    return base["get_config"](variant, "early-game")
