"""What training reads at a step; alone in its file, since a train step needs it and no dataset."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8


class Batch(NamedTuple):
    """One step's frames with their actions; `b` rows are `b` streams."""

    frames: UInt8[np.ndarray, "b t h w 3"]  # or embeddings of them, float [b, t, f] (data/embeddings.py)
    buttons: UInt8[np.ndarray, "b t 20"]
    camera: Float[np.ndarray, "b t 2"]  # degrees per step: pitch, yaw
    first: Bool[np.ndarray, "b t"]  # the first frame of an episode or of a run: nothing before it is remembered
    valid: Bool[np.ndarray, "b t"]  # counts in the loss
