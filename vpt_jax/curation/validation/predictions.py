"""Predicted actions of recorded episodes: labels of another dataset, or of an inverse dynamics model that is run here.

Both come with the confidence of every label. Only the model also gives the probability of every key.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.alignment import EpisodeScorer, FrameLogProbs, selected
from vpt_jax.curation.validation.episodes import Episode, InspectionError, splits_of
from vpt_jax.data.dataset import EpisodeIndex, load_index
from vpt_jax.evaluation.scores import ScoredActions


class Predicted(NamedTuple):
    """Predicted actions of one episode."""

    episode: Episode
    actions: ScoredActions
    confidence: Float[np.ndarray, " n"]  # probability of each label, over all keys and axes
    log_probs: FrameLogProbs | None  # None: the labels were stored, without them


def recorded_actions(episode: Episode) -> ScoredActions:
    """The recorded actions of an episode."""
    rows = episode.rows
    return ScoredActions(np.asarray(episode.index.buttons[rows]), np.asarray(episode.index.camera[rows]))


def stored_predictions(labels: Path, episodes: Sequence[Episode]) -> Iterator[Predicted]:
    """The labels of a dataset, of those of the episodes that it has, by name.

    Raises:
        InspectionError: none of the episodes has labels, or has another number of frames there.
        ActionSpaceError: the labels have another action space.
    """
    found: dict[str, tuple[EpisodeIndex, int]] = {}
    for split in splits_of(labels):
        index = load_index(labels, split)
        if index.labels == "recorded":
            raise InspectionError(f"{labels}, split {split!r}, holds recorded actions: give labels of launch/label.py")
        episodes[0].index.space.require_equal(index.space, "the recorded play", str(labels))
        found |= {name: (index, number) for number, name in enumerate(index.names)}
    by_name = {episode.name: episode for episode in episodes}
    shared = [name for name in found if name in by_name]
    if not shared:
        raise InspectionError(
            f"none of the {len(found)} episodes of {labels}, such as {min(found)!r}, is among the "
            f"{len(by_name)} recorded ones, such as {min(by_name)!r}: see config.data and config.split"
        )
    for name in shared:
        index, number = found[name]
        rows, frames = index.rows(number), by_name[name].frames
        if rows.stop - rows.start != frames:
            raise InspectionError(f"{labels}: episode {name} has {rows.stop - rows.start} labels for {frames} frames")
        actions = ScoredActions(np.asarray(index.buttons[rows]), np.asarray(index.camera[rows]))
        yield Predicted(by_name[name], actions, np.asarray(index.confidence[rows]), None)


def model_predictions(
    scorer: EpisodeScorer, episodes: Sequence[Episode], space: ActionSpace, choice: str, seed: int
) -> Iterator[Predicted]:
    """Predictions of a model for the frames of all episodes; `choice` and `seed` as in configs/label.py.

    Samples are not those of launch/label.py, whose random numbers differ, but of the same distribution.
    """
    for number, episode in enumerate(episodes):
        log_probs = scorer.log_probs(episode)
        rng = np.random.default_rng((seed, number))
        keys, bins = (_chosen(rng, head, choice) for head in log_probs)
        movement = space.to_movement(bins)
        if choice == "mean":
            movement = (np.exp(log_probs.camera) * space.centres).sum(-1)
            bins = space.to_bins(movement)
        confidence = np.exp(log_likelihood(log_probs, keys, bins))
        yield Predicted(episode, ScoredActions(keys.astype(np.uint8), movement), confidence, log_probs)


def log_likelihood(
    log_probs: FrameLogProbs, keys: UInt8[np.ndarray, "n keys"] | Int, bins: Int[np.ndarray, "n axes"]
) -> Float[np.ndarray, " n"]:
    """Log-probability of an action in each frame, summed over all choices, in nats."""
    return sum(selected(head, chosen).sum(-1) for head, chosen in zip(log_probs, (keys, bins), strict=True))


def _chosen(rng: np.random.Generator, log_probs: Float[np.ndarray, "n choices classes"], choice: str) -> Int:
    if choice != "sample":
        return log_probs.argmax(-1)
    return (log_probs + rng.gumbel(size=log_probs.shape)).argmax(-1)  # Gumbel's trick: a draw from the distribution


def head_outcomes(recorded: ScoredActions, space: ActionSpace) -> Mapping[str, Int[np.ndarray, "n choices"]]:
    """The recorded class of every choice, by head."""
    return {"buttons": recorded.keys.astype(np.int64), "camera": space.to_bins(np.asarray(recorded.movement))}
