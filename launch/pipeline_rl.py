"""Reinforcement learning in one command: fine-tune a cloned policy, play, report (fields: configs/demo_rl.py).

Stages are as in launch/pipeline.py: programs that you can run yourself, printed, skipped once they are done.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.report.tuning import write_tuning_report
from vpt_jax.stages import Stage, StageFailedError, Stages, checkpoint, environment, flags, program
from vpt_jax.system import command_line

ROOT = Path(__file__).parents[1]
CLONED = "cloned"
# The agents: what differs from configs/rl_doom.py.
RUNS: dict[str, dict[str, object]] = {
    "fine-tuned": {},
    "without leash": {"ppg.leash": 0.0},
    "from scratch": {"ppg.leash": 0.0, "ppg.entropy": 0.01, "init_from": ""},
}
stage, arguments = partial(program, ROOT), partial(flags, ROOT)


class ConfigError(ValueError):
    """A field of the config has a value that cannot be; the message says which can."""


def run(config: ConfigDict) -> None:
    if config.at_once < 1:
        raise ConfigError(f"config.at_once is {config.at_once}: at least one stage must run")
    cloned = Path(config.policy).resolve()
    if not (cloned / "checkpoints").exists():
        raise ConfigError(f"config.policy is {config.policy}, which holds no checkpoint: run `make demo` first")
    folder = Path(config.workdir).resolve()
    todo = list(stages(config, folder, cloned))
    seconds = Stages(todo, folder / "stages", environment(folder, config.at_once), ROOT).run(config.at_once)
    page, verdicts = write_tuning_report(folder, {name: workdir(folder, name) for name in RUNS}, CLONED, seconds)
    print("\n" + "\n".join(verdicts) + f"\nfigures and films: {page}", flush=True)


def stages(config: ConfigDict, folder: Path, cloned: Path) -> Iterator[Stage]:
    """Three runs that differ in little, and one that lets everybody play."""
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
        "evaluate:doom", config.evaluate, policies=tuple(f"{name}={at}" for name, at in policies.items()),
        out=folder / "playing", episodes=config.episodes, reference=CLONED,
    )  # fmt: skip
    yield stage("let everybody play", "evaluate.py", settings, [training(name) for name in RUNS])


def training(name: str) -> str:
    """The stage that trains an agent."""
    return f"train a policy: {name}"


def workdir(folder: Path, name: str) -> Path:
    """Of an agent's training run."""
    return folder / name.replace(" ", "-")


if __name__ == "__main__":
    command_line.run(run, "configs/demo_rl.py", (ConfigError, StageFailedError))
