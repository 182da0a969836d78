"""How well a model names what a player did in held-out play: sums over frames, and the figures that follow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions import BUTTONS, CAMERA, Array, is_null
from vpt_jax.data.batch import Batch

if TYPE_CHECKING:  # a train step needs no dataset
    from vpt_jax.data.dataset import EpisodeIndex

COMMON_SHARE = 0.01  # a button counts in the mean F1 if it is held in more than this share of the frames
AXES = ("pitch", "yaw")


class Prediction(NamedTuple):
    """What a model says of some frames: an action, the most probable unless said otherwise, and its loss on the
    recorded one.
    """

    loss: Float[Array, "..."]  # nats
    buttons: UInt8[Array, "... 20"]
    camera: Float[Array, "... 2"]  # degrees


# A model's predictions on a batch: (params, memory, batch) -> prediction, new memory
Predict = Callable[[Any, Any, Batch], tuple[Prediction, Any]]


class Totals(NamedTuple):
    """Sums over frames, from which all metrics follow. Degrees are cut off where the bins end, at 10."""

    loss: Float[Array, ""]  # nats
    frames: Int[Array, ""]
    hits: Int[Array, "20"]  # predicted down, and down
    predicted: Int[Array, "20"]  # predicted down
    pressed: Int[Array, "20"]  # down
    exact: Int[Array, ""]  # all 20 buttons right
    axis_hits: Int[Array, "2"]  # the bin right
    camera_hits: Int[Array, ""]  # both bins right
    moving: Int[Array, ""]  # frames in which the camera moves
    moving_hits: Int[Array, ""]  # of these, both bins right
    degrees: Float[Array, "2"]
    squares: Float[Array, "2"]  # of the degrees
    errors: Float[Array, "2"]  # squares of predicted less recorded degrees


def count(
    prediction: Prediction, buttons: UInt8[Array, "... 20"], camera: Float[Array, "... 2"], valid: Bool[Array, "..."]
) -> Totals:
    """Totals of some frames, given what was done in them (camera in degrees)."""
    frames = tuple(range(valid.ndim))
    said, held = ((keys > 0) & valid[..., None] for keys in (prediction.buttons, buttons))
    bins = CAMERA.to_bins(camera)
    axis_hit = (CAMERA.to_bins(prediction.camera) == bins) & valid[..., None]
    hit, moving = axis_hit.all(-1), (bins != CAMERA.null_bin).any(-1) & valid
    degrees = camera.clip(-CAMERA.max_degrees, CAMERA.max_degrees) * valid[..., None]
    errors = (prediction.camera - degrees) * valid[..., None]
    return Totals(
        loss=(prediction.loss * valid).sum(), frames=valid.sum(),
        hits=(said & held).sum(frames), predicted=said.sum(frames), pressed=held.sum(frames),
        exact=((said == held).all(-1) & valid).sum(),
        axis_hits=axis_hit.sum(frames), camera_hits=hit.sum(), moving=moving.sum(), moving_hits=(hit & moving).sum(),
        degrees=degrees.sum(frames), squares=(degrees**2).sum(frames), errors=(errors**2).sum(frames),
    )  # fmt: skip


def add(parts: Sequence[Totals]) -> Totals:
    """The totals of all parts together."""
    return Totals(*(np.sum(field, axis=0) for field in zip(*parts, strict=True)))


def metrics(totals: Totals) -> dict[str, float]:
    """The figures of some totals.

    - `nll`: nats per frame.
    - `key_accuracy`: share of right answers over all frames and all 20 keys ("micro"; always saying "released" scores
      high); `key_exact`: share of frames with all keys right. The paper does not say which of these its number is.
    - `accuracy/KEY`, `precision/KEY`, `recall/KEY`, `f1/KEY`: of every key pressed or predicted at all; `f1/mean`: over
      those held in more than 1% of the frames.
    - `camera_accuracy`: share of frames with both bins right; `camera_accuracy/AXIS`: with this one;
      `camera_accuracy_moving`: both, over the frames in which the camera moves.
    - `mouse_r2/AXIS`: 1 less the squared error's share of the variance, of degrees cut off at 10, where the bins end.
      Of a camera that never moves, it is 1 if that was said of every frame, and 0 if not.
    """
    totals = Totals(*(np.asarray(field, np.float64) for field in totals))
    frames = float(totals.frames)
    wrong = totals.predicted + totals.pressed - 2 * totals.hits
    f1 = 2 * totals.hits / np.maximum(totals.pressed + totals.predicted, 1)
    common = totals.pressed > COMMON_SHARE * frames
    figures = {
        "nll": float(totals.loss / frames),
        "frames": int(frames),
        "key_accuracy": float(1 - wrong.sum() / (frames * len(BUTTONS))),
        "key_exact": float(totals.exact / frames),
        "f1/mean": float(f1[common].sum() / max(common.sum(), 1)),
    }
    of_keys = {
        "accuracy": 1 - wrong / frames,
        "precision": totals.hits / np.maximum(totals.predicted, 1),
        "recall": totals.hits / np.maximum(totals.pressed, 1),
        "f1": f1,
    }
    seen = np.flatnonzero(totals.pressed + totals.predicted)
    figures |= {f"{name}/{BUTTONS[i]}": float(values[i]) for name, values in of_keys.items() for i in seen}
    return figures | _camera_metrics(totals, frames)


def _camera_metrics(totals: Totals, frames: float) -> dict[str, float]:
    variance = totals.squares - totals.degrees**2 / frames
    r2 = np.where(variance > 0, 1 - totals.errors / np.where(variance > 0, variance, 1), totals.errors == 0)
    figures = {
        "camera_accuracy": float(totals.camera_hits / frames),
        "camera_accuracy_moving": float(totals.moving_hits / max(totals.moving, 1)),
    }
    for i, axis in enumerate(AXES):
        figures[f"camera_accuracy/{axis}"] = float(totals.axis_hits[i] / frames)
        figures[f"mouse_r2/{axis}"] = float(r2[i])
    return figures


def label_totals(predicted: "EpisodeIndex", recorded: "EpisodeIndex") -> list[Totals]:
    """Totals of every predicted episode against the recorded one of the same name, without a loss.

    Raises:
        ValueError: an episode is not among the recorded ones, or of another length there.
    """
    totals = []
    for episode, name in enumerate(predicted.names):
        if name not in recorded.names:
            raise ValueError(f"no episode {name} was recorded")
        said, true = predicted.rows(episode), recorded.rows(recorded.names.index(name))
        if said.stop - said.start != true.stop - true.start:
            raise ValueError(f"episode {name} has {said.stop - said.start} labels for {true.stop - true.start} frames")
        buttons, camera = predicted.buttons[said], np.asarray(predicted.camera[said])
        prediction = Prediction(np.full(len(buttons), np.nan), buttons, camera)
        everything = np.ones(len(buttons), bool)
        totals.append(count(prediction, recorded.buttons[true], np.asarray(recorded.camera[true]), everything))
    return totals


def confidence_intervals(
    episodes: Sequence[Totals], level: float = 0.95, draws: int = 1000
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the metrics over episodes, since the frames of one episode are much alike.

    Every draw takes as many episodes as there are, with repetition, and the interval holds the middle `level` of the
    draws' figures. A metric that a draw does not have (a key that none of its episodes presses) counts as 0 in it.
    """
    stacked = Totals(*(np.stack(field).astype(np.float64) for field in zip(*episodes, strict=True)))
    rng, number = np.random.default_rng(0), len(episodes)
    drawn = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(number, size=number), minlength=number)
        drawn.append(metrics(Totals(*(np.tensordot(weights, field, 1) for field in stacked))))
    tails = [(1 - level) / 2, (1 + level) / 2]
    names = metrics(add(episodes))
    return {name: tuple(np.quantile([figures.get(name, 0.0) for figures in drawn], tails).tolist()) for name in names}


