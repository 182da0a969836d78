"""No message, number or file size of a game ends the program that plays it: each costs an episode (attack M1)."""

import fcntl
import io
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.envs import hostile_game
from tests.envs.hostile_game import INVALID, SHAPES, answer, fill
from tests.envs.toy_games import SIZE
from vpt_jax.envs.rewards import REWARDS, Reward, Tally, counted
from vpt_jax.envs.vector import client as game_client
from vpt_jax.envs.vector.client import Game, GameClient, GameLostError, Patience
from vpt_jax.envs.vector.pool import Pool, _check_counts

APPLES = {"apples": Reward(0.5)}
BUTTONS, CAMERA = np.zeros(20, np.uint8), np.zeros(2)


class Client(GameClient):
    """A client whose game is the test: `game` is its end of the channel, `file` the descriptor of the picture."""

    def _start(self, python, channel, picture):
        self.game, self.file = socket.socket(fileno=os.dup(channel)), os.dup(picture)
        return SimpleNamespace(stdin=io.BytesIO(), wait=lambda seconds: 0)

    def kill(self):
        super().kill()
        self.game.close()
        os.close(self.file)

    def hear(self, form):
        """Let the game say something, and poll until that is an answer or a loss."""
        said = memoryview(fill(form, self._number))
        while said:
            self.game.setblocking(False)
            with suppress(BlockingIOError):
                said = said[self.game.send(said) :]
            if (heard := self.poll()) is not None:
                return heard
        return self.poll()


@pytest.fixture
def client():
    started = Client(Game("module:game"), "mark")
    yield started
    started.kill()


@pytest.fixture
def playing(client):
    os.ftruncate(client.file, 4 * 6 * 3)
    client.hear(b'{"shape": [4, 6, 3], "number": %d}\n')
    client.step(BUTTONS, CAMERA)
    return client


@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_message_is_a_lost_game(playing, kind):
    if kind == "beyond any count":
        return  # the pool's to judge, below
    with pytest.raises(GameLostError) as lost:
        playing.hear(INVALID[kind])
    assert str(lost.value).isprintable()
    assert len(str(lost.value)) < 3000


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_that_is_none_is_a_lost_game(client, kind):
    with pytest.raises(GameLostError, match="shape"):
        client.hear(b'{"shape": ' + SHAPES[kind].encode() + b', "number": %d}\n')


def test_what_is_valid_is_taken(playing):
    assert playing.hear(b"{}\n{}\n" + answer(b'{"apples": 1, "x": -0.5}')) == ({"apples": 1.0, "x": -0.5}, False, False)
    playing.step(BUTTONS, CAMERA)
    assert playing.hear(answer(b'{"largest": 3.4e38}', more=b', "terminated": true')).terminated
    playing.step(BUTTONS, CAMERA)
    assert playing.hear(b"{}\n" * 300_000) is None  # signs of life, at no cost that grows with their square


def test_an_answer_that_came_before_its_question_is_no_answer(playing):
    playing.hear(answer())
    playing.game.send(fill(answer(), playing._number))
    playing.step(BUTTONS, CAMERA)
    with pytest.raises(GameLostError, match="nobody asked for"):
        playing.poll()


@pytest.mark.parametrize("size", [0, 1, 71])
def test_a_picture_that_shrinks_is_a_lost_game(playing, size):
    os.pwrite(playing.file, bytes(range(72)), 0)
    assert playing.picture().tobytes() == bytes(range(72))
    os.ftruncate(playing.file, size)
    with pytest.raises(GameLostError, match="left no room for its picture"):
        playing.picture()


def test_a_picture_that_grows_is_read_as_far_as_it_goes(playing):
    os.ftruncate(playing.file, 1 << 40)
    assert playing.picture().shape == (4, 6, 3)


def test_flags_of_the_shared_file_do_no_harm(playing):
    with suppress(OSError):  # not every file system has it
        fcntl.fcntl(playing.file, fcntl.F_SETFL, os.O_DIRECT)
    with suppress(GameLostError):
        playing.picture()


def test_what_a_game_prints_does_not_fill_the_disk(playing, monkeypatch):
    monkeypatch.setattr(game_client, "_LARGEST_OUTPUT", 1 << 16)
    output = playing._output.fileno()
    os.write(output, b"x" * (1 << 17))
    playing.hear(answer())
    os.write(output, b"last words \x1b[2J")  # the writer goes on at its place
    assert os.fstat(output).st_blocks * 512 < 1 << 16
    assert playing._last_words() == r"; its last words: last words \x1b[2J"


def hostile(monkeypatch, *faults):
    """A game whose episode of seed i has the i-th fault."""
    monkeypatch.setattr(game_client, "_SERVER", Path(hostile_game.__file__))
    return Game("module:game", {"faults": faults}, patience=Patience(start=20, reset=5, step=5, beat=60))


def endings(game, seeds):
    with Pool(game, [iter(range(seeds))], SIZE, APPLES) as pool:
        turns = [pool.begin()]
        while not pool.done:
            turns.append(pool.act(BUTTONS[None], CAMERA[None]))
        assert all(np.isfinite(turn.reward).all() for turn in turns)
        return [episode.ending for episode in pool.episodes()]


def test_a_pool_outlives_what_its_games_do(monkeypatch):
    faults = ["", "shrink", "deep info", "beyond any count", "three at once", ""]
    assert endings(hostile(monkeypatch, *faults), len(faults)) == ["truncated", *["lost"] * 4, "truncated"]


@pytest.mark.parametrize(
    "name",
    ["diamond_pickaxe", "crafted.diamond_pickaxe", "crafted.planks", "chest", "iron_sword", "crafted.iron_sword"],
)
def test_no_count_that_rewards_depend_on_is_beyond_what_games_have(name):
    """Neither what is crafted nor what is made of paid items gives infinite rewards."""
    for count in (3e38, -3e38, float("nan")):
        with pytest.raises(GameLostError, match=f"of '{name}', beyond"):
            _check_counts({name: count}, REWARDS["diamond"])
    _check_counts({name: 1e9, "elsewhere": 3e38}, REWARDS["diamond"])
    _check_counts({name: 3e38}, REWARDS["explore"])  # of which nothing there depends


def test_a_reward_depends_on_no_count_that_is_not_looked_at():
    table = REWARDS["diamond"]
    looked_at = Looked()
    Tally(table, looked_at).pay(looked_at)
    assert looked_at.names == counted(table)


class Looked(dict):
    """Counts of nothing, which note what is asked for."""

    def __init__(self):
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return default

    def __contains__(self, name):
        self.names.add(name)
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_no_process_outlives_its_game_by_cleaning_its_environment(monkeypatch, tmp_path):
    file = tmp_path / "process"
    assert endings(hostile(monkeypatch, str(file)), 1) == ["truncated"]
    assert not Path("/proc", file.read_text()).exists()


def test_a_pool_without_a_size_keeps_that_of_its_first_picture():
    """Pictures of another size cannot be put beside the first."""
    pool = SimpleNamespace(size=None)
    from vpt_jax.envs.vector.pool import _Row

    row = SimpleNamespace(_pool=pool)
    assert _Row._look(row, np.zeros((4, 6, 3), np.uint8)).shape == (4, 6, 3)
    assert _Row._look(row, np.zeros((8, 6, 3), np.uint8)).shape == (4, 6, 3)
    with pytest.raises(GameLostError, match="shows 2x6 pixels"):
        _Row._look(row, np.zeros((2, 6, 3), np.uint8))
