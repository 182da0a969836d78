"""CS:GO files written by h5py: frames, keys, mouse and times; what is excluded; broken and hostile files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.bridges.common_play import KEYS, CommonPlay, make_play
from vpt_jax.data.bridges.csgo import BRIDGE
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.pairing import checked_events
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.errors import UserError

# The order of the published files: by their code, not by its comment.
ORDER = ("w", "a", "s", "d", "space", "left_control", "left_shift", "1", "2", "3", "r", "mouse.left", "mouse.right")
X = [-1000, -500, -300, -200, -100, -60, -30, -20, -10, -4, -2, 0, 2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000]
Y = [-200, -100, -50, -20, -10, -4, -2, 0, 2, 4, 10, 20, 50, 100, 200]


def write(folder: Path, name: str, play: CommonPlay) -> None:
    """Write the play as one file, with the player alive throughout."""
    with h5py.File(folder / f"{name}.hdf5", "w") as file:
        for step, frame in enumerate(play.frames):
            held = {key for key, down in zip(KEYS, play.held[step], strict=True) if down}
            write_step(file, step, frame, held, play.mouse[step])


def write_step(file, step, frame, held, mouse, health_before=1.0):
    label = [key in held for key in ORDER] + [value == mouse[0] for value in X] + [value == mouse[1] for value in Y]
    auxiliary = np.zeros(54)
    auxiliary[15] = health_before if step else 0  # the first frame has no step before it
    file[f"frame_{step}_x"] = frame[..., ::-1]
    file[f"frame_{step}_y"] = np.array(label, np.float64)
    file[f"frame_{step}_xaux"] = auxiliary
    file[f"frame_{step}_helperarr"] = np.zeros(2)


def small(path, actions, health=None):
    """A file of tiny frames; `actions` has held keys and mouse counts, `health` that after each step."""
    health = health or [1.0] * len(actions)
    with h5py.File(path, "w") as file:
        for step, (held, mouse) in enumerate(actions):
            frame = np.full((4, 6, 3), [10 + step, 20, 30], np.uint8)
            write_step(file, step, frame, held, mouse, health[step - 1])
    return path


def read(path, **options):
    (play,) = BRIDGE.read(path, BridgeOptions(**options)).values()
    return play


def listed(play):
    events = checked_events(play.events, Path("a.hdf5"))
    return [(time, events.names[code], value) for time, code, value in zip(*events[2:], strict=True)]


def test_a_file_is_found_with_its_times_keys_mouse_and_colours(tmp_path):
    path = small(tmp_path / "hdf5_dm_1.hdf5", [((), (0, 0)), (("w", "left_control"), (-1000, 0)), (("w",), (2, 200))])
    assert BRIDGE.find(tmp_path) == BRIDGE.files(path) == [path]
    play = read(path)
    assert listed(play) == [
        (1 / 16, "w", 1), (1 / 16, "left_control", 1), (1 / 16, "mouse.x", -1000),
        (2 / 16, "left_control", 0), (2 / 16, "mouse.x", 2), (2 / 16, "mouse.y", 200),
    ]  # fmt: skip
    frames = list(play.frames())
    assert [time for time, _ in frames] == [0, 1 / 16, 2 / 16]
    assert frames[2][1].shape == (4, 6, 3)
    assert frames[2][1][0, 0].tolist() == [12, 20, 30]
    assert (play.events.num_keys, play.facts["session"], play.excluded) == (13, "hdf5_dm_1", ())


def test_the_common_play_comes_back_step_by_step(tmp_path):
    play = make_play(tmp_path, steps=30)
    write(tmp_path, "common", play)
    found = read(tmp_path / "common.hdf5", frames_per_second=20)
    held, mouse = np.zeros((30, len(KEYS)), bool), np.zeros((30, 2), int)
    for time, name, value in listed(found):
        step = round(time * 20)
        if name in KEYS:
            held[step:, KEYS.index(name)] = value
        else:
            mouse[step, int(name == "mouse.y")] += int(value)
    assert np.array_equal(held, play.held)
    assert np.array_equal(mouse, play.mouse)
    assert np.array_equal([frame for _, frame in found.frames()], play.frames)


def test_steps_while_the_player_is_dead_are_excluded(tmp_path):
    path = small(tmp_path / "a.hdf5", [((), (0, 0))] * 6, health=[1, 1, 0, 0, 1, 1])
    play = read(path)
    assert play.excluded == ((2 / 16, 5 / 16),)  # the step after death has no label either
    assert "3 of 6 steps while the player was dead" in play.remarks[1]


def broken(path, reason):
    with pytest.raises(BrokenRecordingError) as error:
        list(read(path).frames())
    assert (error.value.path, error.value.reason) == (path, reason)
    return error.value.detail


def test_broken_files_are_named_with_the_dataset(tmp_path):
    path = tmp_path / "a.hdf5"
    assert "no such file" in broken(path, "missing actions")
    path.write_bytes(b"nothing")
    broken(path, "unreadable actions")
    h5py.File(path, "w").close()
    broken(path, "no records")
    steps = [((), (0, 0))] * 3
    for name, value, reason in (
        ("frame_1_y", np.zeros(50), "bad value"),
        ("frame_1_y", np.zeros(51), "bad value"),
        ("frame_1_y", np.full(51, np.nan), "bad value"),
        ("frame_1_xaux", np.zeros(3), "bad value"),
        ("frame_1_x", np.zeros((4, 6), np.uint8), "bad value"),
        ("frame_1_x", np.zeros((4, 6, 3), np.float32), "bad value"),
        ("frame_1_y", None, "missing field"),
        ("frame_1_x", None, "frame count"),
    ):
        with h5py.File(small(path, steps), "a") as file:
            del file[name]
            if value is not None:
                file[name] = value
        assert name in broken(path, reason)


def test_contents_of_other_files_are_refused(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(51 * 8))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["labels"] = np.zeros(51)
    path = tmp_path / "a.hdf5"
    for hostile in (
        lambda file: file.create_dataset("frame_1_y", (51,), "f8", external=[(str(secret), 0, 408)]),
        lambda file: file.__setitem__("frame_1_y", h5py.ExternalLink(str(tmp_path / "other.h5"), "labels")),
        lambda file: file.__setitem__("frame_1_y", h5py.SoftLink("/frame_0_y")),
        lambda file: file.create_dataset("frame_1_x2", (1 << 40,), "u1", chunks=True),
    ):
        with h5py.File(small(path, [((), (0, 0))] * 2), "a") as file:
            del file["frame_1_y"]
            hostile(file)
        with pytest.raises(BrokenRecordingError, match="frame_1_y"):
            read(path)


def test_damage_anywhere_in_a_file_is_a_broken_recording(tmp_path):
    path = small(tmp_path / "a.hdf5", [(("w",), (2, 2)), ((), (0, 0))] * 4)
    whole, reasons = path.read_bytes(), set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(len(damaged), size=4)] = rng.integers(256, size=4)
        path.write_bytes(damaged[: rng.integers(len(damaged)) if seed % 5 == 0 else None].tobytes())
        try:
            list(read(path).frames())
        except BrokenRecordingError as error:
            reasons.add(error.reason)
    assert {"unreadable actions", "bad value"} <= reasons


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    path = small(tmp_path / "a.hdf5", [((), (0, 0))] * 2)
    with h5py.File(path, "a") as file:
        del file["frame_1_x"]
        file.create_dataset("frame_1_x", (1 << 20, 1 << 20, 3), "u1", chunks=(64, 64, 3))  # nothing is stored
    assert "frame_1_x" in broken(path, "absurd size")


def test_an_absurd_rate_is_refused(tmp_path):
    with pytest.raises(UserError, match="frames_per_second"):
        read(small(tmp_path / "a.hdf5", [((), (0, 0))]), frames_per_second=1e9)
