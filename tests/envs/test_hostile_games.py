"""No message, number or file size of a game ends the client: each costs one episode (attack M1)."""

import fcntl
import io
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.envs import hostile_game
from tests.envs.hostile_game import ANSWERS, INVALID, SHAPES, VALUES, fill, names, write_block
from tests.envs.toy_games import SIZE
from vpt_jax.envs.rewards import REWARDS, Reward, RewardTracker, tracked_names
from vpt_jax.envs.vector import client as client_module
from vpt_jax.envs.vector.client import EnvClient, EnvLostError, EnvSpec, StepResult, Timeouts
from vpt_jax.envs.vector.episode_stream import check_counts
from vpt_jax.envs.vector.pool import Pool

APPLES = {"apples": Reward(0.5)}
BUTTONS, CAMERA = np.zeros(20, np.uint8), np.zeros(2)


class Client(EnvClient):
    """Client whose game is the test: `game` is the game's end of the channel, `file` the descriptor of the block."""

    def _start(self, python, channel, block):
        self.game, self.file = socket.socket(fileno=os.dup(channel)), os.dup(block)
        return SimpleNamespace(stdin=io.BytesIO(), wait=lambda seconds: 0)

    def kill(self):
        super().kill()
        self.game.close()
        os.close(self.file)

    def receive(self, template):
        """Send a message from the game, and poll until it is an answer or the game is lost."""
        unsent = memoryview(fill(template, self._number))
        while unsent:
            self.game.setblocking(False)
            with suppress(BlockingIOError):
                unsent = unsent[self.game.send(unsent) :]
            if (answer := self.poll()) is not None:
                return answer
        return self.poll()


@pytest.fixture
def client():
    started = Client(EnvSpec("module:game"), "mark")
    yield started
    started.kill()


def step(client):
    client.step(0, BUTTONS, CAMERA)
    client.send()


@pytest.fixture
def playing(client):
    """A client whose game, `info` {"apples": 1}, has a step to carry out."""
    os.ftruncate(client.file, ANSWERS + 88)
    client.receive(b'{"shape": [4, 6, 3], "number": %d}\n')
    client.reset(0, 7)
    client.send()
    write_block(client.file, 0, 1)
    assert client.receive(names()) == [StepResult({"apples": 1.0})]
    step(client)
    return client


@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_message_is_a_lost_game(playing, kind):
    with pytest.raises(EnvLostError) as lost:
        playing.receive(INVALID[kind])
    assert str(lost.value).isprintable()
    assert len(str(lost.value)) < 3000


@pytest.mark.parametrize("kind", VALUES)
def test_invalid_values_are_a_lost_game(playing, kind):
    if kind == "beyond any count":
        return  # checked by the pool, below
    write_block(playing.file, 0, VALUES[kind])
    with pytest.raises(EnvLostError, match="numbers beyond float32"):
        playing.receive(b"%d\n")


@pytest.mark.parametrize("kind", SHAPES)
def test_an_invalid_shape_is_a_lost_game(client, kind):
    with pytest.raises(EnvLostError, match="shape"):
        client.receive(b'{"shape": ' + SHAPES[kind].encode() + b', "number": %d}\n')


def test_valid_messages_are_accepted(playing):
    assert playing.receive(b"{}\n{}\n%d\n") == [StepResult({"apples": 1.0})]
    step(playing)
    write_block(playing.file, 1, 3.4e38)
    assert playing.receive(names(b'[["largest"]]')) == [StepResult({"largest": 3.4e38}, terminated=True)]
    step(playing)
    write_block(playing.file, 2, 0)
    assert playing.receive(b"%d\n") == [StepResult({"largest": 0.0}, truncated=True)]
    step(playing)
    assert playing.receive(b"{}\n" * 300_000) is None  # heartbeats, at a cost that is not quadratic in their number


def test_games_without_a_request_have_no_result():
    client = Client(EnvSpec("module:game"), "mark", games=3)
    os.ftruncate(client.file, ANSWERS + 256)
    client.receive(b'{"shape": [4, 6, 3], "number": %d}\n')
    client.reset(1, 7)
    client.send()
    os.pwrite(client.file, struct.pack("=3d", 1, 2, 3), ANSWERS + 224)  # 3 x (1 + 72) bytes, and padding
    results = client.receive(names(b'[["x"], ["y", "z"], []]'))
    assert results == [None, StepResult({"y": 2.0, "z": 3.0}), None]
    client.kill()


def test_an_answer_before_its_request_is_a_lost_game(playing):
    playing.receive(b"%d\n")
    playing.game.send(fill(b"%d\n", playing._number))
    step(playing)
    with pytest.raises(EnvLostError, match="answers no request"):
        playing.poll()


