"""Output folders that keep the settings they were made with."""

import errno
import json
import os

import pytest

from vpt_jax.system.errors import UserError
from vpt_jax.system.resumable_folder import resumable_folder
from vpt_jax.system.workers import FolderInUseError, locked

WANTED = {"height": 90, "seconds": 2.0}


class FolderError(UserError):
    """Raised by the folders of these tests."""


def resume(folder, settings=WANTED, **options):
    with resumable_folder(folder, settings, FolderError, **options):
        return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_gets_the_settings_and_other_ones_are_refused(tmp_path):
    folder = tmp_path / "new"
    assert resume(folder) == ["settings.json"]
    (folder / "made").touch()
    assert resume(folder) == ["made", "settings.json"]
    with pytest.raises(
        FolderError, match=r"new was made with other settings: height was 90 and is now 64; skill was None and is "
        r"now 1\. Remove it, or choose another --config\.out",
    ):  # fmt: skip
        resume(folder, WANTED | {"height": 64, "skill": 1}, discard_unknown=True)
    with pytest.raises(FolderError, match=r"seconds was 2\.0 and is now None"):
        resume(folder, {"height": 90})
    assert resume(folder) == ["made", "settings.json"]


def test_the_folder_is_locked(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError):
        resume(tmp_path)
    with resumable_folder(tmp_path, WANTED, FolderError), pytest.raises(FolderInUseError):
        resume(tmp_path)


def test_settings_that_a_stopped_run_left_empty_are_rewritten(tmp_path):
    """A full disk or a kill while settings.json is written, before anything else was (attack M10)."""
    file = tmp_path / "settings.json"
    for content in (None, b"", b'{"height": 9', bytes(20)):
        if content is not None:
            file.write_bytes(content)
        (tmp_path / "settings.json.0123456789ab.writing").write_bytes(b"{")
        resume(tmp_path)
        assert json.loads(file.read_text()) == WANTED
    with pytest.raises(FolderError, match="was made with other settings"):
        resume(tmp_path, {"height": 91, "seconds": 2.0})
    (tmp_path / "train").mkdir()
    file.write_bytes(b"")
    with pytest.raises(
        FolderError, match=r"settings\.json is damaged, and no other file holds the settings of .*train:"
    ):
        resume(tmp_path)
    file.unlink()
    with pytest.raises(FolderError, match=r"in use by something else: choose another --config\.out"):
        resume(tmp_path)
    assert os.listdir(tmp_path / "train") == []


def test_files_of_unknown_settings_are_removed_on_request(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "made").touch()
    assert resume(tmp_path, discard_unknown=True) == ["settings.json"]
    assert capsys.readouterr().out == ""
    (tmp_path / "made").touch()
    (tmp_path / "settings.json").write_text("[]")
    assert resume(tmp_path, discard_unknown=True) == ["settings.json"]
    assert "settings.json is damaged, so all files in its folder are created again" in capsys.readouterr().out


def test_a_full_disk_leaves_no_empty_settings(tmp_path, monkeypatch):
    """The next run starts as in an empty folder (attack M10)."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            resume(tmp_path)
    assert not (tmp_path / "settings.json").exists()
    assert resume(tmp_path) == ["settings.json"]
