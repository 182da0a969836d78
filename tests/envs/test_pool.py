"""The pool of game processes: streams of episodes, rewards, lost games, and clean-up."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.envs.toy_games import SIZE
from vpt_jax.actions.minerl import BUTTON_INDEX
from vpt_jax.envs.processes.reaper import MARK, marked
from vpt_jax.envs.rewards import Reward
from vpt_jax.envs.vector.client import EnvLostError, EnvSpec, Timeouts
from vpt_jax.envs.vector.pool import Pool, choose_cores, split_rows

APPLES = {"apples": Reward(0.5, 3)}
TIMEOUTS = Timeouts(start=20, reset=1, step=1, heartbeat=3)
ATTACK = np.zeros(20, np.uint8)
ATTACK[BUTTON_INDEX["attack"]] = 1


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shorter pauses between the retries of a row, equal in number to the real ones."""
    monkeypatch.setattr("vpt_jax.envs.vector.game_process._RETRY_PAUSES", (0.0, 0.01, 0.02, 0.04))


def counting(games_per_process=1, **arguments):
    return EnvSpec("tests.envs.toy_games:Counting", arguments, "", TIMEOUTS, games_per_process=games_per_process)


def faulty(*faults, chance=1.0, games_per_process=1, **arguments):
    arguments |= {"faults": faults, "chance": chance}
    return EnvSpec("tests.envs.toy_games:Faulty", arguments, "", TIMEOUTS, games_per_process=games_per_process)


@pytest.fixture
def one_core(monkeypatch):
    """One core: a pool then has as few processes as `games_per_process` allows."""
    monkeypatch.setattr("vpt_jax.envs.vector.pool.available_cores", lambda: 1)


def make_pool(game, rows=2, seeds=None, **options):
    """A pool whose rows share their seeds."""
    return Pool(game, [itertools.count(0) if seeds is None else seeds] * rows, SIZE, APPLES, **options)


def attack(pool, rows=2):
    return pool.step(np.tile(ATTACK, (rows, 1)), np.zeros((rows, 2), np.float32))


def seed_and_step(time_step):
    """Seed and step, as encoded in the frames."""
    return time_step.frames[:, 0, 0, :2].tolist()


def test_rows_are_streams_of_episodes_with_one_idle_step_for_the_last_frame():
    with make_pool(counting(steps=2)) as pool:
        time_steps = [pool.begin(), *(attack(pool) for _ in range(4))]
    assert [seed_and_step(time_step)[0] for time_step in time_steps] == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1]]
    assert [seed_and_step(time_step)[1] for time_step in time_steps] == [[1, 0], [1, 1], [1, 2], [3, 0], [3, 1]]
    for field, expected in {
        "first": [1, 0, 0, 1, 0],
        "playing": [1, 1, 0, 1, 1],
        "acted": [0, 1, 1, 0, 1],
        "reward": [0, 0.5, 0.5, 0, 0.5],
        "terminated": [0, 0, 0, 0, 0],
        "truncated": [0, 0, 1, 0, 0],
        "seed": [0, 0, 0, 2, 2],
    }.items():
        assert [getattr(time_step, field)[0] for time_step in time_steps] == expected, field


def test_first_episodes_of_unequal_lengths_desynchronize_the_games():
    """At any time, games are at different steps of their episodes (fidelity D3)."""
    limits = [2, 4, None]
    with make_pool(counting(steps=6), rows=3, first_limits=limits) as pool:
        time_steps = [pool.begin(), *(attack(pool, 3) for _ in range(12))]
        episodes = pool.episodes()
    steps = np.array([[step for _, step in seed_and_step(time_step)] for time_step in time_steps])
    assert (steps[:3] == steps[:3, :1]).all()  # together at the beginning
    assert all(len(set(row)) == 3 for row in steps[7:])
    first = sorted((one.row, one.steps, one.ending) for one in episodes)
    assert first == [
        (0, 2, "shortened"),
        (0, 6, "truncated"),
        (1, 4, "shortened"),
        (1, 6, "truncated"),
        (2, 6, "truncated"),
    ]
    assert [time_step.truncated.tolist() for time_step in time_steps[:5]] == [[False] * 3] * 5


def test_rewards_are_limited_to_the_quantity():
    with make_pool(counting(steps=5, truncates=False), rows=1) as pool:
        pool.begin()
        time_steps = [attack(pool, 1) for _ in range(5)]
        (episode,) = pool.episodes()
        assert pool.episodes() == []
    assert [time_step.reward[0] for time_step in time_steps] == [0.5, 0.5, 0.5, 0, 0]
    assert [time_step.terminated[0] for time_step in time_steps] == [False] * 4 + [True]
    assert episode[:5] == (0, 0, 5, 1.5, "terminated")
    assert episode.obtained == {"apples": 5}
    assert "name" not in episode.info


