"""Named model sizes. The policies of the paper are 1x (71M parameters), 2x (248M) and 3x (0.5B); its IDM has 0.5B.

`1m`, `5m` and `20m`, for a small GPU, are ours: about so many parameters at 64x64, in the paper's proportions of widths
and blocks. The number depends on the frames' size (the dense layer after the image stacks) and, for policies, on the
action space: of 1m's, half are in the head of MineRL's 8,641 joint classes. `tiny` learns a small game on two CPU
cores. `nano` is for trying out a setup and for tests: it compiles in seconds.

1x, 2x and the IDM match OpenAI's released files. For 3x the image stacks are known from a released file, and the number
of heads is extrapolated from the others. The paper's text gives the IDM four blocks and 64, 128 and 128 channels, 0.84
billion parameters, and states 0.5 billion; the released IDM has two and 256, 512 and 512, and 0.48 billion. `paper` is
the released one, `paper_text` that of the text.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.latent_actions import LatentActionModel, LatentIDM
from vpt_jax.models.policy import Policy
from vpt_jax.models.remat import stored_remat

DTYPES = ("float32", "bfloat16")
POLICIES: dict[str, dict[str, Any]] = {
    "nano": dict(widths=(8,), features=128, heads=4, layers=1, memory_length=8),
    "tiny": dict(widths=(8, 16, 32), features=128, heads=4, layers=2, memory_length=16),
    "1m": dict(widths=(8, 16, 16), features=64, heads=2),
    "5m": dict(widths=(32, 64, 64), features=192, heads=3),
    "20m": dict(widths=(48, 96, 96), features=512, heads=8),
    "1x": dict(widths=(64, 128, 128), features=1024, heads=8),
    "2x": dict(widths=(128, 256, 256), features=2048, heads=16),
    "3x": dict(widths=(192, 384, 384), features=3072, heads=24),
}
IDMS: dict[str, dict[str, Any]] = {
    "nano": dict(temporal_features=8, widths=(8,), features=64, heads=2, layers=1),
    "tiny": dict(temporal_features=32, widths=(32, 64), features=256, heads=4, layers=1),
    "1m": dict(temporal_features=32, widths=(16, 32, 32), features=128, heads=4),
    "5m": dict(temporal_features=32, widths=(32, 64, 64), features=384, heads=6),
    "20m": dict(temporal_features=64, widths=(64, 128, 128), features=768, heads=12),
    "paper": dict(temporal_features=128, widths=(256, 512, 512), features=4096, heads=32),
    "paper_text": dict(temporal_features=128, widths=(64, 128, 128), features=4096, heads=32, layers=4),
}
# Encoders of latent actions. LAPA has four choices among eight codes (recalled), Genie one.
_LATENT_ENCODERS: dict[str, dict[str, Any]] = {
    "nano": dict(widths=(8,), tokens=2, codes=4, code_features=4),
    "tiny": dict(widths=(16, 32), tokens=4, codes=8, code_features=16),
    "full": dict(widths=(64, 128, 128), tokens=4, codes=8, code_features=32),
}
# With a decoder, for frames of at least 8x8, 16x16 and 128x128.
LATENT_ACTIONS: dict[str, dict[str, Any]] = {
    "nano": dict(decoder_features=8, decoder_blocks=1, patch=4, **_LATENT_ENCODERS["nano"]),
    "tiny": dict(decoder_features=32, decoder_blocks=2, patch=2, **_LATENT_ENCODERS["tiny"]),
    "full": dict(decoder_features=256, decoder_blocks=6, patch=8, **_LATENT_ENCODERS["full"]),
}
# With what maps codes to actions: of `nano` and `tiny` the transformer of the IDM of the same name.
LATENT_IDMS: dict[str, dict[str, Any]] = {
    "nano": dict(temporal_features=8, features=64, heads=2, layers=1, **_LATENT_ENCODERS["nano"]),
    "tiny": dict(temporal_features=128, features=256, heads=4, layers=1, **_LATENT_ENCODERS["tiny"]),
    "full": dict(temporal_features=1024, features=1024, heads=8, **_LATENT_ENCODERS["full"]),
}


TEXT_DEFAULTS: dict[str, Any] = {"text_features": 0, "text_dropout": 0.0}  # configs of earlier versions have none


def make_policy(model: Mapping[str, Any], space: ActionSpace = MINERL) -> Policy:
    """Build the policy described by `config.model` (configs/foundation.py, configs/rl_doom.py), for a space."""
    options = _options(model) | dict(aux_value=model.get("aux_value", False), head=policy_head(model), space=space)
    if model.get("text_features"):  # without it, the dropout of the text has no meaning
        options |= {name: model[name] for name in TEXT_DEFAULTS}
    return Policy(**POLICIES[model["preset"]], **options)


def policy_head(model: Mapping[str, Any]) -> str:
    """Name of the action head; configs of earlier versions do not name it."""
    return model.get("head", "joint")


def make_idm(model: Mapping[str, Any], space: ActionSpace = MINERL) -> InverseDynamicsModel:
    """Build the inverse dynamics model described by `config.model` (configs/idm.py), for a space."""
    options = _options(model) | dict(temporal_convolution=model.get("temporal_convolution", True))
    return InverseDynamicsModel(**IDMS[model["preset"]], use_last=model["use_last"], space=space, **options)


def make_latent_actions(model: Mapping[str, Any], space: ActionSpace = MINERL) -> LatentActionModel:
    """Build the model of latent actions described by `config.model` (configs/latent_actions.py), for any space."""
    del space
    options = dict(remat=stored_remat(model["remat"]), dtype=jnp.dtype(model["dtype"]))
    return LatentActionModel(**LATENT_ACTIONS[model["preset"]], **options)


def make_latent_idm(model: Mapping[str, Any], space: ActionSpace = MINERL) -> LatentIDM:
    """Build the model of actions from latent actions described by `config.model` (configs/latent_idm.py)."""
    return LatentIDM(**LATENT_IDMS[model["preset"]], use_last=model["use_last"], space=space, **_options(model))


def _options(model: Mapping[str, Any]) -> dict[str, Any]:
    return dict(temperature=model["temperature"], remat=stored_remat(model["remat"]), dtype=jnp.dtype(model["dtype"]))
