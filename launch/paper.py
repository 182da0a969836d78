"""All small experiments in one command, and one page of their results (fields: configs/paper.py).

Each program in the table below writes the files of one or more experiments (vpt_jax/report/experiments.py); its command
is printed, and you can run it yourself. Run again, finished programs are skipped, and stopped ones resume.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo.stages import Stage, flags, make_stages, program
from ml_collections import ConfigDict

from vpt_jax.report.experiments import read_experiment, verdict_lines, write_experiments_page
from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    """A program that measures, and the files of results that it writes."""

    program: str  # in launch/
    config: str  # in configs/; its variants are those of configs/paper.py
    files: str  # pattern of their names, without .json


def _sweep(name: str) -> Row:
    return Row("sweep.py", f"sweeps/{name}", name)


# One line adds a program, in the order of the page. The long ones come first, so that both cores end at about the same
# time.
PROGRAMS = {
    "explored": Row("explored.py", "explored", "explored*"),
    "idm_minutes": _sweep("idm_minutes"),
    "latent_actions": Row("latent_actions.py", "latent_demo", "latent*"),
    "parameters": _sweep("parameters"),
    "null_actions": _sweep("null_actions"),
    "hours": _sweep("hours"),
    "steering": _sweep("steering"),
    "play_and_loss": _sweep("play_and_loss"),
    "temporal_convolution": _sweep("temporal_convolution"),
    "heads": _sweep("heads"),
}


def run(config: ConfigDict) -> None:
    """Run all programs that are not done, and write the page."""
    check(config)
    folder = Path(config.workdir).resolve()
    make_stages(config, stages(config, folder), ROOT).run(config.max_parallel, lambda _: write_page(folder))
    print("\n" + "\n".join(write_page(folder)) + f"\nfigures: {folder / 'report.html'}", flush=True)


def check(config: ConfigDict) -> None:
    """Validate the config's fields."""
    if unknown := [name for name in config.programs if name not in PROGRAMS]:
        raise ConfigError(f"config.programs has {unknown[0]!r}; choose among {', '.join(PROGRAMS)}")


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """A stage for each program."""
    for name in config.programs or PROGRAMS:
        row = PROGRAMS[name]
        settings = flags(
            ROOT, f"{row.config}:{config.size}", max_parallel=1, result_files=folder / "results",
            workdir=folder / Path(row.config).parts[0],  # one folder for all sweeps, to share recorded play
        )  # fmt: skip
        yield program(ROOT, name, row.program, settings)


def write_page(folder: Path) -> list[str]:
    """Write the page of all files of results, those of the table first; returns the verdicts, a line each."""
    files = [file for row in PROGRAMS.values() for file in sorted((folder / "results").glob(f"{row.files}.json"))]
    files += sorted({*(folder / "results").glob("*.json")} - {*files})
    experiments = [*map(read_experiment, files)]
    write_experiments_page(folder / "report.html", "The paper's experiments at small scale", experiments)
    return [line for experiment in experiments for line in verdict_lines(experiment.verdicts, experiment.title)]


if __name__ == "__main__":
    command_line.run(run, "paper")
