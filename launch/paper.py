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
    """A program that measures, and the experiments whose files it writes."""

    program: str  # in launch/
    config: str  # in configs/; its variants are those of configs/paper.py
    experiments: tuple[str, ...]


def _sweep(name: str) -> Row:
    return Row("sweep.py", f"sweeps/{name}", (name,))


# One line adds a program, in the order of the page.
PROGRAMS = {
    "idm_minutes": _sweep("idm_minutes"),
    "hours": _sweep("hours"),
    "parameters": _sweep("parameters"),
    "null_actions": _sweep("null_actions"),
    "heads": _sweep("heads"),
    "temporal_convolution": _sweep("temporal_convolution"),
    "play_and_loss": _sweep("play_and_loss"),
    "steering": _sweep("steering"),
    "explored": Row("explored.py", "explored", ("explored_loss", "explored_keys", "explored_mouse")),
    "latent_actions": Row(
        "latent_actions.py", "latent_demo",
        ("latent_loss", "latent_keys", "latent_pitch", "latent_yaw", "latent_policies", "latent_frames"),
    ),
}  # fmt: skip


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
        yield program(ROOT, name, row.program, settings, output=experiment_file(folder, row.experiments[-1]))


def experiment_file(folder: Path, experiment: str) -> Path:
    """File with the result of an experiment."""
    return folder / "results" / f"{experiment}.json"


def write_page(folder: Path) -> list[str]:
    """Write the page of all experiments that have a file, the table's first; returns the verdicts, a line each."""
    files = {path.stem: path for path in sorted((folder / "results").glob("*.json"))}
    names = [name for row in PROGRAMS.values() for name in row.experiments if name in files]
    names += [name for name in files if name not in names]
    experiments = [read_experiment(files[name]) for name in names]
    write_experiments_page(folder / "report.html", "The paper's experiments at small scale", experiments)
    return [line for experiment in experiments for line in verdict_lines(experiment)]


if __name__ == "__main__":
    command_line.run(run, "paper")
