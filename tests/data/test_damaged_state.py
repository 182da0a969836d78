"""Damaged intermediate files of an interrupted preparation: the same dataset, or an error with a remedy."""

import shutil
from contextlib import nullcontext

import numpy as np
import pytest

from configs.prepare import get_config
from tests.conftest import files
from vpt_jax.data import prepare as module
from vpt_jax.data.errors import DatasetDamagedError, OpenFilesError
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.recording import RecordingWriter
from vpt_jax.system.errors import UserError

SIZE, CHUNK = 16, 4
LENGTHS = {"a": 9, "b": 9, "c": 3}  # frames; the first two are equally long


class PowerCutError(BaseException):
    pass


def in_order(function, tasks):
    """Runs tasks in this process."""
    for number, task in enumerate(tasks):
        yield number, function(*task)


def settings(folder, out):
    config = get_config()
    config.update(recordings=str(folder), out=str(out), height=SIZE, width=SIZE, chunk_frames=CHUNK)
    return config


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for name, frames in LENGTHS.items():
        with RecordingWriter(folder / name, SIZE, SIZE) as recording:
            for _ in range(frames):
                frame = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
                recording.write(frame, {"forward": int(rng.integers(2)), "camera": rng.normal(0, 3, 2)})
    (folder / "broken.mp4").write_bytes(b"no film")
    shutil.copy(folder / "a.jsonl", folder / "broken.jsonl")
    return folder


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr(module, "_workers", lambda *_: nullcontext(in_order))
    monkeypatch.setattr("vpt_jax.data.dataset.SHARD_BYTES", 100_000)  # a file of one episode has 65 kB at least


@pytest.fixture
def interrupted(recordings, tmp_path, monkeypatch):
    """The folder of a preparation that was stopped just before its dataset was renamed into place."""

    def cut_off(written, path):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(module, "place_folder", cut_off)
        with pytest.raises(PowerCutError):
            prepare(settings(recordings, tmp_path / "out"))
    return tmp_path / "out.partial"


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zeros at the end": lambda file: file.write_bytes(
        file.read_bytes()[: file.stat().st_size // 2].ljust(file.stat().st_size, b"\0")
    ),
    "gone": lambda file: file.unlink(),
}


@pytest.fixture
def uninterrupted(recordings, tmp_path):
    return files(prepare(settings(recordings, tmp_path / "uninterrupted")))


@pytest.mark.parametrize("damage", DAMAGE)
def test_preparation_recovers_from_any_damaged_state_file(interrupted, recordings, tmp_path, uninterrupted, damage):
    """Frames and actions are never mismatched (attack H2)."""
    saved = shutil.copytree(interrupted, tmp_path / "saved")
    names = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if path.is_file()]
    assert {name.suffix for name in names} > {".records", ".npz", ".broken", ".json"}
    for name in names if damage == "half" else (name for name in names if name.parts[0] == "episodes"):
        shutil.copytree(saved, interrupted, dirs_exist_ok=True)
        DAMAGE[damage](interrupted / name)
        assert files(prepare(settings(recordings, tmp_path / "out"))) == uninterrupted, name
        shutil.rmtree(tmp_path / "out")


def test_a_flipped_byte_is_found_by_checksums(interrupted, recordings, tmp_path, uninterrupted, capsys):
    """The records of an episode are read when joined, and encoded again if one is damaged (attack H2)."""
    for suffix in (".records", ".npz"):
        (file,) = interrupted.glob(f"episodes/train/a-*{suffix}")
        data = bytearray(file.read_bytes())
        data[300] ^= 1
        file.write_bytes(data)
    assert files(prepare(settings(recordings, tmp_path / "out"))) == uninterrupted
    message = "1 recordings are encoded again, since their intermediate files are damaged"
    assert capsys.readouterr().out.count(message) == 1


def test_records_of_another_episode_are_not_joined(interrupted, recordings, tmp_path, uninterrupted, capsys):
    """The file has the same numbers of records and frames, but of another episode (attack H2)."""
    a, b = (next(interrupted.glob(f"episodes/train/{name}-*.records")) for name in "ab")
    shutil.copy(a, b)
    assert files(prepare(settings(recordings, tmp_path / "out"))) == uninterrupted
    assert f"encoded again, since their intermediate files are damaged: {recordings / 'b'}" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["empty", "half", "gone"])
def test_a_damaged_dataset_is_reported(recordings, tmp_path, uninterrupted, damage):
    """If the dataset itself is damaged, the same command names the file and the remedy (attack H2)."""
    for name in uninterrupted:
        out = shutil.copytree(tmp_path / "uninterrupted", tmp_path / "out")
        DAMAGE[damage](out / name)
        with pytest.raises(PrepareError, match=r"remove it|remove .*out|in use by something else"):
            prepare(settings(recordings, out))
        shutil.rmtree(out)


def test_repeated_damage_ends_the_run(recordings, tmp_path, monkeypatch):
    """The number of attempts to encode again is bounded (attack H2)."""
    monkeypatch.setattr("vpt_jax.data.dataset.check_episode", lambda *_: (_ for _ in ()).throw(damaged))
    damaged = DatasetDamagedError("half a file")
    with pytest.raises(PrepareError, match="check the disk"):
        prepare(settings(recordings, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_damage_is_reported_in_one_line():
    """Damage is reported in one line with file and remedy, without a traceback."""
    for error in (DatasetDamagedError, OpenFilesError):
        assert issubclass(error, UserError)
