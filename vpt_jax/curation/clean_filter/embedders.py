"""Frozen image encoders that embed pictures. `EMBEDDERS` is the registry: another encoder is another entry.

- `idm`: the image stacks of our own inverse dynamics model; its weights are a work directory of configs/idm.py.
- `clip`: the paper's encoder, CLIP's RN50x64; its weights are a local file. Nothing is downloaded.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel, TemporalConv
from vpt_jax.models.impala import DownStack
from vpt_jax.models.latent_actions import LatentIDM
from vpt_jax.system.errors import UserError
from vpt_jax.training.checkpoints import CheckpointError, load_idm
from vpt_jax.training.digests import params_digest

FINE, COARSE = 16, 8  # cells per side, over which the activations of an IDM are pooled
CLIP_MODEL, CLIP_SIZE = "RN50x64", 448


class EmbedderError(UserError, ValueError):
    """An embedder that cannot be used; the message gives the remedy."""


class Embedder(NamedTuple):
    """A frozen image encoder."""

    size: tuple[int, int]  # height and width of the frames it takes
    # Feature maps of g*g cells; a map may have one cell only.
    embed: Callable[[UInt8[np.ndarray, "n h w 3"]], list[Float[np.ndarray, "n g g c"]]]
    digest: str  # of its weights


def make_embedder(name: str, weights: str) -> Embedder:
    """Builds the embedder of this name with these weights. Raises EmbedderError if it cannot be used."""
    if name not in EMBEDDERS:
        raise EmbedderError(f"config.embedder is {name!r}; choose one of {', '.join(EMBEDDERS)}")
    if not weights:
        raise EmbedderError(f"config.weights is empty; give the weights of {name!r}: --config.weights={WEIGHTS[name]}")
    return EMBEDDERS[name](Path(weights))


def _idm(workdir: Path) -> Embedder:
    try:
        idm = load_idm(workdir)
    except (FileNotFoundError, CheckpointError) as error:
        raise EmbedderError(f"config.weights: {error}") from error
    if isinstance(idm.module, LatentIDM):
        raise EmbedderError(
            f"{workdir} holds a model on latent actions, which has no temporal convolution: see config.weights"
        )
    height, width, _ = idm.frame_shape
    if height % (2 * FINE) or width % (2 * FINE):
        raise EmbedderError(f"{workdir} takes frames of {height}x{width}; both must be divisible by {2 * FINE}")
    if not idm.module.temporal_convolution:
        raise EmbedderError(f"{workdir} has no temporal convolution, whose outputs are the finest cells: give another")
    run = jax.jit(partial(embed_by_stacks, idm.module))
    digest = params_digest(idm.params, idm.module, tuple(idm.frame_shape))
    return Embedder((height, width), lambda frames: jax.device_get(run(idm.params, frames)), digest)


def embed_by_stacks(
    idm: InverseDynamicsModel, params: Any, frames: UInt8[Array, "n h w 3"]
) -> list[Float[Array, "n g g c"]]:  # fmt: skip
    """Mean and standard deviation of every channel in every cell, after the temporal convolution and the first stack.

    Each frame is a window of its own, with black frames before and after. Later stacks are not used: their receptive
    field covers too much of the picture.
    """
    window = jnp.pad(frames[:, None], [(0, 0), (TEMPORAL_RADIUS, TEMPORAL_RADIUS), (0, 0), (0, 0), (0, 0)])
    _, captured = idm.apply(
        {"params": params}, window, method="embed", mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, TemporalConv | DownStack),
    )  # fmt: skip
    activations = captured["intermediates"]
    temporal = activations["temporal"]["__call__"][0][:, 0]
    first_stack = activations["encoder"]["stack_0"]["__call__"][0]
    return [*_cell_statistics(temporal, FINE), *_cell_statistics(first_stack, COARSE)]


def _cell_statistics(image: Float[Array, "n h w c"], cells: int) -> list[Float[Array, "n g g c"]]:
    n, h, w, c = image.shape
    parts = image.astype(jnp.float32).reshape(n, cells, h // cells, cells, w // cells, c)
    return [parts.mean((2, 4)), parts.std((2, 4))]


def _clip(weights: Path) -> Embedder:
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise EmbedderError(
            'the embedder "clip" needs open_clip: pip install -c constraints.txt -e ".[clip]"'
        ) from error
    if weights.suffix != ".safetensors" or not weights.is_file():  # other formats may execute code
        raise EmbedderError(
            f"{weights} is not a file NAME.safetensors of {CLIP_MODEL}: nothing is downloaded, put it there"
        )
    model, _, _ = open_clip.create_model_and_transforms(CLIP_MODEL, pretrained=str(weights))
    model.eval()
    mean, std = (np.array(values, np.float32) for values in (open_clip.OPENAI_DATASET_MEAN,
                                                              open_clip.OPENAI_DATASET_STD))  # fmt: skip

    def embed(frames: UInt8[np.ndarray, "n h w 3"]) -> list[Float[np.ndarray, "n 1 1 c"]]:
        pixels = (frames.astype(np.float32) / 255 - mean) / std
        with torch.no_grad():
            rows = model.encode_image(torch.from_numpy(pixels.transpose(0, 3, 1, 2))).float().numpy()
        return [rows[:, None, None]]

    return Embedder((CLIP_SIZE, CLIP_SIZE), embed, hashlib.sha256(weights.read_bytes()).hexdigest()[:16])


EMBEDDERS: dict[str, Callable[[Path], Embedder]] = {"idm": _idm, "clip": _clip}
WEIGHTS = {"idm": "WORKDIR, of a run of configs/idm.py", "clip": "FILE.safetensors"}
