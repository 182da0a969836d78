"""Profiling writes a trace, and does not change results."""

import jax
import pytest

from vpt_jax.training.profiling import FIRST_STEP, LAST_STEP, profiled

add = jax.jit(lambda state, batch: (state + batch, state * batch))


@pytest.mark.parametrize(("steps", "traces"), [(FIRST_STEP - 1, 0), (FIRST_STEP, 1), (LAST_STEP + 2, 1)])
def test_a_trace_of_some_steps(tmp_path, capsys, steps, traces):
    state = 1.0
    with profiled(add, str(tmp_path)) as step:
        for i in range(steps):
            state, metrics = step(state, float(i))
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == traces
    assert ("no trace" in capsys.readouterr().out) == (traces == 0)
    before = 1 + sum(range(steps - 1))
    assert (float(state), float(metrics)) == (before + steps - 1, before * (steps - 1))


def test_without_a_folder_the_step_is_returned_unchanged():
    with profiled(add, "") as step:
        assert step is add
