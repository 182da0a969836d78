"""Result files of the programs that compare runs, where a page of several experiments finds them (launch/paper.py)."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.report.experiments import Experiment, verdict_lines, write_experiment, write_experiments_page


def results_folder(config: ConfigDict) -> Path:
    """Folder of a program's result files: `config.result_files`, or `results` in its work directory."""
    return Path(config.result_files or Path(config.workdir) / "results").resolve()


def write_results(config: ConfigDict, page: Path, title: str, experiments: Mapping[str, Experiment]) -> None:
    """Write each experiment as NAME.json and all of them as a page, and print the verdicts.

    Args:
        config: of the program, with `workdir` and `result_files`.
        page: file of the page.
        title: of the page.
        experiments: by NAME.
    """
    folder = results_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    for name, experiment in experiments.items():
        write_experiment(folder / f"{name}.json", experiment)
    write_experiments_page(page, title, [*experiments.values()])
    lines = [line for experiment in experiments.values() for line in verdict_lines(experiment)]
    print("\n" + "\n".join(lines) + f"\nfigures: {page}", flush=True)