@pytest.mark.parametrize("size", [0, ANSWERS, ANSWERS + 1, ANSWERS + 87])
def test_a_truncated_block_is_a_lost_game(playing, size):
    os.pwrite(playing.file, bytes(range(72)), ANSWERS + 1)
    playing.receive(b"%d\n")
    assert playing.frames.tobytes() == bytes(range(72))
    step(playing)
    os.ftruncate(playing.file, size)
    with pytest.raises(EnvLostError, match="frame is shorter than the frame"):
        playing.receive(b"%d\n")


def test_a_block_that_grows_is_read_up_to_its_size(playing):
    os.ftruncate(playing.file, 1 << 40)
    playing.receive(b"%d\n")
    assert playing.frames.shape == (1, 4, 6, 3)


def test_flags_of_the_shared_file_do_no_harm(playing):
    with suppress(OSError):  # not every file system has it
        fcntl.fcntl(playing.file, fcntl.F_SETFL, os.O_DIRECT)
    with suppress(EnvLostError):
        playing.receive(b"%d\n")


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_a_block_that_the_game_seals_is_a_lost_game(client):
    """The game may forbid writing to the block: it then gets no request, and does not answer in time."""
    client.receive(b'{"shape": [4, 6, 3], "number": %d}\n')
    with suppress(OSError):  # not allowed for this file
        fcntl.fcntl(client.file, 1033, 0x0008)  # F_ADD_SEALS, F_SEAL_WRITE
    step(client)
    assert client.poll() is None


def test_output_of_a_game_does_not_fill_the_disk(playing, monkeypatch):
    monkeypatch.setattr(client_module, "_MAX_OUTPUT_BYTES", 1 << 16)
    output = playing._output.fileno()
    os.write(output, b"x" * (1 << 17))
    playing.receive(b"%d\n")
    os.write(output, b"last words \x1b[2J")  # the writer continues at its offset
    assert os.fstat(output).st_blocks * 512 < 1 << 16
    assert playing._output_tail() == r"; the end of its output: last words \x1b[2J"


def hostile(monkeypatch, *faults):
    """Specification of a game whose episode of seed i has the i-th fault."""
    monkeypatch.setattr(client_module, "_SERVER", Path(hostile_game.__file__))
    return EnvSpec("module:game", {"faults": faults}, timeouts=Timeouts(start=20, reset=5, step=5, heartbeat=60))


def endings(game, seeds):
    with Pool(game, [iter(range(seeds))], SIZE, APPLES) as pool:
        time_steps = [pool.begin()]
        while not pool.done:
            time_steps.append(pool.step(BUTTONS[None], CAMERA[None]))
        assert all(np.isfinite(time_step.reward).all() for time_step in time_steps)
        return [episode.ending for episode in pool.episodes()]


def test_a_pool_survives_the_faults_of_its_games(monkeypatch):
    faults = ["", "shrink", "deep names", "beyond any count", "three at once", ""]
    assert endings(hostile(monkeypatch, *faults), len(faults)) == ["truncated", *["lost"] * 4, "truncated"]


@pytest.mark.parametrize(
    "name",
    ["diamond_pickaxe", "crafted.diamond_pickaxe", "crafted.planks", "chest", "iron_sword", "crafted.iron_sword"],
)
def test_implausible_counts_of_rewarded_items_are_refused(name):
    """Neither crafted items nor products of rewarded items give infinite rewards."""
    for count in (3e38, -3e38, float("nan")):
        with pytest.raises(EnvLostError, match=f"of '{name}', beyond"):
            check_counts({name: count}, REWARDS["diamond"])
    check_counts({name: 1e9, "elsewhere": 3e38}, REWARDS["diamond"])
    check_counts({name: 3e38}, REWARDS["explore"])  # on which no reward there depends


def test_all_counts_that_a_reward_depends_on_are_tracked():
    table = REWARDS["diamond"]
    info = RecordingInfo()
    RewardTracker(table, info).update(info)
    assert info.names == tracked_names(table)


class RecordingInfo(dict):
    """Empty info that records the names requested."""

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


def test_a_pool_without_a_size_keeps_that_of_its_first_frame():
    """Frames of different sizes cannot be stacked."""
    pool = SimpleNamespace(size=None)
    assert Pool._fit_frame(pool, np.zeros((4, 6, 3), np.uint8)).shape == (4, 6, 3)
    assert Pool._fit_frame(pool, np.zeros((8, 6, 3), np.uint8)).shape == (4, 6, 3)
    with pytest.raises(EnvLostError, match="renders 2x6 pixels"):
        Pool._fit_frame(pool, np.zeros((2, 6, 3), np.uint8))
