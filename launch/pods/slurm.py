"""Submit a training job to a Slurm cluster of GPUs: one process for each GPU, which find each other.

    python launch/pods/slurm.py --nodes=5 --gpus=8 -- launch/train.py --config=configs/foundation.py:500m ...

    python launch/pods/slurm.py --array=0-5 --gpus=1 -- launch/sweep.py --config=configs/sweeps/heads.py:full ...

submits an array: one task for each run of a sweep, with its index in --config.index, on one machine each. --dry_run of
launch/sweep.py says how many there are.

At its time limit, the job saves a checkpoint and is requeued, as it is after a node failure. With --dry_run the batch
script is printed only. Start it in the repository's folder, which must be on a disk shared by all nodes.
"""

import shlex
import shutil
import subprocess
import sys

from absl import app, flags

from vpt_jax.system.paths import RemotePathError, refuse_remote_settings
from vpt_jax.system.stopping import EXIT_STATUS

_NODES = flags.DEFINE_integer("nodes", 1, "Number of machines.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 8, "GPUs per machine.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 12, "Processor cores for each GPU: for the workers that read and decode.")
_ARRAY = flags.DEFINE_string("array", "", "Indices of a sweep's runs, as of sbatch: 0-17, or 0-17%4 for 4 at a time.")
_HOURS = flags.DEFINE_integer("hours", 24, "Longest time before the job is queued again.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "vpt", "Name of the job.")
_OPTIONS = flags.DEFINE_multi_string("sbatch", [], "Further options of sbatch, such as --sbatch=--partition=gpu.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the script only.")
_NOTICE = 180  # seconds before the time limit, to save a checkpoint
_STOPPED_STATUS = 75  # exit status of training that was stopped and saved
_INDEX = '--config.index="$SLURM_ARRAY_TASK_ID"'  # expanded by the shell


def main(arguments: list[str]) -> None:
    """Submit the batch script by sbatch, or print it."""
    if len(arguments) < 2:
        sys.exit("error: no program given: python launch/pods/slurm.py --nodes=4 -- launch/train.py --config=...")
    try:  # checked here: on the cluster, the job would fail at every restart
        refuse_remote_settings(arguments[1:])
    except RemotePathError as error:
        sys.exit(f"error: {error}")
    if _ARRAY.value and _NODES.value > 1:
        sys.exit("error: a task of an array runs on one machine: leave out --nodes")
    text = script(arguments[1:])
    if _DRY_RUN.value:
        print(text, end="")
        return
    if (sbatch := shutil.which("sbatch")) is None:
        sys.exit("error: there is no sbatch here: run this on a login node of the cluster, or add --dry_run")
    sys.exit(subprocess.run([sbatch], input=text, text=True, check=False).returncode)  # noqa: S603


def script(program: list[str]) -> str:
    """The batch script, requeued if the job was stopped: one task per GPU, or of an array one for all GPUs."""
    tasks = 1 if _ARRAY.value else _GPUS.value
    cores = _CORES.value * _GPUS.value // tasks
    options = [
        f"--job-name={_NAME.value}", f"--nodes={_NODES.value}", f"--ntasks-per-node={tasks}",
        f"--gpus-per-node={_GPUS.value}", f"--cpus-per-task={cores}", f"--time={_HOURS.value}:00:00",
        f"--signal=TERM@{_NOTICE}", "--requeue", "--open-mode=append",
        *([f"--array={_ARRAY.value}"] if _ARRAY.value else []), *_OPTIONS.value,
    ]  # fmt: skip
    stopped = EXIT_STATUS if _ARRAY.value else _STOPPED_STATUS
    added = ["--config.distributed.coordinator=auto", f"--config.stopped_status={_STOPPED_STATUS}"]
    # srun does not inherit --cpus-per-task from sbatch; and if one process fails, the others would wait for it forever.
    run = ["srun", f"--cpus-per-task={cores}", "--kill-on-bad-exit=1", sys.executable, *program]
    lines = [
        "#!/bin/bash", *(f"#SBATCH {option}" for option in options), "",
        f"{shlex.join(run)} {_INDEX}" if _ARRAY.value else shlex.join([*run, *added]),
        "status=$?",
        f'if [ "$status" = {stopped} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$status"',
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
