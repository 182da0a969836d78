"""The foundation policy: behavioural cloning of a causal policy on recorded or pseudo-labelled play (paper, sec. 4.2).

    python launch/train.py --config=configs/foundation.py:500m --config.data.train=DATASET --config.workdir=FOLDER

The paper trained the 0.5B policy for 30 epochs of 70,000 hours on 720 V100 GPUs in about 9 days (194,000 frames/s).
Values are marked with where they are from: (paper), (code), (replica), (recalled), as docs/sources.md explains; all
others are our choice.

Variants: `:500m` (default), `:248m` and `:71m`, the paper's three sizes, and `:demo`, a small policy for two CPU cores,
which configs/demo.py trains in minutes on recordings of the embedded game. With a machine's name after a comma, such as
`:500m,v5e-256`, mesh and batch suit that machine (MACHINES below).
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

PRESETS = {"500m": "3x", "248m": "2x", "71m": "1x", "demo": "tiny"}
# By kind and number of chips. The paper's batch of 880 = 16 x 5 x 11 does not divide 128 or 256; docs/scale.md has the
# layouts that keep it. 896 and 1,024 are 2% and 16% more, at the same learning rate: our choice, and not tried.
MACHINES = {
    "gpu": {"data.parts": 110, "data.valid_batch": 8},
    "gpu-8": {"mesh.data": 1, "mesh.fsdp": 8, "data.parts": 22},
    "v5e-256": {"mesh.data": 16, "mesh.fsdp": 16, "data.batch": 1024, "data.valid_batch": 256},
    "v5p-128": {"mesh.data": 16, "mesh.fsdp": 8, "data.batch": 896, "data.valid_batch": 128, "model.remat": False},
    "v6e-256": {"mesh.data": 16, "mesh.fsdp": 16, "data.batch": 1024, "data.valid_batch": 256},
}


def get_config(variant: str = "500m") -> ConfigDict:
    base = runpy.run_path(str(Path(__file__).with_name("base.py")))
    size, layout = base["split_variant"]("foundation.py", variant, PRESETS, MACHINES)
    config = base["get_config"]("policy", f"runs/foundation-{size}")
    config.model = _model(PRESETS[size])
    config.data = _data()
    config.optimizer = _optimizer()
    config.initial = _initial()
    # Parameters that stay as config.init_from has them: a regular expression, such as "^encoder/", that is looked for
    # in their paths (sharding.txt of a run lists them). Empty: all are trained.
    config.frozen = ""

    # Passes over the training data (paper: 30).
    config.epochs = 30.0

    if size == "demo":
        _demo(config)
    config.update_from_flattened_dict(layout)
    return config


def _model(preset: str) -> ConfigDict:
    model = ConfigDict()
    # Size of the policy, from vpt_jax/models/presets.py.
    model.preset = preset
    # Divides the logits. Of OpenAI's files (code), 1x has 1, and 2x, which foundation, early-game and RL weights share,
    # has 2: going on from one of these needs --config.model.temperature=2, and is refused otherwise.
    model.temperature = 1.0
    # What to compute in; parameters, norms and softmax are float32 always.
    model.dtype = "bfloat16"
    # Recompute the image stacks in the backward pass: less memory, about a third more work.
    model.remat = True
    return model


def _data() -> ConfigDict:
    data = ConfigDict()
    # Dataset folders made by launch/prepare.py; the split `train` of the first and `valid` of the second are read.
    data.train = "data/foundation"
    data.valid = "data/foundation"
    # Dataset folder whose split `test` is evaluated as well, as `test/...`: figures to report, of play by which neither
    # a checkpoint nor a setting is chosen. Empty: none.
    data.test = ""
    # Streams trained in parallel, over all hosts (paper: 880).
    data.batch = 880
    # Parts that a step works through one after the other, for less memory: its gradient is the same.
    data.parts = 1
    # Streams evaluated in parallel: fewer, since each begins with an empty memory.
    data.valid_batch = 80
    # Frames per window (code: 128). Memory is carried from window to window.
    data.length = 128
    # Steps that do nothing once binned: "drop" them (code), "mask" their loss, or "keep" them.
    data.nulls = "drop"
    # Manifest of the seconds of the training episodes to use, such as launch/filter.py writes: a Parquet table
    # (vpt_jax/data/manifest.py). Empty: all there is.
    data.segments = ""
    # Minutes of play to train on, of episodes drawn once and for all; 0: all there is.
    data.minutes = 0.0
    # Folder where what the image stacks of config.init_from make of all frames is kept: they are then frozen, and no
    # part of a step, so that a small machine can tune the rest. Empty: none, frames are looked at in every step.
    data.embeddings = ""
    # Processes per host that read and decode; 0: none, the main process does it. Each holds two of the host's batches
    # in shared memory: 11 GB if one host reads all 880 rows of 128x128.
    data.workers = 8
    # The same for every evaluation, which starts them anew.
    data.valid_workers = 8
    return data


def _optimizer() -> ConfigDict:
    optimizer = ConfigDict()
    # "adam" (recalled; code for fine-tuning), or "muon", with which small models learn in fewer steps.
    optimizer.name = "adam"
    # Peak learning rate (paper: 0.002147), reached after the warm-up, and falling to 0 at the end on a straight line
    # (recalled).
    optimizer.learning_rate = 0.002147
    # Steps of warm-up (the paper does not say).
    optimizer.warmup_steps = 1000
    # Decoupled weight decay of kernels (paper: 0.0625; see vpt_jax/training/optimizers.py).
    optimizer.weight_decay = 0.0625
    # Largest global gradient norm: what OpenAI's script for fine-tuning has; what pretraining had is not known.
    optimizer.clip_norm = 5.0
    return optimizer


def _initial() -> ConfigDict:
    """Differences of initial parameters from the released code's (its table: tests/models/test_initial_weights.py)."""
    initial = ConfigDict()
    # The action heads' biases are the log-frequencies of the data's actions, and not zero (released code): our choice
    # at every size. It only spares the first steps, which would learn these frequencies; and a small policy above a
    # learning rate of 3e-4 (ours: 2e-3) never gets over learning them through its features.
    initial.start_at_marginal = True
    return initial


def _demo(config: ConfigDict) -> None:
    """Minutes on two cores instead of days on a cluster; what differs is set here."""
    config.model.dtype = "float32"  # CPUs have no fast bfloat16
    config.model.remat = False
    # Twice as long as the memory: shorter, and gradients do not reach what the memory is for.
    config.data.length = 32
    config.data.batch = config.data.valid_batch = 16
    config.data.workers = 1
    config.data.valid_workers = 0
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 30
    config.steps = 800
    config.log_every = 5
    config.evaluate_every = 100  # few data are soon known by heart: the best evaluation counts
    config.save_every = 100
    config.checkpoint.keep_every_hours = 0.0
