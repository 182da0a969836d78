"""Fields common to all training runs: base of configs/foundation.py, configs/idm.py and configs/rl_base.py."""

from collections.abc import Collection, Mapping

from ml_collections import ConfigDict

Layout = Mapping[str, int | str]  # fields of the config by name

# Of the sizes of our own, `SMALL`, whose settings are for one small GPU; all other machines are for the paper's sizes.
SMALL = ("20m", "5m", "1m")
SMALL_MACHINES: dict[str, Layout] = {
    "cpu": {"model.dtype": "float32", "data.workers": 1, "data.valid_workers": 0},  # CPUs have no fast bfloat16
}


def split_variant(
    file: str, variant: str, sizes: Collection[str], machines: Mapping[str, Layout]
) -> tuple[str, Layout]:
    """Parse a variant such as `500m,v5e-256`: returns the size, and the machine's layout (no machine: no changes)."""
    size, _, machine = variant.partition(",")
    machines = SMALL_MACHINES if size in SMALL else machines
    if size not in sizes:
        raise ValueError(f"configs/{file} has no variant {size!r}; choose one of {', '.join(sizes)}")
    if machine and machine not in machines:
        raise ValueError(f"configs/{file} has no machine {machine!r}; choose one of {', '.join(machines)}")
    return size, machines[machine] if machine else {}


def set_small(config: ConfigDict, learning_rate: float) -> None:
    """Settings for one of the sizes `SMALL` and thousands of steps on one GPU, instead of days on a cluster.

    They are a starting point, and have not been tuned. `learning_rate` is the paper's, lower by the square root of the
    ratio of the batches.
    """
    config.data.batch = config.data.valid_batch = 16
    config.data.workers = config.data.valid_workers = 4
    config.optimizer.learning_rate = learning_rate
    config.optimizer.warmup_steps = 200
    config.evaluate_every = config.save_every = 500


def get_config(stage: str, workdir: str) -> ConfigDict:
    """The config of a training run; `stage` is a key of `MODEL_OF_STAGE` (vpt_jax/training/stages.py)."""
    config = ConfigDict()

    # The trained model: "policy" (behavioural cloning), "idm" (inverse dynamics model), "ppg" (policy, by RL),
    # "latent_actions" (codes of frame pairs) or "latent_idm" (actions from these codes).
    config.stage = stage
    # Folder of the run: checkpoints, metrics, report. A run in an existing folder resumes.
    config.workdir = workdir
    # Seed of the initial parameters and of the order of the training data.
    config.seed = 0

    # Work directory of a run, or of an imported model, whose latest parameters initialize this run. Empty: random.
    config.init_from = ""

    # Training steps; 0: given by the number of epochs.
    config.steps = 0
    # Steps between logs of metrics, evaluations of the held-out episodes, and checkpoints.
    config.log_every = 50
    config.evaluate_every = 5000
    config.save_every = 1000

    # Exit status of a run that was stopped before its end by a signal: a scheduler that restarts failed jobs needs one
    # other than 0. launch/pods/slurm.py and launch/pods/gke.py set it.
    config.stopped_status = 0

    # Watchdog in minutes: a step (in reinforcement learning: an iteration with its rollout), an evaluation or a save
    # that takes longer ends its process with status 1, after printing the stacks of all its threads. On several hosts,
    # one that hangs blocks the others silently, and only a job that ends is restarted. 0: no limit. The first step,
    # which compiles, is not limited; the first evaluation, which compiles as well, is: set more than that takes.
    config.hang_minutes = 0.0

    # Folder for a profiler trace of three steps: `pip install xprof`, `xprof FOLDER`. Empty: none.
    config.profile_dir = ""
    # Write a report (HTML page and film) into the work directory at the end (jobs of one process).
    config.report = True

    # Folder of the compilation cache: compiled programs, which later starts load. "auto": that of the environment
    # variable VPT_COMPILATION_CACHE, or else `compiled` in the work directory, which all hosts of a job share; empty:
    # none. JAX's own variable, JAX_COMPILATION_CACHE_DIR, comes before this field. Entries are executable code: a
    # folder of another user, or that every user may write to, is not used.
    config.compilation_cache = "auto"

    config.checkpoint = ConfigDict()
    # Number of latest checkpoints kept, and the interval in hours of further ones that are kept (0: none).
    config.checkpoint.keep_last = 3
    config.checkpoint.keep_every_hours = 12.0

    if stage in ("policy", "ppg"):
        config.play = _play()

    # Devices along each axis of the mesh; -1: all remaining devices.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # Sharding of the parameters over the mesh: a name from RULES in vpt_jax/parallel.py.
    config.sharding = "default"

    config.distributed = _distributed()
    return config


def _play() -> ConfigDict:
    play = ConfigDict()
    # Game in which every kept checkpoint plays while the policy is trained, in a process of its own on the CPU: a
    # variant of configs/follow.py, such as "doom". Empty: none.
    play.game = ""
    # Fields of configs/follow.py, each "FIELD=VALUE", such as "reported.episodes=50".
    play.settings = ()
    return play


def _distributed() -> ConfigDict:
    distributed = ConfigDict()
    # host:port of process 0 when a job has several processes, or "auto" where JAX detects it (TPU pods, Slurm,
    # Kubernetes: set by launch/pods/); empty: a single process.
    distributed.coordinator = ""
    # Number of processes, and index of this one.
    distributed.num_processes = 1
    distributed.process_id = 0
    return distributed
