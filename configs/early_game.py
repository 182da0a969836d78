"""Fine-tune to the first minutes in a new world: the paper's `earlygame_keyword` (section 4.3), videos from the web.

    python launch/train.py --config=configs/early_game.py --config.data.train=DATASET --config.data.valid=DATASET

The labels are predicted by an inverse dynamics model. Recalled from the paper, not checked: training took about two
days on 16 A100, and the fine-tuned model crafts 2.5 times as many crafting tables as the foundation model and 6.1 times
as many planks, both of the 0.5B model (`:500m`). The default is the 248M model, from which reinforcement learning
starts (paper): configs/rl_diamond.py. docs/collecting.md has a query for the videos. Variants and fields:
configs/fine_tuning.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import fine_tuning


def get_config(variant: str = "248m") -> ConfigDict:
    return fine_tuning.get_config(variant, "early-game")
