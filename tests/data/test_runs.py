"""Runs of true values, by hand and at both ends."""

import numpy as np
import pytest

from vpt_jax.data.runs import find_runs


@pytest.mark.parametrize(
    ("flags", "runs"),
    [
        ("", []),
        ("0", []),
        ("1", [[0, 1]]),
        ("111", [[0, 3]]),
        ("0110100", [[1, 3], [4, 5]]),
        ("1001", [[0, 1], [3, 4]]),
    ],
)
def test_each_run_has_its_start_and_the_position_after_it(flags, runs):
    assert find_runs(np.array([flag == "1" for flag in flags], bool)).tolist() == runs
