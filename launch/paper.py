"""All small experiments in one command, and one page of their results (fields: configs/paper.py).

Each experiment is a program that writes a file of vpt_jax/report/experiments.py; its command is printed, and you can
run it yourself. Run again, the program skips finished experiments and resumes stopped ones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.stages import Stage, Stages, environment, flags, program
from ml_collections import ConfigDict

from vpt_jax.report.experiments import read_experiment, write_experiments_page
from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """An experiment; {folder} in its texts is the work directory, {file} the file to write, and {size} the variant."""

    program: str  # in launch/
    config: str  # in configs/
    settings: tuple[str, ...]  # of the config, FIELD=VALUE; one of them gives the program the file to write


_SWEEP = ("workdir={folder}/sweeps", "experiment={file}", "max_parallel=1")  # in one folder, to share recorded play
# One line adds an experiment, in the order of the page.
EXPERIMENTS = {
    "idm_minutes": Row("sweep.py", "sweeps/idm_minutes:{size}", _SWEEP),
    "hours": Row("sweep.py", "sweeps/hours:{size}", _SWEEP),
    "parameters": Row("sweep.py", "sweeps/parameters:{size}", _SWEEP),
    "null_actions": Row("sweep.py", "sweeps/null_actions:{size}", _SWEEP),
    "heads": Row("sweep.py", "sweeps/heads:{size}", _SWEEP),
    "temporal_convolution": Row("sweep.py", "sweeps/temporal_convolution:{size}", _SWEEP),
}


def run(config: ConfigDict) -> None:
    """Run all experiments that are not done, and write the page."""
    check(config)
    folder = Path(config.workdir).resolve()
    (folder / "experiments").mkdir(parents=True, exist_ok=True)
    pipeline = Stages(list(stages(config, folder)), folder / "stages", environment(folder, config.max_parallel), ROOT)
    pipeline.run(config.max_parallel, lambda _: write_page(folder))
    print("\n" + "\n".join(write_page(folder)) + f"\nfigures: {folder / 'report.html'}", flush=True)


def check(config: ConfigDict) -> None:
    """Validate the config's fields."""
    if config.max_parallel < 1:
        raise ConfigError(f"config.max_parallel is {config.max_parallel}: at least one experiment must run")
    if unknown := [name for name in config.experiments if name not in EXPERIMENTS]:
        raise ConfigError(f"config.experiments has {unknown[0]!r}; choose among {', '.join(EXPERIMENTS)}")


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """A stage for each experiment."""
    for name in config.experiments or EXPERIMENTS:
        row, file = EXPERIMENTS[name], experiment_file(folder, name)
        settings = tuple(setting.format(folder=folder, file=file, size=config.size) for setting in row.settings)
        arguments = flags(ROOT, row.config.format(size=config.size), settings)
        yield program(ROOT, name, row.program, arguments, output=file)


def experiment_file(folder: Path, name: str) -> Path:
    """File that an experiment writes."""
    return folder / "experiments" / f"{name}.json"


def write_page(folder: Path) -> list[str]:
    """Write the page of all experiments whose file exists, also others than those above; returns the verdicts."""
    files = {path.stem: path for path in sorted((folder / "experiments").glob("*.json"))}
    names = [name for name in EXPERIMENTS if name in files]
    experiments = [read_experiment(files[name]) for name in [*names, *sorted(files.keys() - EXPERIMENTS.keys())]]
    write_experiments_page(folder / "report.html", "The paper's experiments at small scale", experiments)
    return [
        f"{'yes' if verdict.holds else 'NO':<4}{experiment.title}: {verdict.expectation}: {verdict.measured}"
        for experiment in experiments
        for verdict in experiment.verdicts
    ]


if __name__ == "__main__":
    command_line.run(run, "paper")
