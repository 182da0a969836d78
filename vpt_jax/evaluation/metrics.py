"""Metrics of action prediction on held-out data: NLL, accuracy, F1 of keys, R2 of the mouse; sums over frames."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.resampling import figures_with_intervals

if TYPE_CHECKING:  # a train step needs no dataset
    from vpt_jax.data.dataset import EpisodeIndex

COMMON_SHARE = 0.01  # a button counts in the mean F1 if it is held in more than this share of the frames


class Prediction(NamedTuple):
    """Predicted actions (the most probable ones, unless noted otherwise), and the loss of the recorded ones."""

    loss: Float[Array, "..."]  # nats
    buttons: UInt8[Array, "... keys"]
    camera: Float[Array, "... axes"]  # movement per step, in the axes' units


# A model's predictions on a batch, of actions a `Prediction`: (params, memory, batch) -> prediction, new memory
Predict = Callable[[Any, Any, Batch], tuple[Any, Any]]


class Measure(NamedTuple):
    """Metrics of a model's predictions, by way of sums over frames."""

    zero: Callable[[], Any]  # totals of no frame
    totals: Callable[[Any, Batch], Any]  # prediction and batch -> totals, which add up over batches
    compute: Callable[[Any], dict[str, float]]  # totals on the host -> metrics


class Totals(NamedTuple):
    """Sums over frames, from which all metrics follow. Movement is clipped to the bins' range (MineRL: 10 degrees)."""

    loss: Float[Array, ""]  # nats
    frames: Int[Array, ""]
    hits: Int[Array, " keys"]  # true positives: predicted down, and down
    predicted: Int[Array, " keys"]  # predicted down
    pressed: Int[Array, " keys"]  # down
    exact: Int[Array, ""]  # frames with all buttons right
    axis_hits: Int[Array, " axes"]  # frames with the right bin
    camera_hits: Int[Array, ""]  # frames with all bins right
    moving: Int[Array, ""]  # frames in which the camera moves
    moving_hits: Int[Array, ""]  # of these, with all bins right
    degrees: Float[Array, " axes"]  # movement, in the axes' units
    squares: Float[Array, " axes"]  # of the movement
    errors: Float[Array, " axes"]  # squared errors: of predicted minus recorded movement


def compute_totals(
    space: ActionSpace,
    prediction: Prediction,
    buttons: UInt8[Array, "... keys"],
    camera: Float[Array, "... axes"],
    valid: Bool[Array, "..."],
) -> Totals:
    """Totals of some frames, given the recorded buttons and camera; only `valid` frames count."""
    frames = tuple(range(valid.ndim))
    predicted, pressed = ((keys > 0) & valid[..., None] for keys in (prediction.buttons, buttons))
    bins = space.to_bins(camera)
    axis_hit = (space.to_bins(prediction.camera) == bins) & valid[..., None]
    hit, moving = axis_hit.all(-1), (bins != space.null_bin).any(-1) & valid
    maximum = space.maximum.astype(camera.dtype)
    degrees = camera.clip(-maximum, maximum) * valid[..., None]
    errors = (prediction.camera - degrees) * valid[..., None]
    return Totals(
        loss=(prediction.loss * valid).sum(), frames=valid.sum(),
        hits=(predicted & pressed).sum(frames), predicted=predicted.sum(frames), pressed=pressed.sum(frames),
        exact=((predicted == pressed).all(-1) & valid).sum(),
        axis_hits=axis_hit.sum(frames), camera_hits=hit.sum(), moving=moving.sum(), moving_hits=(hit & moving).sum(),
        degrees=degrees.sum(frames), squares=(degrees**2).sum(frames), errors=(errors**2).sum(frames),
    )  # fmt: skip


def sum_totals(parts: Sequence[Totals]) -> Totals:
    """Sums totals field by field."""
    return Totals(*(np.sum(field, axis=0) for field in zip(*parts, strict=True)))


