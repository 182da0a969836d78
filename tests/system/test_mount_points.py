"""A finished folder is moved to its final path, also to a mount point."""

import errno
from pathlib import Path

import pytest

from configs.prepare import get_config
from tests.conftest import files
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.system import mount_points
from vpt_jax.system.mount_points import is_free, place_folder
from vpt_jax.system.workers import FolderInUseError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "index" / "train").mkdir(parents=True)
    for name in ("report.json", "dataset_info.json", "index/train/lengths.npy"):
        (folder / name).write_text(f"this is {name}")
    return folder


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A folder that cannot be the target of a rename, as a mount point."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "lost+found").mkdir()  # as on a new disk
    rename = Path.rename

    def busy(self, target):
        if Path(target) == folder:
            raise OSError(errno.EBUSY, "Device or resource busy", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    return folder


def test_a_folder_on_the_same_disk_is_renamed(source, tmp_path):
    wanted, inode = files(source), source.stat().st_ino
    place_folder(source, tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == inode
    assert files(tmp_path / "out") == wanted


def test_contents_are_copied_to_a_mount_point(source, mounted):
    wanted = files(source)
    assert is_free(mounted)
    place_folder(source, mounted)
    assert files(mounted) == wanted
    assert not source.exists()
    assert not is_free(mounted)


@pytest.mark.parametrize("copies", range(4))
def test_a_killed_copy_is_repeated(source, mounted, monkeypatch, copies):
    wanted, copy, left = files(source), mount_points._copy, [copies]

    def killed(file, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        copy(file, target)

    monkeypatch.setattr(mount_points, "_copy", killed)
    with pytest.raises(KeyboardInterrupt):
        place_folder(source, mounted)
    assert is_free(mounted)
    assert not (mounted / "report.json").exists()
    assert files(source) == wanted
    monkeypatch.setattr(mount_points, "_copy", copy)
    place_folder(source, mounted)
    assert files(mounted) == wanted


@pytest.mark.parametrize("place", ["mounted", "elsewhere"])
def test_files_created_in_the_meantime_are_kept(source, mounted, tmp_path, place):
    """Hours may pass between the check that a folder is free and the move of the results."""
    out = mounted if place == "mounted" else tmp_path / "elsewhere"
    out.mkdir(exist_ok=True)
    assert is_free(out)
    for name in ("notes.txt", ".incomplete"):  # the latter is another program's
        (out / name).write_text("mine")
    wanted, before = files(source), files(out)
    with pytest.raises(FolderInUseError, match=r"holds \.incomplete, which was put there"):
        place_folder(source, out)
    assert files(out) == before
    assert files(source) == wanted


def test_a_folder_in_use_is_not_free_and_other_errors_are_raised(source, tmp_path, mounted):
    (mounted / "mine").touch()
    assert not is_free(mounted)
    with pytest.raises(FileNotFoundError):
        place_folder(source, tmp_path / "nowhere" / "out")


def test_a_dataset_is_prepared_on_a_mounted_disk(dataset_dir, mounted, capsys):
    config = get_config()
    config.update(recordings=str(dataset_dir.parent / "recordings"), out=str(mounted), chunk_frames=8, workers=1)
    config.update(height=32, width=32)
    prepare(config)
    assert files(mounted) == files(dataset_dir)
    assert not mounted.with_name("out.partial").exists()
    prepare(config)
    assert "nothing to do" in capsys.readouterr().out


def test_a_file_at_the_output_path_is_named(dataset_dir, tmp_path):
    (tmp_path / "out").touch()
    config = get_config()
    config.update(recordings=str(dataset_dir.parent / "recordings"), out=str(tmp_path / "out"))
    with pytest.raises(PrepareError, match=r"out is a file.*choose another"):
        prepare(config)
