"""The foundation policy: behavioural cloning of a causal policy on recorded or pseudo-labelled play (paper, sec. 4.2).

    python launch/train.py --config=configs/foundation.py:500m --config.data.train=DATASET --config.workdir=FOLDER

The paper trained the 0.5B policy for 30 epochs of 70,000 hours on 720 V100 GPUs in about 9 days (194,000 frames/s).
Values are marked with their source: (paper), (code), (replica), (recalled), as docs/sources.md explains; all others
are our choice.

Variants: `:500m` (default), `:248m` and `:71m`, the paper's three sizes; `:20m`, `:5m` and `:1m`, our own for one small
GPU (docs/sizes.md); and `:demo`, a small policy for two CPU cores, which configs/demo.py trains in minutes on
recordings of the embedded game. A machine's name after a comma, such as `:500m,v5e-256`, sets mesh and batch for that
machine (MACHINES below); for our own sizes, `:5m,cpu` is for training without a GPU. The frames' size is the dataset's
(`height` and `width` of configs/prepare.py): 128x128 (paper), and 64x64 suffices for our own.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import base

PRESETS = {"500m": "3x", "248m": "2x", "71m": "1x", "20m": "20m", "5m": "5m", "1m": "1m", "demo": "tiny"}
# By type and number of chips. The paper's batch of 880 = 16 x 5 x 11 is not divisible by 128 or 256; docs/scale.md has
# the layouts that keep it. 896 and 1,024 are 2% and 16% more, at the same learning rate: our choice, and not tested.
MACHINES: dict[str, dict[str, int | str]] = {
    "gpu": {"data.grad_accum_steps": 220, "data.valid_batch": 8},
    "gpu-8": {"mesh.data": 8, "mesh.fsdp": 1, "data.grad_accum_steps": 22},
    "v5e-256": {
        "mesh.data": 16, "mesh.fsdp": 16, "data.batch": 1024, "data.valid_batch": 256, "model.remat": "stacks",
    },
    "v5p-128": {"mesh.data": 16, "mesh.fsdp": 8, "data.batch": 896, "data.valid_batch": 128, "model.remat": "none"},
    "v6e-256": {
        "mesh.data": 16, "mesh.fsdp": 16, "data.batch": 1024, "data.valid_batch": 256, "model.remat": "stacks",
    },
}  # fmt: skip
# Sizes for which another layout of the same machine is faster and fits, by the compiler's estimate (docs/scale.md).
FASTER: dict[tuple[str, str], dict[str, int | str]] = {
    ("71m", "v5e-256"): {"model.remat": "none"},
    ("248m", "v5e-256"): {"model.remat": "none"},
    ("500m", "v5e-256"): {"model.remat": "none", "data.grad_accum_steps": 2},
}


def get_config(variant: str = "500m") -> ConfigDict:
    size, layout = base.split_variant("foundation.py", variant, PRESETS, MACHINES)
    config = base.get_config("policy", f"runs/foundation-{size}")
    config.model = _model(PRESETS[size])
    config.data = _data()
    config.optimizer = _optimizer()
    config.initial = _initial()
    # Frozen parameters, which keep the values of config.init_from: a regular expression, such as "^encoder/", that is
    # searched in their paths (sharding.txt of a run lists them). Empty: all parameters are trained.
    config.frozen_pattern = ""

    # Passes over the training data (paper: 30).
    config.epochs = 30.0

    if size in base.SMALL:
        base.set_small(config, learning_rate=3e-4)
    elif size == "demo":
        _demo(config)
    config.update_from_flattened_dict(layout)
    config.update_from_flattened_dict(FASTER.get((size, variant.partition(",")[2]), {}))
    return config


def _model(preset: str) -> ConfigDict:
    model = ConfigDict()
    # Size of the policy, from vpt_jax/models/presets.py.
    model.preset = preset
    # Divides the logits. In OpenAI's files (code), 1x has 1, and 2x, which foundation, early-game and RL weights share,
    # has 2: initializing from one of these needs --config.model.temperature=2, and is an error otherwise.
    model.temperature = 1.0
    # Action head: "joint" (paper), a class for every combination of keys that exclude each other or not; "factored",
    # every key and axis on its own (the paper's comparison); or "autoregressive", every key depends on those before it
    # (ours), for action spaces with too many combinations.
    model.head = "joint"
    # Size of the text embeddings that the policy takes for each frame: that of data.text_embedder (docs/text.md; the
    # paper's appendix I, as recalled, used OpenAI's embedding service). 0: it reads no text. A policy with text that is
    # initialized from one without starts exactly at it.
    model.text_features = 0
    # Share of the windows that are trained without their text, so that the policy can act without one, and guidance can
    # compare both (our choice).
    model.text_dropout = 0.1
    # Computation dtype; parameters, norms and softmax are always float32.
    model.dtype = "bfloat16"
    # Rematerialization (gradient checkpointing) of the image stacks (vpt_jax/models/remat.py): "none"; "convolutions",
    # keep their outputs and compute the rest again; "stacks", compute all again: the least memory, a third more
    # arithmetic; or "auto", the first of these whose compiled step fits into the device's memory. The gradient is equal
    # up to rounding, so a run may resume with another.
    model.remat = "auto"
    return model


def _data() -> ConfigDict:
    data = ConfigDict()
    # Dataset folders made by launch/prepare.py; the split `train` of the first and `valid` of the second are read.
    data.train = "data/foundation"
    data.valid = "data/foundation"
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
    # Streams trained in parallel, over all hosts (paper: 880).
    data.batch = 880
    # Gradient accumulation: number of micro-batches per step, for less memory; the gradient is the same.
    data.grad_accum_steps = 1
    # Streams evaluated in parallel: fewer, since each starts with an empty memory.
    data.valid_batch = 80
    # Frames per window (code: 128). Transformer-XL memory is carried from window to window.
    data.length = 128
    # Null actions (after binning of the camera): "drop" the steps (code), "drop_3" or "drop_21", drop only runs of at
    # least so many (the paper's comparison, recalled), "mask" their loss, or "keep" them.
    data.null_actions = "drop"
    # Manifest of the seconds of the training episodes to use, such as launch/filter.py writes: a Parquet table
    # (vpt_jax/data/manifest.py). Empty: all.
    data.segments = ""
    # Minutes of play to train on, of a fixed random choice of episodes; 0: all.
    data.minutes = 0.0
    # Masks the loss of training frames whose label has a lower confidence: the probability that the inverse dynamics
    # model gives to the whole label, all keys and the camera. The frames stay in the policy's memory. 0: every label
    # counts (paper). `launch/data.py score` finds the confidence that keeps a chosen precision.
    data.min_confidence = 0.0
    # Cache folder for the outputs of config.init_from's image stacks for all frames: the stacks are then frozen, and
    # not computed in a step, so that a small machine can tune the rest. Empty: none, stacks are computed in every step.
    data.embeddings = ""
    # Embedder of the datasets' captions (vpt_jax/data/text_embedders.py): "hashed" (256 features, no download), or the
    # folder of a sentence-embedding model. Needs model.text_features. Empty: captions are not read.
    data.text_embedder = ""
    # Worker processes per host that read and decode; 0: none, the main process reads. Each holds two of the host's
    # batches in shared memory: 11 GB if one host reads all 880 rows of 128x128.
    data.workers = 8
    # Worker processes of evaluations, which are started for each evaluation.
    data.valid_workers = 8
    return data


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    # "adam" (recalled; code for fine-tuning), or "muon", with which small models learn in fewer steps.
    optimizer.name = "adam"
    # Peak learning rate (paper: 0.002147), reached after the warm-up, then linear decay to 0 at the last step
    # (recalled).
    optimizer.learning_rate = 0.002147
    # Warm-up steps (not stated in the paper).
    optimizer.warmup_steps = 1000
    # Decoupled weight decay of kernels (paper: 0.0625; see vpt_jax/training/optimizers.py).
    optimizer.weight_decay = 0.0625
    # Gradient clipping by global norm: the value of OpenAI's script for fine-tuning; that of pretraining is not known.
    optimizer.clip_norm = 5.0
    return optimizer


def _initial() -> ConfigDict:
    """Differences of initial parameters from the released code (its table: tests/models/test_initial_weights.py)."""
    initial = ConfigDict()
    # The action heads' biases are the log-frequencies of the data's actions, and not zero (released code): our choice
    # at every size. It only saves the first steps, which would learn these frequencies; and a small policy above a
    # learning rate of 3e-4 (ours: 2e-3) learns them through its features, and does not recover from that.
    initial.start_at_marginal = True
    return initial


def _demo(config: ConfigDict) -> None:
    """Settings for minutes on two cores instead of days on a cluster."""
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.remat = "none"
    # Twice as long as the memory: in shorter windows, gradients do not reach as far back as the memory does.
    config.data.length = 32
    config.data.batch = config.data.valid_batch = 16
    config.data.workers = 1
    config.data.valid_workers = 0
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 30
    config.steps = 800
    config.log_every = 5
    config.evaluate_every = 100  # few data: the policy overfits soon, and the best evaluation counts
    config.save_every = 100
    config.checkpoint.keep_every_hours = 0.0