# Which frames of a batch count in figures of a name. Policies are asked about frames in which something is done; to be
# compared with one, an IDM is measured on these alone too.
VIEWS: dict[str, Callable[[Batch], Bool[Array, "b t"]]] = {
    "valid": lambda batch: batch.valid,
    "acting": lambda batch: batch.valid & ~is_null(jnp.asarray(batch.buttons), jnp.asarray(batch.camera)),
}


def evaluation_step(
    predict: Predict, views: Sequence[str], params: Any, carry: tuple[Any, list[Totals]], batch: Batch
) -> tuple[Any, list[Totals]]:
    """Adds a batch to the totals, of which there are as many as views."""
    memory, totals = carry
    prediction, memory = predict(params, memory, batch)
    seen = [count(prediction, batch.buttons, batch.camera, VIEWS[view](batch)) for view in views]
    return memory, jax.tree.map(jnp.add, totals, seen)


def evaluator(
    predict: Predict,
    initial_memory: Callable[[], Any],
    batches: Callable[[], Iterable[Batch]],
    by_rows: NamedSharding,
    baselines: Mapping[str, Mapping[str, float]],
    views: Sequence[str] = ("valid",),
    test_batches: Callable[[], Iterable[Batch]] | None = None,
) -> Callable[[Any], dict[str, float]]:
    """A function of the parameters that goes over all validation batches and returns `metrics`.

    They are called `VIEW/NAME`; those of the baselines stand beside them as `BASELINE/NAME`. Those of test batches are
    called `test/NAME` in place of `valid/NAME`, and `test_VIEW/NAME` of other views.

    Args:
        predict: the model.
        initial_memory: its memory before the first batch, of all rows.
        batches: starts a pass over the global batches.
        by_rows: how batches and memory lie on the mesh.
        baselines: their metrics.
        views: names from `VIEWS`.
        test_batches: the same of play by which nothing is chosen, neither a checkpoint nor a setting; none: no such
            figures.
    """
    replicated = NamedSharding(by_rows.mesh, PartitionSpec())
    step = jax.jit(partial(evaluation_step, predict, views), out_shardings=(by_rows, replicated), donate_argnums=1)
    begin = jax.jit(lambda: (initial_memory(), [_no_totals() for _ in views]), out_shardings=(by_rows, replicated))

    def over(all_batches: Iterable[Batch], params: Any) -> list[dict[str, float]]:
        carry = begin()
        for batch in all_batches:
            carry = step(params, carry, batch)
        return [metrics(of_view) for of_view in jax.device_get(carry[1])]

    def evaluate(params: Any) -> dict[str, float]:
        by_predictor: dict[str, Mapping[str, float]] = dict(zip(views, over(batches(), params), strict=True))
        if test_batches:
            names = ["test" if view == "valid" else f"test_{view}" for view in views]
            by_predictor |= zip(names, over(test_batches(), params), strict=True)
        by_predictor |= baselines
        return {f"{who}/{name}": value for who, figures in by_predictor.items() for name, value in figures.items()}

    return evaluate


def _no_totals() -> Totals:
    none = Prediction(jnp.zeros(0), jnp.zeros((0, len(BUTTONS)), jnp.uint8), jnp.zeros((0, 2)))
    return count(none, none.buttons, none.camera, jnp.zeros(0, bool))
