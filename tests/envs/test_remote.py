"""Games in the actors of a real Ray cluster, on this machine."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.envs.test_pool import APPLES, attack, counting, make_pool, seed_and_step
from tests.envs.toy_games import SIZE

ray = pytest.importorskip("ray")

from vpt_jax.envs.vector.remote import RemotePool  # noqa: E402 - needs Ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actors():
    """The PIDs of all pool actors."""
    titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [number for number, title in titles.items() if title.startswith(b"ray::PoolActor")]


def remote_pool(steps, rows=4):
    return RemotePool(2, 1, counting(steps=steps), [(row, rows) for row in range(rows)], SIZE, rewards=APPLES)


def test_a_remote_pool_plays_as_a_local_one(cluster):
    with remote_pool(steps=2) as remote, make_pool(counting(steps=2), rows=4) as local:
        for number in range(6):
            one, other = (pool.begin() if not number else attack(pool, 4) for pool in (remote, local))
            for name, rows in one._asdict().items():
                np.testing.assert_array_equal(rows, getattr(other, name), err_msg=name)
        ended = [sorted(episode[1:5] for episode in pool.episodes()) for pool in (remote, local)]
        rows = {episode.row for episode in remote.episodes()}
    assert ended[0] == ended[1]
    assert len(ended[0]) == 8
    assert rows == set()


def test_losing_a_machine_costs_its_episodes_only(cluster):
    with remote_pool(steps=30) as pool:
        pool.begin()
        for _ in range(3):
            time_step = attack(pool, 4)
        os.kill(actors()[0], signal.SIGKILL)
        time.sleep(1)
        before = time_step
        time_step = attack(pool, 4)
        (lost_rows,) = {tuple(rows) for rows in ([0, 1], [2, 3]) if not time_step.playing[rows].any()}
        kept_rows = [row for row in range(4) if row not in lost_rows]
        assert time_step.acted[kept_rows].all()
        assert [seed for seed, _ in seed_and_step(time_step)] == [seed for seed, _ in seed_and_step(before)]
        lost = pool.episodes()
        assert [(one.row, one.seed, one.steps, one.reward, one.ending) for one in lost] == [
            (row, before.seed[row], 3, 1.5, "lost") for row in lost_rows
        ]
        until = time.monotonic() + 60
        while not time_step.playing[list(lost_rows)].all() and time.monotonic() < until:
            time_step = attack(pool, 4)
            time.sleep(0.1)
        assert time_step.playing[list(lost_rows)].all()  # another machine has taken the rows
        assert not set(time_step.seed[list(lost_rows)]) & set(range(4))
        assert pool.lost == 2
