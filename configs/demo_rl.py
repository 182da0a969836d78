"""Fine-tuning by reinforcement learning in small, on the embedded game (paper, section 4.4 and its figure 7).

    python launch/pipeline_rl.py

The policy that `make demo` has cloned learns to see more of its level, three times: with the leash, without it, and
from random parameters with as many frames. All of them, the cloned policy, a random agent and the scripted player then
play the same hundred episodes. Takes about 20 minutes on two CPU cores. Stopped or killed, the same command goes on.
The result is WORKDIR/report.html.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/demo_rl.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of everything; the same folder resumes.
    config.workdir = "runs/demo-rl"
    # Work directory of the cloned policy.
    config.policy = "runs/demo/policy-predicted"
    # Stages that run side by side, on a processor core each.
    config.at_once = 2
    # Iterations of each of the three runs.
    config.steps = 40
    # Episodes that everybody plays.
    config.episodes = 100

    # More settings of the stages' own configs, configs/rl_doom.py and configs/evaluate.py, each "FIELD=VALUE".
    config.train = ()
    config.evaluate = ()
    return config
