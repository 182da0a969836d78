import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.envs.toy_games import SIZE
from vpt_jax.actions import BUTTON_INDEX
from vpt_jax.envs.processes.reaper import marked
from vpt_jax.envs.rewards import Reward
from vpt_jax.envs.vector.client import Game, GameLostError, Patience
from vpt_jax.envs.vector.pool import Pool

APPLES = {"apples": Reward(0.5, 3)}
PATIENCE = Patience(start=20, reset=1, step=1, beat=3)
ATTACK = np.zeros(20, np.uint8)
ATTACK[BUTTON_INDEX["attack"]] = 1


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Between the tries of a row that cannot play; as many as there are."""
    monkeypatch.setattr("vpt_jax.envs.vector.pool._PAUSES", (0.0, 0.01, 0.02, 0.04))


def counting(**arguments):
    return Game("tests.envs.toy_games:Counting", arguments, patience=PATIENCE)


def faulty(*faults, chance=1.0, **arguments):
    arguments |= {"faults": faults, "chance": chance}
    return Game("tests.envs.toy_games:Faulty", arguments, patience=PATIENCE)


def make_pool(game, rows=2, seeds=None, **options):
    """The rows share their seeds."""
    return Pool(game, [itertools.count(0) if seeds is None else seeds] * rows, SIZE, APPLES, **options)


def attack(pool, rows=2):
    return pool.act(np.tile(ATTACK, (rows, 1)), np.zeros((rows, 2), np.float32))


def shown(turn):
    """Seed and step in the pictures."""
    return turn.frames[:, 0, 0, :2].tolist()


def test_rows_are_streams_of_episodes_with_a_last_picture_in_which_nobody_plays():
    with make_pool(counting(steps=2)) as pool:
        turns = [pool.begin(), *(attack(pool) for _ in range(4))]
    assert [shown(turn)[0] for turn in turns] == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1]]
    assert [shown(turn)[1] for turn in turns] == [[1, 0], [1, 1], [1, 2], [3, 0], [3, 1]]
    for field, expected in {
        "first": [1, 0, 0, 1, 0],
        "playing": [1, 1, 0, 1, 1],
        "acted": [0, 1, 1, 0, 1],
        "reward": [0, 0.5, 0.5, 0, 0.5],
        "terminated": [0, 0, 0, 0, 0],
        "truncated": [0, 0, 1, 0, 0],
        "seed": [0, 0, 0, 2, 2],
    }.items():
        assert [getattr(turn, field)[0] for turn in turns] == expected, field


def test_first_episodes_of_unequal_lengths_leave_the_games_out_of_step():
    """At every turn, games are spread over the episode (fidelity D3)."""
    limits = [2, 4, None]
    with make_pool(counting(steps=6), rows=3, first_limits=limits) as pool:
        turns = [pool.begin(), *(attack(pool, 3) for _ in range(12))]
        episodes = pool.episodes()
    steps = np.array([[step for _, step in shown(turn)] for turn in turns])
    assert (steps[:3] == steps[:3, :1]).all()  # together at the beginning
    assert all(len(set(of_turn)) == 3 for of_turn in steps[7:])
    first = sorted((one.row, one.steps, one.ending) for one in episodes)
    assert first == [
        (0, 2, "shortened"),
        (0, 6, "truncated"),
        (1, 4, "shortened"),
        (1, 6, "truncated"),
        (2, 6, "truncated"),
    ]
    assert [turn.truncated.tolist() for turn in turns[:5]] == [[False] * 3] * 5


def test_episodes_are_counted_up_to_what_is_paid_for():
    with make_pool(counting(steps=5, truncates=False), rows=1) as pool:
        pool.begin()
        turns = [attack(pool, 1) for _ in range(5)]
        (episode,) = pool.episodes()
        assert pool.episodes() == []
    assert [turn.reward[0] for turn in turns] == [0.5, 0.5, 0.5, 0, 0]
    assert [turn.terminated[0] for turn in turns] == [False] * 4 + [True]
    assert episode[:5] == (0, 0, 5, 1.5, "terminated")
    assert episode.obtained == {"apples": 5}
    assert "name" not in episode.info


def test_actions_reach_their_game():
    buttons, camera = np.stack([ATTACK, 0 * ATTACK]), np.array([[0, 1.5], [0, -3]], np.float32)
    with make_pool(counting(steps=1)) as pool:
        pool.begin()
        pool.act(buttons, camera)
        infos = [episode.info for episode in pool.episodes()]
    assert [(info["apples"], info["turned"]) for info in infos] == [(1, 1.5), (0, -3)]


def test_the_pool_ends_with_its_seeds():
    with make_pool(counting(steps=1), seeds=iter([7, 0, 5])) as pool:
        pool.begin()
        while not pool.done:
            attack(pool)
        assert sorted(episode.seed for episode in pool.episodes()) == [0, 5, 7]


def test_a_game_is_started_anew_after_some_episodes():
    with make_pool(faulty("leak", steps=1), rows=1, episodes_per_process=2) as pool:
        pool.begin()
        for _ in range(9):
            attack(pool, 1)
        processes = [episode.info["process"] for episode in pool.episodes()]
        alive = len(marked(pool.mark))
    assert [len(list(group)) for _, group in itertools.groupby(processes)] == [2, 2, 1]
    assert 1 <= alive <= 5  # the newest game and its leaks, without those of the games before
    assert marked(pool.mark) == []


@pytest.mark.parametrize("fault", ["hang", "die", "fail", "babble", "lie"])
def test_a_lost_game_costs_its_episode_and_no_more(fault):
    with make_pool(faulty(fault, chance=0.1, steps=1000), rows=2, seeds=iter(range(6))) as pool:
        pool.begin()
        before = time.monotonic()
        while not pool.done:
            turn = attack(pool)
            assert not (turn.reward[~turn.acted]).any()
        episodes = pool.episodes()
        assert time.monotonic() - before < 60
    assert {episode.seed for episode in episodes} <= set(range(6))
    assert {episode.ending for episode in episodes} == {"lost"}
    assert all(episode.reward == 0.5 * min(episode.steps, 3) for episode in episodes)
    assert pool.lost >= len(episodes) > 0
    assert marked(pool.mark) == []


@pytest.mark.parametrize(("count", "chance"), [(40, 0.02), pytest.param(200, 0.01, marks=pytest.mark.slow)])
def test_episodes_with_faults_of_all_kinds_come_to_an_end(count, chance):
    game = faulty("hang", "die", "fail", "babble", "lie", "leak", chance=chance, steps=10)
    with make_pool(game, rows=4, seeds=iter(range(count)), wait_for_resets=False) as pool:
        pool.begin()
        slowest = 0.0
        while not pool.done:
            before = time.monotonic()
            attack(pool, 4)
            slowest = max(slowest, time.monotonic() - before)
        endings = [episode.ending for episode in pool.episodes()]
    assert len(endings) == count
    assert 0 < endings.count("lost") < count / 2
    assert slowest < PATIENCE.step + 4  # and what it takes to kill
    assert marked(pool.mark) == []


def test_what_cannot_be_made_is_said_once():
    game = Game("tests.envs.toy_games:unmakeable", patience=PATIENCE)
    with pytest.raises(GameLostError, match=r"(?s)in 5 tries.*install the game first"), make_pool(game) as pool:
        pool.begin()


def test_games_that_cannot_play_any_more_are_given_up(tmp_path):
    game = Game("tests.envs.toy_games:OnceOnly", {"file": str(tmp_path / "played"), "steps": 2}, patience=PATIENCE)
    with make_pool(game, rows=1) as pool:
        pool.begin()
        turns = (attack(pool, 1) for _ in range(4))
        with pytest.raises(GameLostError, match=r"(?s)in 5 tries.*File exists"):
            list(turns)
        assert [episode.ending for episode in pool.episodes()] == ["truncated"]
    assert pool.lost == 5


def test_nothing_is_left_of_a_pool_whose_process_is_killed():
    program = (
        "import numpy as np, time\n"
        "from tests.envs.test_pool import faulty, make_pool, attack\n"
        "pool = make_pool(faulty('leak', steps=100))\n"
        "pool.begin(); attack(pool); print(pool.mark, flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        mark = process.stdout.readline().strip()
        assert len(marked(mark)) >= 4  # two games, with what they leak
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 10
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert marked(mark) == []
