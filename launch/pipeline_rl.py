"""Reinforcement learning in one command: fine-tune a cloned policy, evaluate, report (fields: configs/demo_rl.py).

Stages are as in launch/pipeline.py: programs that you can run yourself, printed, and skipped once they are done.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from demo.stages import Stage, checkpoint, flags, make_stages, program
from demo.tuning_report import write_tuning_report
from ml_collections import ConfigDict

from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).parents[1]
CLONED = "cloned"
# The agents, by name: differences from configs/rl_doom.py.
RUNS: dict[str, dict[str, object]] = {
    "fine-tuned": {},
    "without KL penalty": {"ppg.kl_pretrained_coef": 0.0},
    "from scratch": {"ppg.kl_pretrained_coef": 0.0, "ppg.entropy_coef": 0.01, "init_from": ""},
}
stage, arguments = partial(program, ROOT), partial(flags, ROOT)


def run(config: ConfigDict) -> None:
    """Run all stages that are not done, and write the report."""
    cloned = Path(config.policy).resolve()
    if not (cloned / "checkpoints").exists():
        raise ConfigError(f"config.policy is {config.policy}, which holds no checkpoint: run `make demo` first")
    folder = Path(config.workdir).resolve()
    seconds = make_stages(config, stages(config, folder, cloned), ROOT).run(config.max_parallel)
    page, claims = write_tuning_report(folder, {name: workdir(folder, name) for name in RUNS}, CLONED, seconds)
    print("\n" + "\n".join(claims) + f"\nfigures and films: {page}", flush=True)


def stages(config: ConfigDict, folder: Path, cloned: Path) -> Iterator[Stage]:
    """Three training runs with different settings, and an evaluation of all agents."""
    for name, differences in RUNS.items():
        fields: dict[str, object] = {
            "init_from": cloned,
            "workdir": workdir(folder, name),
            "steps": config.steps,
        } | differences
        settings = arguments("rl_doom", config.train, **fields)
        yield stage(training(name), "train.py", settings, (), checkpoint(workdir(folder, name), config.steps))
    policies = {CLONED: cloned} | {name: workdir(folder, name) for name in RUNS}
    settings = arguments(
        "evaluate:doom", config.evaluate, policies=tuple(f"{name}={path}" for name, path in policies.items()),
        out=folder / "playing", episodes=config.episodes, reference=CLONED,
    )  # fmt: skip
    yield stage("evaluate all agents", "evaluate.py", settings, [training(name) for name in RUNS])


def training(name: str) -> str:
    """Name of the stage that trains an agent."""
    return f"train a policy: {name}"


def workdir(folder: Path, name: str) -> Path:
    """Work directory of an agent's training run."""
    return folder / name.replace(" ", "-")


if __name__ == "__main__":
    command_line.run(run, "demo_rl")
