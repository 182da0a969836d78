"""Batch of frames and actions that a training step reads.

In a module of its own, because a train step needs this type but no dataset.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8


class Batch(NamedTuple):
    """Frames of one step with their actions; each of the `b` rows continues its own stream from step to step."""

    frames: UInt8[np.ndarray, "b t h w 3"]  # or embeddings of them, float [b, t, f] (data/embeddings.py)
    buttons: UInt8[np.ndarray, "b t keys"]
    camera: Float[np.ndarray, "b t axes"]  # movement per step, in the axes' units
    first: Bool[np.ndarray, "b t"]  # first frame of an episode or of a row: resets the recurrent memory (KV cache)
    valid: Bool[np.ndarray, "b t"]  # loss mask
    # Embeddings of the captions, zeros where there is none (data/text_tables.py); None: the model reads no text.
    text: Float[np.ndarray, "b t e"] | None = None


def combine(join: Callable[[Sequence[np.ndarray]], np.ndarray], batches: Sequence[Batch]) -> Batch:
    """Joins several batches field by field, by a function such as `np.stack`; a field that is None stays None."""
    fields = zip(*batches, strict=True)
    return Batch(*(None if field[0] is None else join(field) for field in fields))  # type: ignore[arg-type]
