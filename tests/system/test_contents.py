"""Content digests identify files by content, not by time stamps."""

import os
import shutil

import pytest

from configs.prepare import get_config
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.system.contents import file_digest


@pytest.mark.parametrize("size", [0, 1000, 5 << 20])
def test_the_digest_depends_on_the_content_alone(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    os.utime(tmp_path / "b", (1, 1))
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b")
    (tmp_path / "b").write_bytes(data + b"x")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    if size:
        (tmp_path / "b").write_bytes(os.urandom(size))  # of the same size
        assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
        changed = size // 2 + 100_000 if size > 1 << 20 else size // 2
        (tmp_path / "b").write_bytes(data[:changed] + bytes([data[changed] ^ 1]) + data[changed + 1 :])
        assert file_digest(tmp_path / "a", whole=True) != file_digest(tmp_path / "b", whole=True)


def test_copied_and_touched_recordings_keep_their_dataset_and_edited_ones_do_not(dataset_dir, tmp_path, capsys):
    shutil.copytree(dataset_dir, tmp_path / "dataset")
    shutil.copytree(dataset_dir.parent / "recordings", tmp_path / "recordings")
    for file in tmp_path.glob("recordings/*/*"):
        os.utime(file)
    config = get_config()
    config.update(recordings=str(tmp_path / "recordings"), out=str(tmp_path / "dataset"), chunk_frames=8, workers=1)
    config.update(height=32, width=32)
    prepare(config)
    assert "nothing to do" in capsys.readouterr().out
    lines = tmp_path / "recordings" / "train" / "train0.jsonl"
    lines.write_text(lines.read_text().replace("mouse", "MOUSE", 1))  # of the same size
    with pytest.raises(PrepareError, match="recordings changed"):
        prepare(config)
