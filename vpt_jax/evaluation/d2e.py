"""D2E's metrics of inverse dynamics: Pearson correlation and scale ratio of the mouse, count accuracy of keys.

By the definition of the authors' evaluation (`evaluate.py` of github.com/worv-ai/D2E, commit 06825f2, which names
section F.2 of arXiv 2510.05684): time is cut into bins of 50 ms, which is a frame at 20 Hz.

- Mouse: movements are summed in each bin. The Pearson correlation is over the bins in which the recording or the
  prediction moves, along any axis; the scale ratio is the ratio of the mean absolute movements over all bins, inverted
  if below 1. Both have no unit, so degrees serve as well as their counts of the mouse.
- Keys and mouse buttons: presses and releases are counted in each bin. Of every key and kind of event that occurs in a
  bin, recorded or predicted, the counts are equal or not; accuracy is the share of equal ones. Empty bins do not count.

What differs here: a dataset stores which keys are held in a frame, so there is at most one press or release in a bin,
and no repeats of held keys, which their recordings may have; and episodes are pooled, where they score single files.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.events import key_changes, previous

_MINERL_BUTTONS = ("attack", "use")  # left and right mouse button in Minecraft's default controls
_NEGLIGIBLE = 1e-12  # variance, as a share of the mean square


class D2ETotals(NamedTuple):
    """Sums over bins, which add up over episodes."""

    moving: Int[np.ndarray, ""]  # bins in which the recording or the prediction moves; the next five are over them
    recorded: Float[np.ndarray, " axes"]
    predicted: Float[np.ndarray, " axes"]
    recorded_squares: Float[np.ndarray, " axes"]
    predicted_squares: Float[np.ndarray, " axes"]
    products: Float[np.ndarray, " axes"]
    recorded_size: Float[np.ndarray, " axes"]  # absolute movement, over all bins
    predicted_size: Float[np.ndarray, " axes"]
    equal: Int[np.ndarray, " keys"]  # bins and kinds of event that occur in either, with equal counts
    either: Int[np.ndarray, " keys"]  # bins and kinds of event that occur in either


def d2e_totals(
    predicted_keys: UInt8[np.ndarray, "n keys"],
    predicted_movement: Float[np.ndarray, "n axes"],
    recorded_keys: UInt8[np.ndarray, "n keys"],
    recorded_movement: Float[np.ndarray, "n axes"],
    given_previous: bool = False,
) -> D2ETotals:
    """Sums of one episode, a bin for every frame; `given_previous` as in `events.event_totals`."""
    before = previous(recorded_keys)
    true = key_changes(recorded_keys, before)
    guessed = key_changes(predicted_keys, before if given_previous else previous(predicted_keys))
    either = true | guessed
    r, p = np.asarray(recorded_movement, np.float64), np.asarray(predicted_movement, np.float64)
    moving = ((p != 0) | (r != 0)).any(-1)
    x, y = r[moving], p[moving]
    return D2ETotals(
        moving=moving.sum(), recorded=x.sum(0), predicted=y.sum(0),
        recorded_squares=(x**2).sum(0), predicted_squares=(y**2).sum(0), products=(x * y).sum(0),
        recorded_size=np.abs(r).sum(0), predicted_size=np.abs(p).sum(0),
        equal=((true == guessed) & either).sum((0, 1)), either=either.sum((0, 1)),
    )  # fmt: skip


def mouse_buttons(space: ActionSpace) -> tuple[str, ...]:
    """Keys of a space that are mouse buttons: "mouse.left" and the like, and in MineRL's space `attack` and `use`."""
    named = tuple(key for key in space.keys if key.startswith("mouse."))
    return named or (_MINERL_BUTTONS if space.keys == MINERL.keys else ())


def compute_d2e_metrics(
    space: ActionSpace, totals: D2ETotals, buttons: Sequence[str] | None = None
) -> dict[str, float]:
    """Computes D2E's metrics; one that is not defined is NaN, as their null.

    - `pearson/AXIS`, `scale_ratio/AXIS` (1 is best; infinite if only the recording does not move).
    - `count_accuracy/keys`, `count_accuracy/buttons`: of the keyboard and of mouse buttons (`buttons`; None:
      `mouse_buttons`); `count_accuracy/KEY` of each that occurs.
    """
    totals = D2ETotals(*(np.asarray(field, np.float64) for field in totals))
    figures = _movement_figures(totals, space)
    is_button = np.isin(space.keys, list(mouse_buttons(space) if buttons is None else buttons))
    for name, members in (("keys", ~is_button), ("buttons", is_button)):
        figures[f"count_accuracy/{name}"] = _ratio(totals.equal[members].sum(), totals.either[members].sum())
    used = np.flatnonzero(totals.either)
    return figures | {f"count_accuracy/{space.keys[i]}": _ratio(totals.equal[i], totals.either[i]) for i in used}


def _movement_figures(totals: D2ETotals, space: ActionSpace) -> dict[str, float]:
    count = max(float(totals.moving), 1.0)
    x, y = totals.recorded / count, totals.predicted / count
    x2, y2 = totals.recorded_squares / count, totals.predicted_squares / count
    variances = np.maximum(x2 - x**2, 0), np.maximum(y2 - y**2, 0)
    defined = (variances[0] > _NEGLIGIBLE * x2) & (variances[1] > _NEGLIGIBLE * y2) & (totals.moving > 1)
    scale = np.sqrt(np.where(defined, variances[0] * variances[1], 1))
    pearson = np.where(defined, (totals.products / count - x * y) / scale, np.nan)
    figures = {}
    for i, axis in enumerate(space.axes):
        figures[f"pearson/{axis.name}"] = float(pearson[i])
        figures[f"scale_ratio/{axis.name}"] = _scale_ratio(totals.recorded_size[i], totals.predicted_size[i])
    return figures


def _scale_ratio(recorded: float, predicted: float) -> float:
    if not predicted:
        return float("nan")
    return float(max(recorded / predicted, predicted / recorded)) if recorded else float("inf")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
