"""Fine-tune to the first minutes in a new world: the paper's `earlygame_keyword` (section 4.3), videos from the web.

    python launch/train.py --config=configs/early_game.py --config.data.train=DATASET --config.data.valid=DATASET

The labels are predicted by an inverse dynamics model. `launch/data.py early-game` selects the videos
(docs/collecting.md). The paper's two sizes, whose settings are not known to differ (configs/fine_tuning.py has their
sources):

- 0.5B (`:500m`): recalled, not checked: about two days on 16 A100; 2.5 times as many crafting tables as the foundation
  model, 6.1 times as many planks.
- 248M (`:248m`, the default): reinforcement learning starts from it (paper): configs/rl_diamond.py. Figures of this
  model alone are not known.

OpenAI released both (docs/guides/released-weights.md). Variants and fields: configs/fine_tuning.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import fine_tuning


def get_config(variant: str = "248m") -> ConfigDict:
    return fine_tuning.get_config(variant, "early-game")