def compute_metrics(space: ActionSpace, totals: Totals) -> dict[str, float]:
    """Computes metrics from totals.

    - `nll`: nats per frame.
    - `key_accuracy`: micro-averaged accuracy over all frames and all keys (always predicting "released" scores
      high); `key_exact`: share of frames with all keys right. The paper does not specify which of them it reports.
    - `accuracy/KEY`, `precision/KEY`, `recall/KEY`, `f1/KEY`: of every key that is pressed or predicted in any frame;
      `f1/mean`: mean F1 of the keys held in more than 1% of the frames.
    - `camera_accuracy`: share of frames with all bins right; `camera_accuracy/AXIS`: with this one;
      `camera_accuracy_moving`: all, over the frames in which the camera moves.
    - `mouse_r2/AXIS`: coefficient of determination of the movement, clipped where the bins end: 1 minus squared error
      / variance. If the camera never moves, it is 1 if that was predicted for every frame, and 0 if not.
    """
    totals = Totals(*(np.asarray(field, np.float64) for field in totals))
    frames = float(totals.frames)
    wrong = totals.predicted + totals.pressed - 2 * totals.hits
    f1 = 2 * totals.hits / np.maximum(totals.pressed + totals.predicted, 1)
    common = totals.pressed > COMMON_SHARE * frames
    figures = {
        "nll": float(totals.loss / frames),
        "frames": int(frames),
        "key_accuracy": float(1 - wrong.sum() / (frames * len(space.keys))),
        "key_exact": float(totals.exact / frames),
        "f1/mean": float(f1[common].sum() / max(common.sum(), 1)),
    }
    key_metrics = {
        "accuracy": 1 - wrong / frames,
        "precision": totals.hits / np.maximum(totals.predicted, 1),
        "recall": totals.hits / np.maximum(totals.pressed, 1),
        "f1": f1,
    }
    used = np.flatnonzero(totals.pressed + totals.predicted)
    figures |= {f"{name}/{space.keys[i]}": float(values[i]) for name, values in key_metrics.items() for i in used}
    return figures | _camera_metrics(space, totals, frames)


def _camera_metrics(space: ActionSpace, totals: Totals, frames: float) -> dict[str, float]:
    if not space.axes:
        return {}
    variance = totals.squares - totals.degrees**2 / frames
    r2 = np.where(variance > 0, 1 - totals.errors / np.where(variance > 0, variance, 1), totals.errors == 0)
    figures = {
        "camera_accuracy": float(totals.camera_hits / frames),
        "camera_accuracy_moving": float(totals.moving_hits / max(totals.moving, 1)),
    }
    for i, axis in enumerate(space.axes):
        figures[f"camera_accuracy/{axis.name}"] = float(totals.axis_hits[i] / frames)
        figures[f"mouse_r2/{axis.name}"] = float(r2[i])
    return figures


def label_totals(predicted: "EpisodeIndex", recorded: "EpisodeIndex") -> list[Totals]:
    """Totals of every labelled episode against the recorded one of the same name; the loss is NaN.

    Raises:
        ValueError: an episode is not among the recorded ones, or has another length there.
        ActionSpaceError: the actions are of different spaces.
    """
    predicted.space.require_equal(recorded.space, "the labels", "the recorded play")
    totals = []
    for episode, name in enumerate(predicted.names):
        if name not in recorded.names:
            raise ValueError(f"no episode {name} was recorded")
        labels, true = predicted.rows(episode), recorded.rows(recorded.names.index(name))
        count, frames = labels.stop - labels.start, true.stop - true.start
        if count != frames:
            raise ValueError(f"episode {name} has {count} labels for {frames} frames")
        buttons, camera = predicted.buttons[labels], np.asarray(predicted.camera[labels])
        prediction = Prediction(np.full(len(buttons), np.nan), buttons, camera)
        all_valid = np.ones(len(buttons), bool)
        actions = recorded.buttons[true], np.asarray(recorded.camera[true])
        totals.append(compute_totals(recorded.space, prediction, *actions, all_valid))
    return totals


def confidence_intervals(
    space: ActionSpace, episodes: Sequence[Totals], level: float = 0.95, draws: int = 1000
) -> dict[str, tuple[float, float]]:
    """Bootstrap confidence intervals of the metrics, by resampling episodes: the middle `level` of the draws' values.

    A draw in which a metric is missing (of a key that none of its episodes presses) does not count for it.
    """
    figures = figures_with_intervals(episodes, partial(compute_metrics, space), level, draws)
    return {name: (figure.low, figure.high) for name, figure in figures.items()}


