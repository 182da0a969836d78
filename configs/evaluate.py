"""How well policies play: many episodes of fixed seeds, beside a random agent and a scripted player.

    python launch/evaluate.py --config.policies="('runs/demo/policy-predicted', 'runs/rl-doom')" --config.out=runs/play

The result is OUT/report.html with films of the best, the median and the worst episode of each, OUT/figures.json,
and a recording of every episode in OUT/recordings. Killed or stopped, the same command goes on with the agents that are
missing.

Variants: `:doom` (default), exploring a level of the embedded game; `:minerl` and `:luanti`, the way to a diamond
pickaxe. Each plays the game of its configs/rl_*.py, for what is paid there.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

VARIANTS = {"doom": "rl_doom.py", "minerl": "rl_diamond.py", "luanti": "rl_luanti.py"}


def get_config(variant: str = "doom") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/evaluate.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    tuning = runpy.run_path(str(Path(__file__).with_name(VARIANTS[variant])))["get_config"]()
    config = ConfigDict()

    # Work directories of policies, cloned or fine-tuned; "NAME=FOLDER" gives one a name for the table.
    config.policies = ()
    # From which of them the others' drift is measured, by name; empty: the first.
    config.reference = ""
    # Folder of the results.
    config.out = ""

    # The game, and what is paid for: as in configs/rl_base.py.
    config.game = ConfigDict({name: tuning.game[name] for name in ("name", "arguments", "python")})
    config.game.episodes_per_process = tuning.game.episodes_per_process
    if variant == "doom":
        config.game.arguments.fresh = True  # equal seeds, equal episodes
    config.rewards = tuning.rewards

    # Episodes of each agent, and the seed of the first; the others count up from there. Training takes others. So
    # few are our choice: the paper played more than 2,500 episodes of 60 minutes of each cloned policy (notes that
    # quote it), and ten minutes of fine-tuned ones, as the games here do.
    config.episodes = 100
    config.seed = 5_000_000
    # Games played side by side.
    config.games = 10
    return config
