"""Fine-tuning by reinforcement learning at small scale, on the embedded game (paper, section 4.4 and its figure 7).

    python launch/pipeline_rl.py

The policy cloned by `make demo` is trained to explore its level in three runs: with the KL penalty to the pretrained
policy, without it, and from random parameters with the same number of frames. These policies, the cloned policy, a
random agent and the scripted player are then evaluated on the same hundred episodes. Takes 20 to 27 minutes on two CPU
cores. After a stop or kill, run the same command again to resume. The result is WORKDIR/report.html.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant:
        raise ValueError("configs/demo_rl.py has no variants: change its fields with --config.FIELD=VALUE")
    config = ConfigDict()

    # Folder of all stages; a run in an existing folder resumes.
    config.workdir = "runs/demo-rl"
    # Work directory of the cloned policy.
    config.policy = "runs/demo/policy-predicted"
    # Maximum number of stages that run in parallel, on one processor core each.
    config.max_parallel = 2
    # Iterations of each of the three runs.
    config.steps = 40
    # Evaluation episodes of each agent.
    config.episodes = 100

    # Further settings of the stages' configs, configs/rl_doom.py and configs/evaluate.py, each "FIELD=VALUE".
    config.train = ()
    config.evaluate = ()
    return config
