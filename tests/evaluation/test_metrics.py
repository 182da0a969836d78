"""Metrics compared with manual counts; confidence intervals and the evaluator with plain loops."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from vpt_jax import parallel
from vpt_jax.actions.minerl import BUTTON_INDEX, BUTTONS, CAMERA, MINERL
from vpt_jax.data.batch import combine
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.metrics import (
    Prediction,
    action_measures,
    compute_metrics,
    compute_totals,
    confidence_intervals,
    evaluator,
    label_totals,
    sum_totals,
)
from vpt_jax.models.policy import Policy
from vpt_jax.training.behavioural_cloning import predict_next


def keys(*rows):
    """Buttons `[n, 20]` from rows of names such as "attack jump"."""
    return np.array([[name in row.split() for name in BUTTONS] for row in rows], np.uint8)


@pytest.fixture(scope="module")
def figures():
    """Metrics of four frames; a fifth is not valid."""
    held = keys("attack", "attack jump", "jump", "attack", "use")
    predicted_keys = keys("attack", "jump", "attack jump", "", "drop")
    turned = np.array([[0, 0], [0, 1.6], [-0.6, 0], [-25, 5], [9, 9]], np.float32)
    bins = np.array([[5, 5], [5, 7], [5, 5], [0, 8], [1, 1]])
    valid = np.array([True, True, True, True, False])
    prediction = Prediction(np.array([1.0, 2.0, 4.0, 5.0, 100.0]), predicted_keys, CAMERA.to_values(bins))
    return compute_metrics(MINERL, compute_totals(MINERL, prediction, held, turned, valid))


def test_key_metrics_equal_manual_counts(figures):
    assert figures["frames"] == 4
    assert figures["nll"] == pytest.approx(12 / 4)
    assert figures["key_accuracy"] == pytest.approx(77 / 80)  # attack is wrong in three frames
    assert figures["key_exact"] == pytest.approx(1 / 4)
    assert figures["accuracy/attack"] == pytest.approx(1 / 4)
    assert figures["precision/attack"] == pytest.approx(1 / 2)  # predicted in two frames, in one of them correctly
    assert figures["recall/attack"] == pytest.approx(1 / 3)
    assert figures["f1/attack"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert figures["f1/jump"] == figures["precision/jump"] == figures["recall/jump"] == 1
    assert figures["f1/mean"] == pytest.approx((0.4 + 1) / 2)
    assert {name.partition("/")[2] for name in figures if name.startswith("f1/")} == {"mean", "attack", "jump"}


def test_camera_metrics_equal_manual_values(figures):
    assert figures["camera_accuracy"] == pytest.approx(2 / 4)
    assert figures["camera_accuracy/pitch"] == figures["camera_accuracy/yaw"] == pytest.approx(3 / 4)
    assert figures["camera_accuracy_moving"] == pytest.approx(1 / 3)
    # Pitch: 0, 0, -0.6 and, clipped, -10 degrees; the predictions are 0, 0, 0, -10.
    assert figures["mouse_r2/pitch"] == pytest.approx(1 - 0.6**2 / (0.6**2 + 10**2 - 10.6**2 / 4))
    # Yaw: 0, 1.6, 0, 5 degrees; the predictions are the centres of the bins two and three from the centre.
    errors = (11**0.4 - 1 - 1.6) ** 2 + (11**0.6 - 1 - 5) ** 2
    assert figures["mouse_r2/yaw"] == pytest.approx(1 - errors / (1.6**2 + 5**2 - 6.6**2 / 4))


@pytest.mark.parametrize(("predicted_bin", "r2"), [(5, 1.0), (6, 0.0)])
def test_r2_of_a_camera_that_never_moves_is_1_only_if_predicted(predicted_bin, r2):
    prediction = Prediction(np.zeros(3), keys("", "", ""), np.full((3, 2), CAMERA.centres[predicted_bin]))
    still = np.zeros((3, 2), np.float32)
    totals = compute_totals(MINERL, prediction, prediction.buttons, still, np.ones(3, bool))
    assert compute_metrics(MINERL, totals)["mouse_r2/yaw"] == r2


def random_index(names, lengths, seed):
    rng, frames = np.random.default_rng(seed), sum(lengths)
    buttons = np.zeros((frames, 20), np.uint8)
    buttons[:, :4] = rng.random((frames, 4)) < 0.3
    camera = rng.normal(0, 3, (frames, 2)).astype(np.float32)
    return EpisodeIndex(names, np.array(lengths), buttons, camera, np.ones(frames, np.float32), "predicted", 8)


@pytest.fixture(scope="module")
def recorded():
    return random_index(("a", "b", "c", "d", "e", "f"), [30, 7, 50, 20, 41, 12], 0)


def test_labels_are_compared_with_the_episode_of_the_same_name(recorded):
    predicted = random_index(("d", "a"), [20, 30], 1)
    totals_d, totals_a = label_totals(predicted, recorded)
    rows_d, rows_a = (slice(0, 20), slice(87, 107)), (slice(20, 50), slice(0, 30))
    for totals, (labels, true) in ((totals_d, rows_d), (totals_a, rows_a)):
        assert int(totals.frames) == true.stop - true.start
        hits = predicted.buttons[labels] * recorded.buttons[true]
        np.testing.assert_array_equal(totals.hits, hits.sum(0))
        bins = [CAMERA.to_bins(index.camera[rows]) for index, rows in ((predicted, labels), (recorded, true))]
        np.testing.assert_array_equal(totals.axis_hits, (bins[0] == bins[1]).sum(0))
    perfect = compute_metrics(MINERL, sum_totals(label_totals(recorded, recorded)))
    assert perfect["key_exact"] == perfect["f1/mean"] == perfect["camera_accuracy"] == 1
    assert perfect["mouse_r2/pitch"] > 0.95
    assert np.isnan(perfect["nll"])


def test_labels_of_other_episodes_are_refused(recorded):
    with pytest.raises(ValueError, match="no episode x was recorded"):
        label_totals(replace(recorded, names=("a", "x", "c", "d", "e", "f")), recorded)
    with pytest.raises(ValueError, match="episode b has 8 labels for 7 frames"):
        label_totals(random_index(("a", "b"), [30, 8], 1), recorded)


def test_intervals_equal_a_plain_bootstrap_over_episodes(recorded):
    held, moved = recorded.buttons.copy(), recorded.camera.copy()
    held[32, BUTTON_INDEX["drop"]] = 1  # in episode b, which some draws omit
    predicted_keys = np.where(np.arange(len(held))[:, None] % 3 == 0, np.roll(held, 1, 0), held)
    moved[::2] += 1
    predicted = replace(recorded, buttons=predicted_keys, camera=moved)
    episodes = label_totals(predicted, replace(recorded, buttons=held))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(200):
        drawn.append(compute_metrics(MINERL, sum_totals([episodes[i] for i in rng.integers(6, size=6)])))
    intervals, point = (
        confidence_intervals(MINERL, episodes, level=0.8, draws=200),
        compute_metrics(MINERL, sum_totals(episodes)),
    )
    assert intervals.keys() == point.keys()
    assert any("f1/drop" not in metrics_of_draw for metrics_of_draw in drawn)
    for name in point.keys() - {"nll"}:
        values = [metrics_of_draw[name] for metrics_of_draw in drawn if name in metrics_of_draw]
        assert intervals[name] == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])))
    for name in ("key_accuracy", "key_exact", "f1/mean", "camera_accuracy", "mouse_r2/yaw"):
        low, high = intervals[name]
        assert low < point[name] < high


def test_the_evaluator_agrees_with_one_pass_over_complete_rows(dataset_dir):
    """Chunks with a carried KV cache and padded rows, in two views, compared with one pass over each row."""
    valid = Stream(StreamSettings(str(dataset_dir), "valid", 8, 6, "keep", shuffle=False))
    policy = Policy(widths=(8, 8, 8), features=32, heads=2, layers=1, memory_length=8)
    rows = [[valid.read(step, [row]) for step in range(valid.steps_per_epoch)] for row in range(8)]
    shapes = jax.eval_shape(
        policy.init, jax.random.key(0), rows[0][0].frames, rows[0][0].first, policy.initial_memory(1)
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes["params"])

    mesh = parallel.make_mesh()
    batches = lambda: (  # noqa: E731
        parallel.global_batch(valid.read(step, range(8)), mesh, 8) for step in range(valid.steps_per_epoch)
    )
    predict, memory, by_rows = partial(predict_next, policy), policy.initial_memory, parallel.batch_sharding(mesh)
    baselines, measures = {"marginal": {"nll": 5.0}}, action_measures(MINERL, ("valid", "acting"))
    sets = {"": batches, "web": batches}
    figures = evaluator(measures, predict, partial(memory, 8), sets, by_rows, baselines, test_batches=batches)(params)

    totals, jitted = {"valid": [], "acting": []}, jax.jit(predict)
    for row in rows:
        whole = combine(partial(np.concatenate, axis=1), row)
        prediction, _ = jitted(params, memory(1), whole)
        acting = whole.valid & ~MINERL.is_null(whole.buttons, whole.camera)
        for view, counted in (("valid", whole.valid), ("acting", acting)):
            totals[view].append(compute_totals(MINERL, prediction, whole.buttons, whole.camera, counted))
    expected = {view: compute_metrics(MINERL, sum_totals(jax.device_get(parts))) for view, parts in totals.items()}
    assert expected["valid"]["frames"] == valid.num_frames > expected["acting"]["frames"] > 0
    assert figures.pop("marginal/nll") == 5.0
    # Test batches are a separate pass that starts with an empty memory (fidelity S8).
    named = {"valid": "valid", "acting": "acting", "test": "valid", "test_acting": "acting"}
    named |= {"valid_web": "valid", "acting_web": "acting"}
    wanted = {f"{name}/{figure}": value for name, view in named.items() for figure, value in expected[view].items()}
    assert figures == pytest.approx(wanted, rel=1e-4)
    assert expected["valid"]["camera_accuracy_moving"] > 0
