"""Readers with flipped, cut and doubled bytes: a named error, or events that pair; never another exception."""

import re
import shutil
import sys
from importlib import import_module

import numpy as np
import pytest

from tests.data.bridges.common_play import make_play
from tests.data.bridges.test_prepared import SPACE
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.pairing import kept_ranges, pair_actions
from vpt_jax.data.bridges.registry import load_bridge
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.errors import MissingPackageError


def damaged(data, rng):
    """Bytes with a random defect."""
    data, place = bytearray(data), int(rng.integers(len(data)))
    kind = rng.integers(4)
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[place : place + 20] = rng.integers(0, 256, 20, np.uint8).tobytes()
    elif kind == 2:
        del data[place:]
    else:
        data[place:place] = data[place : place + int(rng.integers(1, 200))]
    return bytes(data)


@pytest.mark.parametrize("name", ["event_table", "owl_control", "crowd_cast"])
def test_damaged_events_are_named_or_pair(name, tmp_path):
    rng = np.random.default_rng(3)
    play = make_play(tmp_path)
    (tmp_path / "in").mkdir()
    import_module(f"tests.data.bridges.test_{name}").write(tmp_path / "in", "take", play)
    bridge, broken = load_bridge(name), []
    (recording,) = bridge.find(tmp_path / "in")
    files = {file: file.read_bytes() for file in bridge.files(recording) if file.suffix != ".mp4"}
    for _ in range(60):
        for file, data in files.items():
            file.write_bytes(damaged(data, rng) if rng.random() < 0.8 else data)
        try:
            for timed in bridge.read(recording, BridgeOptions()).values():
                pair_actions(timed, recording, 0.0, 60, SPACE)
                kept_ranges(timed.excluded, 0.0, 60)
        except BrokenRecordingError as error:
            broken.append(error)
    assert 10 < len(broken) < 60
    assert all(error.path.is_relative_to(tmp_path / "in") and error.reason and error.detail for error in broken)
    shutil.rmtree(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "module", "package", "extra"),
    [
        ("crowd_cast", "msgpack", "msgpack", "crowd_cast"),
        ("csgo", "h5py", "h5py", "csgo"),
        ("owamcap", "mcap.reader", "mcap", "owa"),
    ],
)
def test_a_missing_package_ends_the_run_with_the_command(name, module, package, extra, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    import_module(f"tests.data.bridges.test_{name}").write(tmp_path / "in", "take", make_play(tmp_path, 20))
    (recording,) = load_bridge(name).find(tmp_path / "in")
    monkeypatch.setitem(sys.modules, module, None)
    command = re.escape(f'{package} is not installed: pip install -c constraints.txt -e ".[{extra}]"')
    with pytest.raises(MissingPackageError, match=f"^{command}$"):
        read_recording(name, recording)
