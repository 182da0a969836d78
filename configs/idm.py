"""The inverse dynamics model: predicts the action from the frames before and after it (paper, section 3, app. D).

    python launch/train.py --config=configs/idm.py:paper --config.data.train=DATASET --config.workdir=FOLDER

The paper trained it on 1,962 hours (recalled: for 20 epochs) on 32 A100 GPUs in about 4 days; it reached a keypress
accuracy of 90.6% and a mouse R2 of 0.97. Values are marked with their source: (paper), (code), (replica), (recalled),
as docs/sources.md explains; all others are our choice.

Variants: `:paper` (default), the size that OpenAI released, 482,330,046 parameters: two transformer blocks, image
stacks of 256, 512 and 512 channels. `:paper_text`, the size of the paper's text: four blocks and 64, 128 and 128
channels, which are 838,843,966 parameters at 128x128, where the text states 0.5 billion: so the released size is the
default. `:20m`, `:5m` and `:1m`, our own for one small GPU and 64x64 or 128x128 (docs/sizes.md). And `:demo`, a small
one for two CPU cores, which configs/demo.py trains in minutes on recordings of the embedded game. A machine's name
after a comma, such as `:paper,v5p-128`, sets mesh and batch for that machine (MACHINES below); for our own sizes,
`:5m,cpu` is for training without a GPU.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import base

PRESETS = {"paper": "paper", "paper_text": "paper_text", "20m": "20m", "5m": "5m", "1m": "1m", "demo": "tiny"}
# By type and number of chips. All keep the batch of 128 windows.
MACHINES: dict[str, dict[str, int | str]] = {
    "gpu": {"data.grad_accum_steps": 128, "data.valid_batch": 4},
    "gpu-8": {"mesh.data": 8, "mesh.fsdp": 1, "data.grad_accum_steps": 16},
    "v5e-256": {"mesh.data": 8, "mesh.fsdp": 16, "mesh.tensor": 2, "data.valid_batch": 128, "model.remat": "none"},
    "v5p-128": {"mesh.data": 16, "mesh.fsdp": 8, "data.valid_batch": 128, "model.remat": "none"},
    "v6e-256": {
        "mesh.data": 8, "mesh.fsdp": 16, "mesh.tensor": 2, "data.valid_batch": 128, "model.remat": "stacks",
    },
}  # fmt: skip


def get_config(variant: str = "paper") -> ConfigDict:
    size, layout = base.split_variant("idm.py", variant, PRESETS, MACHINES)
    config = base.get_config("idm", f"runs/idm-{size}")

    config.model = _model(PRESETS[size])
    config.data = _data()
    config.initial = _initial()
    config.optimizer = _optimizer()
    # Frozen parameters, as in configs/foundation.py.
    config.frozen_pattern = ""

    # Passes over the training data (replica, recalled: 20).
    config.epochs = 20.0
    if size in base.SMALL:
        base.set_small(config, learning_rate=1e-3)
        config.initial.temporal_difference = True
    elif size == "demo":
        _demo(config)
    config.update_from_flattened_dict(layout)
    return config


def _model(preset: str) -> ConfigDict:
    model = ConfigDict()
    # Size of the model, from vpt_jax/models/presets.py.
    model.preset = preset
    # Divides the logits; 4 for the released model (code).
    model.temperature = 1.0
    # Use the last dense layer; the released weights were trained without it (vpt_jax/models/idm.py).
    model.use_last = True
    # Use the temporal convolution over five frames, the first layer (paper); False: the paper's ablation (figure 14).
    model.temporal_convolution = True
    # Computation dtype; parameters, norms and softmax are always float32.
    model.dtype = "bfloat16"
    # Rematerialization of the image stacks: "none", "convolutions", "stacks" or "auto", as in configs/foundation.py.
    model.remat = "auto"
    return model


def _data() -> ConfigDict:
    data = ConfigDict()
    # Dataset folders made by launch/prepare.py; the split `train` of the first and `valid` of the second are read.
    data.train = "data/contractor"
    data.valid = "data/contractor"
    # Several datasets in one run, in place of data.train: a tuple of {"dataset": FOLDER, "weight": NUMBER}, each with
    # its share of every batch (vpt_jax/data/mixture.py). Further fields of an entry: "name" (of the folder), "mapping"
    # (built-in or a JSON file, from its action space to the run's, which is that of the first entry), "segments" and
    # "minutes" (as below). FOLDER or NAME=FOLDER is an entry of weight 1. An epoch ends as soon as any of the datasets
    # has been read once.
    data.mixture = ()
    # Several validation sets, in place of data.valid: a tuple of {"name": NAME, "dataset": FOLDER, "mapping": MAPPING},
    # or FOLDER or NAME=FOLDER. Metrics are called `valid_NAME/...`; the first set is the one to select checkpoints by.
    data.valid_sets = ()
    # Dataset folder whose split `test` is evaluated as well, as `test/...`, for reports; it selects neither checkpoints
    # nor settings. Empty: none.
    data.test = ""
    # Windows per step, over all hosts (replica, recalled: 128).
    data.batch = 128
    # Gradient accumulation: number of micro-batches per step, for less memory. Each draws its own augmentation.
    data.grad_accum_steps = 1
    # Held-out windows evaluated in parallel.
    data.valid_batch = 64
    # Frames per window (paper, code: 128), at random positions.
    data.length = 128
    # Null actions are kept: windows are contiguous (recalled).
    data.null_actions = "keep"
    # Manifest of the seconds of the training episodes to use, such as launch/filter.py writes: a Parquet table
    # (vpt_jax/data/manifest.py). Empty: all.
    data.segments = ""
    # Minutes of play to train on, of a fixed random choice of episodes; 0: all.
    data.minutes = 0.0
    # Augmentation: random colour and affine changes per window (paper; the ranges are in vpt_jax/data/augment.py).
    data.augment = True
    # Augmentation: mirror half of the windows, both frames and actions (not in the paper).
    data.mirror = False
    # Worker processes per host that read and decode; 0: none, the main process reads.
    data.workers = 8
    # Worker processes of evaluations, which are started for each evaluation.
    data.valid_workers = 8
    return data


def _initial() -> ConfigDict:
    """Differences of initial parameters from the released code (its table: tests/models/test_initial_weights.py)."""
    initial = ConfigDict()
    # The action heads' biases are the log-frequencies of the data's actions, as in configs/foundation.py (our choice).
    initial.start_at_marginal = True
    # Three in four temporal filters are initialized to the difference between two frames (our choice, for small models:
    # `temporal_difference_init` in vpt_jax/models/idm.py); False: all are random, as in the released code.
    initial.temporal_difference = False
    return initial


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    # "adam" (replica), or "muon", with which small models learn in fewer steps.
    optimizer.name = "adam"
    # Peak learning rate (replica, recalled: 0.003), reached after the warm-up, then linear decay to 0 at the last
    # step (the same).
    optimizer.learning_rate = 0.003
    # Warm-up steps (not stated in the paper).
    optimizer.warmup_steps = 1000
    # Decoupled weight decay of kernels (replica, recalled: 0.01; form: vpt_jax/training/optimizers.py).
    optimizer.weight_decay = 0.01
    # Gradient clipping by global norm (not stated in the paper).
    optimizer.clip_norm = 5.0
    return optimizer


def _demo(config: ConfigDict) -> None:
    """Settings for minutes on two cores instead of days on a cluster."""
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.remat = "none"
    # With random filters it needs several times the frames until it distinguishes left from right.
    config.initial.temporal_difference = True
    # Many short windows: consecutive frames are almost redundant.
    config.data.batch = config.data.valid_batch = 16
    config.data.length = 32
    config.data.workers = 1
    config.data.valid_workers = 0
    config.data.augment = False
    config.data.mirror = True
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 20
    config.log_every = 5
    config.evaluate_every = 275
    config.save_every = 50
    config.checkpoint.keep_every_hours = 0.0
