"""Fine-tune a foundation policy on recordings of your own by behavioural cloning (paper, section 4.3 and appendix F).

    python launch/train.py --config=configs/fine_tuning.py:71m --config.init_from=runs/foundation-1x \
        --config.data.train=DATASET --config.data.valid=DATASET --config.workdir=runs/tuned

`init_from` is the work directory of a training run, or of a released model imported by launch/import_weights.py. On a
small machine, add --config.data.embeddings=FOLDER: the image stacks are then frozen, and applied to every frame only
once. configs/house.py and configs/early_game.py are the paper's two runs. A released 2x model needs
--config.model.temperature=2 (configs/foundation.py); docs/sources.md explains the marks of the values.

Variants: `:500m`, `:248m` (default: the size whose fine-tuned weights are released, and that reinforcement learning
uses; the paper's figures of fine-tuning are, as recalled, of the 0.5B model) and `:71m`, the paper's sizes; and
`:20m`, `:5m`, `:1m` and `:demo`, as in configs/foundation.py.
"""

from ml_collections import ConfigDict

from vpt_jax.configs import foundation


def get_config(variant: str = "248m", name: str = "fine-tuned") -> ConfigDict:
    if variant not in foundation.PRESETS:
        sizes = ", ".join(foundation.PRESETS)
        raise ValueError(f"configs/fine_tuning.py has no variant {variant!r}; choose one of {sizes}")
    config = foundation.get_config(variant)
    config.workdir = f"runs/{name}"
    config.init_from = f"runs/foundation-{foundation.PRESETS[variant]}"
    config.data.train = config.data.valid = f"data/{name}"

    config.steps = 0
    # Passes over the data (code: OpenAI's script for demonstration).
    config.epochs = 2.0
    # Streams trained in parallel (recalled: 16).
    config.data.batch = config.data.valid_batch = 16
    # These values are from OpenAI's script for demonstration (code); it has no warm-up, and no schedule.
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.000181
    config.optimizer.weight_decay = 0.039428
    config.optimizer.clip_norm = 5.0
    config.optimizer.warmup_steps = 0
    config.evaluate_every = config.save_every = 500
    return config
