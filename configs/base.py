"""What all training runs have in common: configs/foundation.py, configs/idm.py and configs/rl_base.py begin with it."""

from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

Layout = Mapping[str, int]  # fields of the config by name


def split_variant(
    file: str, variant: str, sizes: Collection[str], machines: Mapping[str, Layout]
) -> tuple[str, Layout]:
    """A variant such as `500m,v5e-256`: the size, and the machine's layout (none: no changes)."""
    size, _, machine = variant.partition(",")
    if size not in sizes:
        raise ValueError(f"configs/{file} has no variant {size!r}; choose one of {', '.join(sizes)}")
    if machine and machine not in machines:
        raise ValueError(f"configs/{file} knows no machine {machine!r}; choose one of {', '.join(machines)}")
    return size, machines[machine] if machine else {}


def get_config(stage: str, workdir: str) -> ConfigDict:
    config = ConfigDict()

    # What is trained: "policy" (behavioural cloning), "idm" (inverse dynamics model) or "ppg" (a policy, by playing).
    config.stage = stage
    # Folder of the run: checkpoints, metrics, report. The same folder resumes.
    config.workdir = workdir
    # Seed of the initial parameters and of what training reads when.
    config.seed = 0

    # Work directory of a run, or of an imported model, whose newest parameters this run begins with. Empty: random.
    config.init_from = ""

    # Steps to train; 0: as many as the epochs make.
    config.steps = 0
    # Every how many steps: figures are written, the held-out episodes evaluated, a checkpoint saved.
    config.log_every = 50
    config.evaluate_every = 5000
    config.save_every = 1000

    # Exit status of a run that was asked to stop before its end: a scheduler that starts failed jobs again needs one
    # other than 0. The starters in launch/pods/ set it.
    config.stopped_status = 0

    # A step (in reinforcement learning: an iteration with its play), an evaluation or a save that takes more minutes
    # than this ends its process with status 1, after the stacks of all its threads: on several hosts one that is stuck
    # holds up the others without a word, and only a job that ends is started again. 0: no limit. The first step, which
    # compiles, is not limited; the first evaluation, which compiles as well, is: give more than that takes.
    config.hang_minutes = 0.0

    # Folder for a trace of three steps, to see what takes their time: `pip install xprof`, `xprof FOLDER`. Empty: none.
    config.profile = ""
    # Write a page of figures and a film into the work directory at the end (jobs of one process).
    config.report = True

    config.checkpoint = ConfigDict()
    # Newest checkpoints kept, and one more for every so many hours (0: none).
    config.checkpoint.keep_last = 3
    config.checkpoint.keep_every_hours = 12.0

    # Devices along each axis of the mesh; -1 takes what the others leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # How parameters are split over the mesh: a name from RULES in vpt_jax/parallel.py.
    config.sharding = "default"

    config.distributed = ConfigDict()
    # host:port of process 0 when a job has several processes, or "auto" where JAX can find it (TPU pods, Slurm,
    # Kubernetes: launch/pods/ start them so); empty: a single process.
    config.distributed.coordinator = ""
    # How many processes, and which one this is.
    config.distributed.num_processes = 1
    config.distributed.process_id = 0
    return config