# Masks of the frames that count in a metric, by name. Policies are evaluated on frames with an action that is not null;
# for comparison, an IDM is evaluated on these alone too ("acting").
VIEWS: dict[str, Callable[[ActionSpace, Batch], Bool[Array, "b t"]]] = {
    "valid": lambda space, batch: batch.valid,
    "acting": lambda space, batch: batch.valid & ~space.is_null(jnp.asarray(batch.buttons), jnp.asarray(batch.camera)),
}


def action_measures(space: ActionSpace, views: Sequence[str]) -> dict[str, Measure]:
    """Measures of predicted actions by name of the view, a key of `VIEWS`."""

    def totals(view: str, prediction: Prediction, batch: Batch) -> Totals:
        return compute_totals(space, prediction, batch.buttons, batch.camera, VIEWS[view](space, batch))

    return {
        view: Measure(partial(_zero_totals, space), partial(totals, view), partial(compute_metrics, space))
        for view in views
    }


def evaluation_step(
    predict: Predict, measures: Sequence[Measure], params: Any, carry: tuple[Any, list[Any]], batch: Batch
) -> tuple[Any, list[Any]]:
    """Adds a batch to the totals, one for each measure."""
    memory, totals = carry
    prediction, memory = predict(params, memory, batch)
    batch_totals = [measure.totals(prediction, batch) for measure in measures]
    return memory, jax.tree.map(jnp.add, totals, batch_totals)


def group_name(group: str, dataset: str) -> str:
    """Name of a group of metrics, such as `valid` or a baseline, of one of several validation sets ("": the only)."""
    return f"{group}_{dataset}" if dataset else group


def evaluator(
    measures: Mapping[str, Measure],
    predict: Predict,
    initial_memory: Callable[[], Any],
    batches: Mapping[str, Callable[[], Iterable[Batch]]],
    by_rows: NamedSharding,
    baselines: Mapping[str, Mapping[str, float]],
    test_batches: Callable[[], Iterable[Batch]] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """Makes a function that evaluates parameters on all validation batches and returns the metrics of all measures.

    Metrics are named `MEASURE/NAME`, and those of the baselines `BASELINE/NAME`. Those of several validation sets are
    named `MEASURE_SET/NAME`, as by `group_name`. Metrics of test batches are named `test/NAME` in place of
    `valid/NAME`, and `test_MEASURE/NAME` of other measures.

    Args:
        measures: by name.
        predict: predictions of the model on a batch.
        initial_memory: makes the model's memory before the first batch, for all rows.
        batches: starts a pass over the global batches, by name of the validation set ("": the only one).
        by_rows: sharding of batches and memory.
        baselines: metrics by name of the group.
        test_batches: the same for test data, by which nothing is selected, neither a checkpoint nor a setting; None:
            no test metrics.
    """
    replicated = NamedSharding(by_rows.mesh, PartitionSpec())
    step = jax.jit(
        partial(evaluation_step, predict, list(measures.values())),
        out_shardings=(by_rows, replicated),
        donate_argnums=1,
    )
    begin = jax.jit(
        lambda: (initial_memory(), [measure.zero() for measure in measures.values()]),
        out_shardings=(by_rows, replicated),
    )

    def evaluate_batches(all_batches: Iterable[Batch], params: Any) -> list[dict[str, float]]:
        carry = begin()
        for batch in all_batches:
            carry = step(params, carry, batch)
        totals = jax.device_get(carry[1])
        return [measure.compute(sums) for measure, sums in zip(measures.values(), totals, strict=True)]

    def evaluate(params: Any) -> dict[str, float]:
        by_predictor: dict[str, Mapping[str, float]] = {}
        for dataset, start in batches.items():
            names = [group_name(measure, dataset) for measure in measures]
            by_predictor |= zip(names, evaluate_batches(start(), params), strict=True)
        if test_batches:
            names = ["test" if measure == "valid" else f"test_{measure}" for measure in measures]
            by_predictor |= zip(names, evaluate_batches(test_batches(), params), strict=True)
        by_predictor |= baselines
        return {f"{key}/{name}": value for key, figures in by_predictor.items() for name, value in figures.items()}

    return evaluate


def _zero_totals(space: ActionSpace) -> Totals:
    shapes = (0, len(space.keys)), (0, len(space.axes))
    empty = Prediction(jnp.zeros(0), jnp.zeros(shapes[0], jnp.uint8), jnp.zeros(shapes[1]))
    return compute_totals(space, empty, empty.buttons, empty.camera, jnp.zeros(0, bool))
