"""Effect of text on play: how much more a policy does of what it is asked for than when it is asked for other things.

The episodes of all captions have the same seeds, so they are compared in pairs: of every seed, the count when asked for
a caption minus its mean over the other captions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vpt_jax.evaluation.resampling import Figure, mean_figure

_DRAWS = 10_000  # of the permutation test


class Effect(NamedTuple):
    """Effect of a caption on a count."""

    asked: float  # mean count of an episode, asked for this caption
    others: float  # the same, asked for the other captions
    by_caption: Mapping[str, float]  # the same, asked for each
    difference: Figure  # with the bootstrap's interval over episodes
    error: float  # standard error of the difference
    p_value: float  # of the permutation test: that a difference this large arises if captions have no effect


def text_effect(counts: Mapping[str, Float[np.ndarray, " episodes"]], caption: str, seed: int = 0) -> Effect:
    """Effect of a caption on a count, from that count in the episodes of each caption, in the order of their seeds.

    The permutation test exchanges the captions of each seed's episodes, and is one-sided.

    Raises:
        ValueError: there are fewer than two captions or two episodes.
    """
    rows = np.stack([counts[caption], *(values for name, values in counts.items() if name != caption)], axis=1)
    episodes, captions = rows.shape
    if captions < 2 or episodes < 2:
        raise ValueError(f"an effect needs two captions and two episodes, not {captions} and {episodes}")
    differences = _differences(rows, np.zeros(episodes, int))
    value = float(differences.mean())
    rng = np.random.default_rng(seed)
    permuted = _differences(rows, rng.integers(captions, size=(_DRAWS, episodes))).mean(1)
    at_least = int((permuted >= value - 1e-12).sum())  # equal values may round differently
    return Effect(
        asked=float(rows[:, 0].mean()),
        others=float(rows[:, 1:].mean()),
        by_caption={name: float(values.mean()) for name, values in counts.items()},
        difference=mean_figure(differences),
        error=float(differences.std(ddof=1) / np.sqrt(episodes)),
        p_value=(1 + at_least) / (1 + _DRAWS),
    )


def _differences(
    rows: Float[np.ndarray, "episodes captions"], asked: Int[np.ndarray, "*draws episodes"]
) -> Float[np.ndarray, "*draws episodes"]:
    """Of every episode, the count of one caption minus the mean of the others."""
    chosen = rows[np.arange(len(rows)), asked]
    return chosen - (rows.sum(1) - chosen) / (rows.shape[1] - 1)
