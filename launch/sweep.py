"""Sweep: runs of every combination of varied settings, with several seeds (fields: configs/sweeps/base.py).

    python launch/sweep.py --config=configs/sweeps/heads.py
    python launch/sweep.py --config=configs/sweeps/heads.py --dry_run

Every stage of a run is a program of launch/, whose command is printed and gives the same result alone. Stages that are
equal in several runs are done once. Run again, the program skips finished stages and resumes stopped ones. With
--dry_run it prints all runs and commands, and does nothing.

On a cluster, each run is a task: --config.index=N (launch/pods/slurm.py --array and launch/pods/gke.py --array set
it), or --config.ray_address. The machines share the disk of the work directory.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from demo.stages import StageFailedError, Stages, make_stages
from ml_collections import ConfigDict
from sweeps.fields import check_fields
from sweeps.plan import SHARED, Plan, make_plan
from sweeps.results import write_results

from vpt_jax.system import command_line, stopping
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]  # in commands, by which tasks on other machines find finished stages
_POLL_INTERVAL = 0.2  # seconds
_SAVE_SECONDS = 180.0  # for tasks that are cancelled
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print all runs and commands only.")


def run(config: ConfigDict) -> None:
    """Do the stages of `config.index` that are not done, and write the results."""
    plan = make_plan(config, ROOT)
    check_fields(plan)

    def stages(index: str) -> Stages:
        return make_stages(config, plan.select(index), ROOT)

    if _DRY_RUN.value:
        print("\n".join(listing(plan, stages(""))))
        return
    selected = stages(config.index)
    if config.ray_address:
        run_on_ray(config, len(plan.runs), [sys.executable, *sys.argv])
    else:
        selected.run(config.max_parallel)
    everything = stages("")
    if {stage.name for stage in plan.stages} - everything.finished().keys() <= plan.joint:
        everything.run(config.max_parallel)  # the last run to end does what needs all runs
    page = write_results(config, plan, everything.finished)
    done = sum(everything.finished().keys() >= run.stages for run in plan.runs)
    print(f"\n{done} of {len(plan.runs)} runs are done" + (f"; results: {page}" if page else ""), flush=True)


def listing(plan: Plan, stages: Stages) -> list[str]:
    """Lines that name all runs with their stages, and the command of each stage."""
    lines = [f"{len(plan.runs)} runs, {len(plan.stages)} stages"]
    for number, one in enumerate(plan.runs):
        lines.append(f"run {number}: {one.name}: {' '.join(s.name for s in plan.stages if s.name in one.stages)}")
    for stage in plan.stages:
        lines += ["", stage.name, f"  {stages.shell_command(stage)}"]
    return lines


def run_on_ray(config: ConfigDict, count: int, command: Sequence[str]) -> None:
    """Run the stages that several runs need, then every run, as tasks of a Ray cluster.

    Args:
        config: of the sweep.
        count: number of runs.
        command: of this program, to which the index of a run is added.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
        StageFailedError: a run failed; the others have been stopped.
    """
    try:
        import ray

        from vpt_jax.envs.vector.remote import join_cluster

        join_cluster(config.ray_address)
    except ImportError as error:
        raise ConfigError(
            f'config.ray_address needs Ray: pip install -c constraints.txt -e ".[ray]" ({error})'
        ) from error
    except ConnectionError as error:
        raise ConfigError(
            f"config.ray_address is {config.ray_address!r}, where no cluster of Ray answers ({error}): start one with "
            "`ray start --head`, or leave it empty to use this machine alone"
        ) from error
    task = ray.remote(**config.ray_resources, max_retries=3)(run_command)
    with stopping.deferred() as signals:
        for indices in ([SHARED], [str(number) for number in range(count)]):
            flags_of = ([*command, "--config.ray_address=", f"--config.index={index}"] for index in indices)
            tasks = [task.remote(one, os.getcwd()) for one in flags_of]
            try:
                while tasks and not signals:
                    ended, tasks = ray.wait(tasks, timeout=_POLL_INTERVAL)
                    ray.get(ended)  # raises the error of a task
            except ray.exceptions.RayTaskError as error:
                raise StageFailedError(
                    f"a task of Ray failed, whose output is above: {error.cause}. Run the same command again to resume"
                ) from error
            finally:
                for one in tasks:
                    ray.cancel(one)
                if tasks:  # until they have saved their state
                    ray.wait(tasks, num_returns=len(tasks), timeout=_SAVE_SECONDS)
            if signals:
                raise KeyboardInterrupt


def run_command(command: Sequence[str], folder: str) -> None:
    """Run a command in a folder; if this process is interrupted, stop it and wait until it has saved its state."""
    process = subprocess.Popen(command, cwd=folder)  # noqa: S603 - this program
    try:
        while (status := process.poll()) is None:
            time.sleep(_POLL_INTERVAL)  # Ray's `cancel` interrupts Python alone, not a system call
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    if status:
        raise RuntimeError(f"status {status} of {' '.join(command)}")


if __name__ == "__main__":
    command_line.run(run, str(ROOT / "configs" / "sweeps" / "heads.py"))
