"""`data.py validate` on damaged datasets: damage is a finding with its record's number, and the rest is checked."""

import json
import re
import shutil

import pytest

from vpt_jax.curation.validation import diff, show
from vpt_jax.curation.validation.commands import COMMANDS
from vpt_jax.data import dataset
from vpt_jax.data.errors import DatasetDamagedError

from ...data.tiny import edit_json, flip, serialized, write_dataset
from .test_validate import found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Three episodes of three, two and one records, in two shards of three."""
    return write_dataset(tmp_path_factory.mktemp("small") / "data", [9, 8, 3], shards=2)


def shard(data, number):
    return dataset.shard_path(data, "train", number, 2)


def test_a_flipped_bit_is_a_finding_and_other_records_are_checked(small, settings, tmp_path):
    """ArrayRecord's checksum: one record is lost, the others are checked, and the status is 1 (attack M2)."""
    data = shutil.copytree(small, tmp_path / "data")
    flip(shard(data, 0), 300)
    findings = found(settings(data))
    assert [(kind, where) for kind, where, _ in findings] == [("broken", "train/train0")]
    assert findings[0][2].startswith("record 0 cannot be read: ")
    assert "hash mismatch" in findings[0][2]
    with pytest.raises(SystemExit) as ended:
        COMMANDS["validate"](settings(data))
    assert ended.value.code == 1
    assert len(json.loads((tmp_path / "out" / "validate.json").read_text())["findings"]) == 1


@pytest.mark.parametrize("damage", ["empty", "half", "gone", "short"])
def test_a_damaged_shard_is_found_record_by_record(small, settings, tmp_path, damage):
    """The shard is empty, truncated, missing, or has fewer records than were written (attack M2)."""
    data, whole = shutil.copytree(small, tmp_path / "data"), shard(small, 1).read_bytes()
    shard(data, 1).write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    if damage == "gone":
        shard(data, 1).unlink()
    if damage == "short":
        dataset.write_records(shard(data, 1), list(dataset.read_records(shard(small, 1)))[:2])
    findings = found(settings(data))
    assert [(where, detail[:24]) for _, where, detail in findings] == [
        ("train/train1", "record 0 cannot be read:"),
        ("train/train1", "record 1 cannot be read:"),
        ("train/train2", "record 0 cannot be read:"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": b""}, "record 1: frame 0 extends from byte 0 to"),
        ({"frames": b"\0" * 9_000}, "record 1: a stored frame of .* not a JPEG"),
        ({"frame_ends": [1]}, "record 1 and the index differ in frame_ends"),
        ({"frame_ends": [4, 3, 2, 1]}, "record 1: "),
        ({"frame_ends": [2**31 - 1] * 4}, "record 1: "),
        ({"episode": "another"}, "record 1 and the index differ in episode"),
        ({"num_frames": -1}, "record 1 and the index differ in num_frames"),
    ],
)
def test_invalid_records_are_findings(settings, tmp_path, changes, message):
    """A record with any invalid field is named, and the others are checked (attack M2)."""

    def record(name, pictures, chunk, *rest):
        return serialized(name, pictures, chunk, *rest, **(changes if (name, chunk) == ("train0", 1) else {}))

    findings = found(settings(write_dataset(tmp_path / "data", [9, 8], record=record)))
    assert [where for _, where, _ in findings] == ["train/train0"]
    assert re.search(message, findings[0][2])


def test_show_and_diff_refuse_a_damaged_dataset(small, settings, tmp_path):
    """Only validate accepts damage; the other commands raise an error that names it (attack H2)."""
    data = shutil.copytree(small, tmp_path / "data")
    shard(data, 1).unlink()
    for command in (lambda: show.show(settings(data)), lambda: diff.diff(settings(data, other=str(small)))):
        with pytest.raises(DatasetDamagedError, match="is missing"):
            command()


def test_damaged_metadata_is_an_error(small, settings, tmp_path):
    """Damaged metadata ends the run, since no record can be read without it (attack H1)."""
    data = shutil.copytree(small, tmp_path / "data")
    edit_json(data / "features.json", lambda features: features.clear())
    with pytest.raises(DatasetDamagedError, match=r"features\.json does not describe"):
        found(settings(data))


def test_a_damaged_scan_is_repeated(small, settings, tmp_path, monkeypatch):
    """A killed run may leave a truncated result of an episode (attack H2)."""
    monkeypatch.setattr("vpt_jax.curation.validation.validate.shutil.rmtree", lambda *_, **__: None)
    assert found(settings(small)) == []
    scans = sorted((tmp_path / "out").glob("validate.partial/*/*.npz"))
    assert len(scans) == 3
    scans[0].write_bytes(b"")
    scans[1].write_bytes(scans[1].read_bytes()[:100])
    assert found(settings(small)) == []