def test_actions_reach_their_game():
    buttons, camera = np.stack([ATTACK, 0 * ATTACK]), np.array([[0, 1.5], [0, -3]], np.float32)
    with make_pool(counting(steps=1)) as pool:
        pool.begin()
        pool.step(buttons, camera)
        infos = [episode.info for episode in pool.episodes()]
    assert [(info["apples"], info["turned"]) for info in infos] == [(1, 1.5), (0, -3)]


def test_games_that_share_a_process_play_as_those_that_do_not(one_core):
    """Rows with episodes of different lengths: some begin an episode while others play."""
    time_steps, episodes = [], []
    for together in (1, 2, 5):
        seeds = [itertools.count(100 * row) for row in range(5)]
        game = counting(together, steps=3)
        with Pool(game, seeds, SIZE, APPLES, first_limits=[1, 2, None, 1, 2], episodes_per_process=2) as pool:
            keys = np.tile(ATTACK, (5, 1)) * np.array([[1], [0], [1], [1], [0]], np.uint8)
            turns = np.arange(10, dtype=np.float32).reshape(5, 2)
            time_steps.append([pool.begin(), *(pool.step(keys, turns) for _ in range(12))])
            episodes.append([episode._replace(info=episode.info | {"process": 0}) for episode in pool.episodes()])
            processes = {mark_of(pid).split(".")[1] for pid in marked(pool.mark)}
            assert len(processes) == -(-5 // together)
    for others in time_steps[1:]:
        for one, other in zip(time_steps[0], others, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)
    assert episodes[0] == episodes[1] == episodes[2]
    assert len(episodes[0]) > 10


def mark_of(pid):
    """The mark in the environment of a process."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(one for one in variables if one.startswith(MARK.encode())).decode().partition("=")[2]


def test_a_game_that_fails_in_a_step_costs_the_others_of_its_process_nothing(one_core):
    game = EnvSpec("tests.envs.toy_games:FailsAt", {"seed": 2, "step": 3}, "", TIMEOUTS, games_per_process=3)
    with make_pool(game, rows=3, seeds=iter(range(3))) as pool:
        pool.begin()
        while not pool.done:
            attack(pool, 3)
        episodes = sorted(pool.episodes(), key=lambda episode: episode.seed)
    assert [(episode.ending, episode.steps) for episode in episodes] == [("truncated", 5)] * 2 + [("lost", 2)]
    assert "step 3 of seed 2" in episodes[2].reason
    assert pool.lost == 1
    assert len({episode.info["process"] for episode in episodes}) == 1


def test_a_game_that_fails_in_every_first_step_ends_the_run(one_core):
    game = EnvSpec("tests.envs.toy_games:FailsAt", {"seed": None, "step": 1}, "", TIMEOUTS, games_per_process=2)
    with make_pool(game) as pool:
        pool.begin()
        steps = (attack(pool) for _ in range(20))
        with pytest.raises(EnvLostError, match=r"(?s)in 5 tries.*step 1 of seed"):
            list(steps)
    assert [episode.steps for episode in pool.episodes()] == [0] * pool.lost


def test_a_process_that_dies_costs_the_episodes_of_its_games(one_core):
    with make_pool(faulty("die", chance=0.1, steps=6, games_per_process=2), rows=4, seeds=iter(range(24))) as pool:
        pool.begin()
        while not pool.done:
            time_step = attack(pool, 4)
            assert not time_step.reward[~time_step.acted].any()
        episodes = pool.episodes()
    assert sorted(episode.seed for episode in episodes) == list(range(24))
    lost = [episode for episode in episodes if episode.ending == "lost"]
    assert 0 < len(lost) <= pool.lost
    assert all(episode.steps == 6 for episode in episodes if episode.ending == "truncated")


def test_games_of_a_process_are_made_anew_after_episodes_per_process(one_core):
    game = EnvSpec("tests.envs.toy_games:CountsItsEpisodes", {"steps": 1}, "", TIMEOUTS, games_per_process=2)
    with make_pool(game, seeds=iter(range(12)), episodes_per_process=2) as pool:
        pool.begin()
        while not pool.done:
            attack(pool)
        episodes = pool.episodes()
    assert [episode.info["episodes"] for episode in episodes if episode.row == 0] == [1, 2, 1, 2, 1, 2]
    assert len({episode.info["process"] for episode in episodes}) == 1


@pytest.mark.parametrize(("rows", "most", "cores", "sizes"), [
    (16, 1, 2, [1] * 16), (16, 16, 2, [8, 8]), (16, 4, 2, [4] * 4), (5, 16, 2, [2, 3]), (2, 16, 8, [1, 1]),
    (33, 16, 1, [11, 11, 11]), (40, 16, 2, [10] * 4), (3, 1, 2, [1] * 3),
])  # fmt: skip
def test_rows_are_split_evenly_over_the_cores(rows, most, cores, sizes):
    groups = split_rows(list(range(rows)), most, cores)
    assert [len(group) for group in groups] == sizes
    assert [row for group in groups for row in group] == list(range(rows))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_processes_of_a_pool_that_uses_all_cores_stay_on_one_each():
    cores = sorted(os.sched_getaffinity(0))
    assert choose_cores(len(cores)) == choose_cores(2 * len(cores)) == cores
    assert choose_cores(len(cores) + 1) == ([None] if len(cores) > 1 else cores)
    for one_core in (True, False):
        with make_pool(replace(counting(steps=1), one_core=one_core), rows=2 * len(cores)) as pool:
            pool.begin()
            attack(pool, 2 * len(cores))
            bound = [os.sched_getaffinity(int(episode.info["process"])) for episode in pool.episodes()]
        assert bound == ([{core} for core in 2 * cores] if one_core else [{*cores}] * len(bound))


def test_the_games_play_between_send_and_receive():
    with make_pool(counting(steps=9)) as pool:
        pool.start()
        first = pool.receive()
        pool.send(np.tile(ATTACK, (2, 1)), np.zeros((2, 2), np.float32))
        second = pool.receive()
    assert [seed_and_step(first)[0], seed_and_step(second)[0]] == [[0, 0], [0, 1]]


def test_the_pool_ends_with_its_seeds():
    with make_pool(counting(steps=1), seeds=iter([7, 0, 5])) as pool:
        pool.begin()
        while not pool.done:
            attack(pool)
        assert sorted(episode.seed for episode in pool.episodes()) == [0, 5, 7]


def test_a_game_is_restarted_after_episodes_per_process():
    with make_pool(faulty("leak", steps=1), rows=1, episodes_per_process=2) as pool:
        pool.begin()
        for _ in range(9):
            attack(pool, 1)
        processes = [episode.info["process"] for episode in pool.episodes()]
        alive = len(marked(pool.mark))
    assert [len(list(group)) for _, group in itertools.groupby(processes)] == [2, 2, 1]
    assert 1 <= alive <= 5  # the newest game and its leaked processes, without those of earlier games
    assert marked(pool.mark) == []


@pytest.mark.parametrize("fault", ["hang", "die", "fail", "babble", "lie"])
def test_a_lost_game_costs_only_its_episode(fault):
    with make_pool(faulty(fault, chance=0.05, steps=1000), rows=2, seeds=iter(range(6))) as pool:
        pool.begin()
        before = time.monotonic()
        while not pool.done:
            time_step = attack(pool)
            assert not (time_step.reward[~time_step.acted]).any()
        episodes = pool.episodes()
        assert time.monotonic() - before < 60
    assert {episode.seed for episode in episodes} <= set(range(6))
    assert {episode.ending for episode in episodes} == {"lost"}
    assert all(episode.reward == 0.5 * min(episode.steps, 3) for episode in episodes)
    assert pool.lost >= len(episodes) > 0
    assert marked(pool.mark) == []


@pytest.mark.parametrize(("count", "chance"), [(40, 0.02), pytest.param(200, 0.01, marks=pytest.mark.slow)])
def test_all_episodes_end_despite_faults_of_all_kinds(count, chance):
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
    assert slowest < TIMEOUTS.step + 4  # plus the time to kill a game
    assert marked(pool.mark) == []


def test_a_game_that_cannot_be_made_is_reported_once():
    game = EnvSpec("tests.envs.toy_games:unmakeable", timeouts=TIMEOUTS)
    with pytest.raises(EnvLostError, match=r"(?s)in 5 tries.*install the game first"), make_pool(game) as pool:
        pool.begin()


def test_a_row_gives_up_after_repeated_failures(tmp_path):
    game = EnvSpec("tests.envs.toy_games:OnceOnly", {"file": str(tmp_path / "played"), "steps": 2}, timeouts=TIMEOUTS)
    with make_pool(game, rows=1) as pool:
        pool.begin()
        time_steps = (attack(pool, 1) for _ in range(4))
        with pytest.raises(EnvLostError, match=r"(?s)in 5 tries.*File exists"):
            list(time_steps)
        assert [episode.ending for episode in pool.episodes()] == ["truncated"]
    assert pool.lost == 5


def test_no_game_outlives_a_killed_pool():
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
