"""A second start of a run compiles nothing, and its first batch is read while the step is traced."""

import threading

import pytest

from vpt_jax.data.read_ahead import read_ahead


@pytest.mark.slow  # compiles a run; tests/system/test_compilation_cache.py has its quick sibling
def test_a_resumed_run_compiles_nothing(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # not that of the tests
    workdir = tmp_path / "run"
    first = launcher.run(workdir, "--config.steps=4")
    assert "compiled in " in first
    assert "(0 of " in first
    entries = sorted((workdir / "compiled").rglob("*.compiled"))
    assert len(entries) >= 3  # initialization, step, evaluation
    second = launcher.run(workdir, "--config.steps=8")
    assert "resumed from step 4" in second
    assert " s (from the cache)\n" in second
    assert sorted((workdir / "compiled").rglob("*.compiled")) == entries


def test_the_first_batch_is_read_before_it_is_asked_for():
    started, closed = threading.Event(), []

    def batches():
        started.set()
        try:
            yield from range(3)
        finally:
            closed.append(True)

    with read_ahead(batches()) as ahead:
        assert started.wait(30)
        assert list(ahead) == [0, 1, 2]
    with read_ahead(batches()):  # nobody asks
        pass
    assert closed == [True, True]


def test_errors_of_the_first_batch_are_raised_where_it_is_asked_for():
    def batches():
        raise OSError("no such shard")
        yield

    with read_ahead(batches()) as ahead, pytest.raises(OSError, match="no such shard"):
        next(ahead)
    with read_ahead(batches()):
        pass


def test_an_empty_stream_is_empty():
    with read_ahead(iter_nothing()) as ahead:
        assert list(ahead) == []


def iter_nothing():
    yield from ()
