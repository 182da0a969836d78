"""Submit a training job to a Slurm cluster of GPUs: one process for each GPU, which find each other.

    python launch/pods/slurm.py --nodes=5 --gpus=8 -- launch/train.py --config=configs/foundation.py:500m ...

Out of time, the job saves and is queued again; so it is after a failure of a node. With --dry_run the batch script is
printed only. Start it in the repository's folder, which all nodes must see.
"""

import shlex
import shutil
import subprocess
import sys

from absl import app, flags

from vpt_jax.system.paths import RemotePathError, refuse_remote_settings

_NODES = flags.DEFINE_integer("nodes", 1, "Machines.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 8, "GPUs of a machine.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 12, "Processor cores for each GPU: for the workers that read and decode.")
_HOURS = flags.DEFINE_integer("hours", 24, "Longest time before the job is queued again.", lower_bound=1)
_NAME = flags.DEFINE_string("name", "vpt", "Name of the job.")
_OPTIONS = flags.DEFINE_multi_string("sbatch", [], "More options of sbatch, such as --sbatch=--partition=gpu.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the script only.")
_NOTICE = 180  # seconds to save in
_STOPPED = 75  # exit status of training that saved before its end


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        sys.exit("error: say what to start: python launch/pods/slurm.py --nodes=4 -- launch/train.py --config=...")
    try:  # here, or the job would fail on the cluster, again and again
        refuse_remote_settings(arguments[1:])
    except RemotePathError as error:
        sys.exit(f"error: {error}")
    text = script(arguments[1:])
    if _DRY_RUN.value:
        print(text, end="")
        return
    if (sbatch := shutil.which("sbatch")) is None:
        sys.exit("error: there is no sbatch here: run this on a login node of the cluster, or add --dry_run")
    sys.exit(subprocess.run([sbatch], input=text, text=True, check=False).returncode)  # noqa: S603


def script(program: list[str]) -> str:
    options = [
        f"--job-name={_NAME.value}", f"--nodes={_NODES.value}", f"--ntasks-per-node={_GPUS.value}",
        f"--gpus-per-node={_GPUS.value}", f"--cpus-per-task={_CORES.value}", f"--time={_HOURS.value}:00:00",
        f"--signal=TERM@{_NOTICE}", "--requeue", "--open-mode=append", *_OPTIONS.value,
    ]  # fmt: skip
    ours = ["--config.distributed.coordinator=auto", f"--config.stopped_status={_STOPPED}"]
    # srun does not take the cores over from sbatch; and one process that fails leaves the others waiting for it.
    run = ["srun", f"--cpus-per-task={_CORES.value}", "--kill-on-bad-exit=1", sys.executable, *program, *ours]
    lines = [
        "#!/bin/bash", *(f"#SBATCH {option}" for option in options), "",
        shlex.join(run),
        "status=$?",
        f'if [ "$status" = {_STOPPED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$status"',
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
