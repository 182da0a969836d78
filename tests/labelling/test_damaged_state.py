"""Damaged intermediate files of an interrupted labelling job: the same dataset, or an error with a remedy."""

import shutil

import numpy as np
import pytest

from vpt_jax.data.clips import read_result
from vpt_jax.labelling import shards
from vpt_jax.labelling.job import LabelError, label

from .conftest import files, pictures, run_in_process, settings, write_video


class PowerCutError(BaseException):
    pass


def empty(file):
    file.write_bytes(b"")


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three videos, of which one is broken."""
    folder = tmp_path_factory.mktemp("few")
    write_video(folder / "a.mkv", "ffv1", "bgr0", pictures(12, 16, 16))
    write_video(folder / "b.mkv", "ffv1", "bgr0", pictures(25, 16, 24))
    (folder / "c.mp4").write_bytes(b"no film")
    return folder


@pytest.fixture(scope="module")
def labelled(few, idm_dir, tmp_path_factory):
    """The dataset of an uninterrupted job."""
    with pytest.MonkeyPatch.context() as patch:
        run_in_process(patch)
        return label(settings(few, idm_dir, tmp_path_factory.mktemp("made") / "out", num_films=0))


def interrupt(config, name, monkeypatch):
    """Runs the job until just before something is renamed to this name."""

    def cut_off(written, path):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(shards, {"dataset": "publish", "out": "place_folder"}[name], cut_off)
        with pytest.raises(PowerCutError):
            label(config)


@pytest.mark.parametrize("stage", ["dataset", "out"])
def test_labelling_recovers_from_any_damaged_state_file(
    few, idm_dir, labelled, tmp_path, in_process, monkeypatch, stage
):
    """Settings, frames, counts, notes, labels and assembled datasets: damaged files are created again (attack H2)."""
    config, uninterrupted = settings(few, idm_dir, tmp_path / "out", num_films=0), files(labelled)
    interrupt(config, stage, monkeypatch)
    saved = (tmp_path / "out.partial").rename(tmp_path / "saved")
    names = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if path.is_file()]
    if stage == "dataset":
        names = [name for name in names if "dataset.writing" not in name.parts]  # rewritten in any case
        assert {name.suffix for name in names} == {".records", ".frames", ".broken", ".npz", ".json"}
    else:
        names = [name for name in names if name.parent.name == "dataset" or name.name in ("lengths.npy", "camera.npy")]
    for number, name in enumerate(names):
        for damage in (empty, halve) if stage == "dataset" else ((empty, halve)[number % 2],):
            shutil.rmtree(tmp_path / "out.partial", ignore_errors=True)
            shutil.copytree(saved, tmp_path / "out.partial")
            damage(tmp_path / "out.partial" / name)
            assert files(label(config)) == uninterrupted, (name, damage)
            shutil.rmtree(tmp_path / "out")


def test_wrong_counts_and_records_are_detected(few, idm_dir, labelled, tmp_path, in_process, monkeypatch, capsys):
    """A count truncated from 25 to 2, still a number, and records of another video (attack H2)."""
    config = settings(few, idm_dir, tmp_path / "out", num_films=0)
    interrupt(config, "dataset", monkeypatch)
    frames = tmp_path / "out.partial/part-00000-of-00001/frames"
    (frames / "0000001.frames").write_text("2")
    shutil.copy(frames / "0000001.records", frames / "0000000.records")
    assert files(label(config)) == files(labelled)
    output = capsys.readouterr().out
    assert all(
        f"{few / name} is decoded again, since its intermediate files are damaged" in output
        for name in ("a.mkv", "b.mkv")
    )


def test_labels_of_other_steps_are_detected(few, idm_dir, labelled, tmp_path, in_process, monkeypatch):
    """A step's file with the labels of fewer frames than the step has (attack H2)."""
    config = settings(few, idm_dir, tmp_path / "out", num_films=0)
    interrupt(config, "dataset", monkeypatch)
    file = tmp_path / "out.partial/part-00000-of-00001/labels/00000000.npz"
    stored = dict(np.load(file))
    np.savez(file, **{name: array[1:] for name, array in stored.items()})
    assert files(label(config)) == files(labelled)


def test_a_flipped_byte_is_named_and_the_remedy_works(few, idm_dir, labelled, tmp_path, in_process, monkeypatch):
    """Checksums detect what counts do not; the remedy in the message works (attack H2)."""
    config = settings(few, idm_dir, tmp_path / "out", num_films=0)
    interrupt(config, "dataset", monkeypatch)
    records = tmp_path / "out.partial/part-00000-of-00001/frames/0000000.records"
    data = bytearray(records.read_bytes())
    data[300] ^= 1
    records.write_bytes(data)
    with pytest.raises(
        LabelError, match=r"0000000\.records.*Run the same command again, which decodes that video again"
    ):
        label(config)
    assert files(label(config)) == files(labelled)


def test_a_truncated_film_is_rendered_again(few, idm_dir, tmp_path, in_process, monkeypatch):
    """Films are state files too, in the shard or in its dataset (attack H2)."""
    uninterrupted = files(label(settings(few, idm_dir, tmp_path / "uninterrupted", num_films=1)))
    config = settings(few, idm_dir, tmp_path / "out", num_films=1)
    for stage, film in {"dataset": "dataset.writing/films", "out": "dataset/films"}.items():
        interrupt(config, stage, monkeypatch)
        part = tmp_path / "out.partial/part-00000-of-00001"
        if stage == "dataset":
            (part / film).rename(part / "films")  # as after a stop while films are drawn
            film = "films"
        halve(part / film / "a.mp4")
        assert files(label(config)) == uninterrupted
        shutil.rmtree(tmp_path / "out")


def test_a_damaged_dataset_is_reported(few, idm_dir, labelled, tmp_path, in_process):
    """If the dataset itself is damaged, the same command reports it with the remedy (attack H2)."""
    for name in files(labelled):
        out = shutil.copytree(labelled, tmp_path / "out")
        halve(out / name)
        with pytest.raises(LabelError, match="damaged: remove"):
            label(settings(few, idm_dir, out, num_films=0))
        shutil.rmtree(out)


def test_a_truncated_error_note_is_ignored(tmp_path):
    """A truncated note is not read as the error of a video (attack H2)."""
    note = tmp_path / "video.broken"
    for text in ("", '["unreadable video", "Inva', '["unreadable video"]', '"unreadable video"', "[1, 2]"):
        note.write_text(text)
        assert read_result(tmp_path / "video", None) is None
    note.write_text('["unreadable video", "it has no frames"]')
    assert read_result(tmp_path / "video", None).args == ("unreadable video", "it has no frames")
