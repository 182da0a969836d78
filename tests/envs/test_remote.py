"""Games in the actors of a real Ray cluster, on this machine."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.envs.test_pool import APPLES, attack, counting, make_pool, shown
from tests.envs.toy_games import SIZE

ray = pytest.importorskip("ray")

from vpt_jax.envs.vector.remote import RemotePool  # noqa: E402 - needs Ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def machines():
    """The processes of all actors that play."""
    titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [number for number, title in titles.items() if title.startswith(b"ray::Machine")]


def remote_pool(steps, rows=4):
    return RemotePool(2, 1, counting(steps=steps), [(row, rows) for row in range(rows)], SIZE, rewards=APPLES)


def test_machines_play_as_one_pool_does(cluster):
    with remote_pool(steps=2) as remote, make_pool(counting(steps=2), rows=4) as local:
        for turns in range(6):
            one, other = (pool.begin() if not turns else attack(pool, 4) for pool in (remote, local))
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
            turn = attack(pool, 4)
        os.kill(machines()[0], signal.SIGKILL)
        time.sleep(1)
        before = turn
        turn = attack(pool, 4)
        (away,) = {tuple(rows) for rows in ([0, 1], [2, 3]) if not turn.playing[rows].any()}
        stays = [row for row in range(4) if row not in away]
        assert turn.acted[stays].all()
        assert [seed for seed, _ in shown(turn)] == [seed for seed, _ in shown(before)]
        lost = pool.episodes()
        assert [(one.row, one.seed, one.steps, one.reward, one.ending) for one in lost] == [
            (row, before.seed[row], 3, 1.5, "lost") for row in away
        ]
        until = time.monotonic() + 60
        while not turn.playing[list(away)].all() and time.monotonic() < until:
            turn = attack(pool, 4)
            time.sleep(0.1)
        assert turn.playing[list(away)].all()  # another machine has taken the rows
        assert not set(turn.seed[list(away)]) & set(range(4))
        assert pool.lost == 2
