"""All metrics of predicted actions against recorded ones: of frames, of events, and D2E's; with trivial baselines."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.d2e import D2ETotals, compute_d2e_metrics, d2e_totals
from vpt_jax.evaluation.events import EventTotals, compute_event_metrics, event_totals, previous
from vpt_jax.evaluation.metrics import Prediction, Totals, compute_metrics, compute_totals
from vpt_jax.evaluation.resampling import Figure, figures_with_intervals


class ScoredActions(NamedTuple):
    """Actions of one episode's frames."""

    keys: UInt8[np.ndarray, "n keys"]  # 1 where held
    movement: Float[np.ndarray, "n axes"]  # of each axis, in its unit


class EpisodeScores(NamedTuple):
    """Sums of one episode, which add up over episodes."""

    frames: Totals
    events: EventTotals  # found within one frame
    exact_events: EventTotals  # found in their frame
    d2e: D2ETotals


def score_actions(
    space: ActionSpace,
    predicted: ScoredActions,
    recorded: ScoredActions,
    given_previous: bool = False,
    loss: Float[np.ndarray, " n"] | None = None,
) -> EpisodeScores:
    """Scores the predicted actions of one episode.

    Args:
        space: of the actions.
        predicted: of all frames.
        recorded: of the same frames.
        given_previous: the predictor sees the recorded action of the previous frame (`events.event_totals`).
        loss: nats of the recorded action in each frame; None: the loss is NaN.
    """
    count = len(recorded.keys)
    losses = np.full(count, np.nan) if loss is None else loss
    prediction = Prediction(losses, predicted.keys, predicted.movement)
    movement = np.asarray(recorded.movement)
    return EpisodeScores(
        compute_totals(space, prediction, recorded.keys, movement, np.ones(count, bool)),
        event_totals(predicted.keys, recorded.keys, given_previous=given_previous),
        event_totals(predicted.keys, recorded.keys, tolerance=0, given_previous=given_previous),
        d2e_totals(predicted.keys, predicted.movement, recorded.keys, movement, given_previous),
    )


def baseline_scores(space: ActionSpace, recorded: ScoredActions) -> dict[str, EpisodeScores]:
    """Scores of two predictors that see no frame: nothing held and no movement; and the previous recorded action."""
    centred = space.to_movement(space.to_bins(np.asarray(recorded.movement)))
    still = np.zeros_like(centred[:1])
    repeated = ScoredActions(previous(recorded.keys), np.concatenate([still, centred[:-1]]))
    released = ScoredActions(np.zeros_like(recorded.keys), np.zeros_like(recorded.movement))
    return {
        "released": score_actions(space, released, recorded),
        "repeat": score_actions(space, repeated, recorded, given_previous=True),
    }


def compute_scores(space: ActionSpace, scores: EpisodeScores) -> dict[str, float]:
    """All figures by name: those of `compute_metrics` and `compute_event_metrics`, and D2E's as `d2e/NAME`.

    `event_f1/mean` and the others of events are of those found within one frame; `exact_event_f1` and
    `exact_event_f1/mean` of those found in their own.
    """
    exact = compute_event_metrics(space, scores.exact_events)
    d2e = compute_d2e_metrics(space, scores.d2e)
    return {
        **compute_metrics(space, scores.frames),
        **compute_event_metrics(space, scores.events),
        **{f"exact_{name}": exact[name] for name in ("event_f1", "event_f1/mean")},
        **{f"d2e/{name}": value for name, value in d2e.items()},
    }


def score_figures(space: ActionSpace, episodes: Sequence[EpisodeScores], draws: int = 1000) -> Mapping[str, Figure]:
    """All figures of some episodes with 95% intervals, by bootstrap over episodes."""
    return figures_with_intervals(episodes, lambda totals: compute_scores(space, totals), draws=draws)
