"""D2E's metrics against values by hand, and against a literal bin by bin evaluation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.evaluation.d2e import compute_d2e_metrics, d2e_totals, mouse_buttons
from vpt_jax.evaluation.resampling import sum_episodes

QUANTIZER = AxisQuantizer()
SPACE = ActionSpace("shooter", ("w", "mouse.left"), (Axis("x", quantizer=QUANTIZER), Axis("y", quantizer=QUANTIZER)))


def metrics(predicted, recorded, **fields):
    return compute_d2e_metrics(SPACE, d2e_totals(*predicted, *recorded, **fields))


def keys(w, left):
    return np.array([[int(c) for c in row] for row in (w, left)], np.uint8).T


def moves(x, y):
    return np.array([x, y], float).T


STILL = keys("0000", "0000")


def test_the_mouse_by_hand():
    recorded = moves([1, 2, 0, 0], [0, 0, 0, 0])
    predicted = moves([2, 2, 2, 0], [0, 0, 0, 0])
    figures = metrics((STILL, predicted), (STILL, recorded))
    # Over the first three bins, in which one of them moves: deviations (0, 1, -1) and (0, 0, 0).
    assert np.isnan(figures["pearson/x"])
    assert figures["scale_ratio/x"] == pytest.approx(6 / 3)  # inverted: 3 / 6 is below 1
    assert np.isnan(figures["scale_ratio/y"])
    figures = metrics((STILL, moves([0, 2, 1, 0], [0, 0, 0, 3])), (STILL, recorded))
    # Over all four bins: the last moves along y. Deviations (1/4, 5/4, -3/4, -3/4) and (-3/4, 5/4, 1/4, -3/4).
    assert figures["pearson/x"] == pytest.approx((-3 + 25 - 3 + 9) / 16 / ((1 + 25 + 9 + 9) / 16))
    assert figures["scale_ratio/x"] == pytest.approx(1)
    assert figures["scale_ratio/y"] == float("inf")


def test_bins_without_movement_count_for_the_scale_alone():
    recorded, predicted = moves([1, 3, 5], [0, 0, 0]), moves([1, 2, 6], [0, 0, 0])
    pad = moves([0] * 5, [0] * 5)
    short = metrics((STILL[:3], predicted), (STILL[:3], recorded))
    padded = metrics((np.zeros((8, 2), np.uint8), np.concatenate([predicted, pad])),
                     (np.zeros((8, 2), np.uint8), np.concatenate([recorded, pad])))  # fmt: skip
    assert short["pearson/x"] == padded["pearson/x"] == pytest.approx(np.corrcoef([1, 3, 5], [1, 2, 6])[0, 1])
    assert short["scale_ratio/x"] == padded["scale_ratio/x"] == 1


def test_counts_by_hand():
    recorded = keys("01100011", "00100000")  # w: press 1, release 3, press 6; left: press 2, release 3
    predicted = keys("01110001", "00100000")  # w: press 1, release 4, press 7
    still = np.zeros((8, 2))
    figures = metrics((predicted, still), (recorded, still))
    assert figures["count_accuracy/keys"] == figures["count_accuracy/w"] == pytest.approx(1 / 5)
    assert figures["count_accuracy/buttons"] == figures["count_accuracy/mouse.left"] == 1
    repeated = np.concatenate([np.zeros((1, 2), np.uint8), recorded[:-1]])
    assert metrics((repeated, still), (recorded, still), given_previous=True)["count_accuracy/keys"] == 0


def by_bins(predicted, recorded):
    """The authors' procedure, bin by bin, in plain Python."""
    accuracies, pairs, sizes = {"w": [], "mouse.left": []}, [], []
    for i in range(len(recorded[0])):
        for k, name in enumerate(accuracies):
            for change in (1, -1):
                counts = [int(i > 0 and int(a[i, k]) - int(a[i - 1, k]) == change) for a in (recorded[0], predicted[0])]
                if any(counts):
                    accuracies[name].append(float(counts[0] == counts[1]))
        moved = recorded[1][i], predicted[1][i]
        if np.any(moved):
            pairs.append(moved)
        sizes.append(np.abs(moved))
    return accuracies, np.array(pairs), np.array(sizes)


ROWS = st.lists(
    st.tuples(*[st.integers(0, 1)] * 4, *[st.sampled_from([-3, -1, 0, 0, 1, 2])] * 4), min_size=3, max_size=30
)


@settings(deadline=None)
@given(ROWS)
def test_metrics_equal_a_plain_evaluation(rows):
    table = np.array(rows)
    recorded = table[:, :2].astype(np.uint8), table[:, 4:6].astype(float)
    predicted = table[:, 2:4].astype(np.uint8), table[:, 6:].astype(float)
    figures = metrics(predicted, recorded)
    accuracies, pairs, sizes = by_bins(predicted, recorded)
    for name, values in (("keys", accuracies["w"]), ("buttons", accuracies["mouse.left"])):
        np.testing.assert_allclose(figures[f"count_accuracy/{name}"], np.mean(values) if values else np.nan)
    for i, axis in enumerate("xy"):
        if len(pairs) > 1 and (np.ptp(pairs[:, :, i], axis=0) > 0).all():
            expected = np.corrcoef(pairs[:, 0, i], pairs[:, 1, i])[0, 1]
            assert figures[f"pearson/{axis}"] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(figures[f"pearson/{axis}"])
        true, found = sizes[:, :, i].mean(0)
        if true and found:
            assert figures[f"scale_ratio/{axis}"] == pytest.approx(max(true / found, found / true))


def test_episodes_add_up():
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 2, (9, 2)).astype(np.uint8), rng.normal(size=(9, 2))) for _ in range(4)]
    pooled = compute_d2e_metrics(
        SPACE, sum_episodes([d2e_totals(*parts[0], *parts[1]), d2e_totals(*parts[2], *parts[3])])
    )
    expected = np.corrcoef(np.concatenate([parts[0][1], parts[2][1]])[:, 0],
                           np.concatenate([parts[1][1], parts[3][1]])[:, 0])[0, 1]  # fmt: skip
    assert pooled["pearson/x"] == pytest.approx(expected)


def test_mouse_buttons_are_known_by_name():
    assert mouse_buttons(SPACE) == ("mouse.left",)
    assert mouse_buttons(MINERL) == ("attack", "use")
