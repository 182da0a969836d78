"""A trace is written, and nothing else changes."""

import jax

from vpt_jax.training.profiling import LAST, profiled


def test_a_trace_of_some_steps(tmp_path):
    step = profiled(jax.jit(lambda state, batch: (state + batch, state * batch)), str(tmp_path))
    state = 1.0
    for i in range(LAST - 1):
        state, _ = step(state, float(i))
    assert not list(tmp_path.rglob("*.xplane.pb"))
    state, metrics = step(state, 2.0)
    step(state, 1.0)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert (float(state), float(metrics)) == (1 + sum(range(LAST - 1)) + 2, 2 * (1 + sum(range(LAST - 1))))
