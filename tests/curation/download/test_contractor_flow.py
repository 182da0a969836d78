"""From an index as in OpenAI's README to a dataset with a train and a valid split, and its statistics."""

import json
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs import data as data_config
from configs import prepare as prepare_config
from vpt_jax.contractor_names import parse_name
from vpt_jax.curation.download.contractor import download
from vpt_jax.curation.validation.episodes import find_episodes
from vpt_jax.curation.validation.leakage import find_shared
from vpt_jax.curation.validation.summarize import summarize
from vpt_jax.data import dataset
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.recording import RecordingWriter
from vpt_jax.video import VideoWriter

SIZE, LINES, GUIS = 32, 12, 3
PLAYERS = ("cheeky-cornflower-setter", "squeaky-magenta-ocelot", "Player65")
NAMES = {f"{player}-{number:012x}-20220421-09{segment}639": player
         for number, player in enumerate(PLAYERS) for segment in range(2)}  # fmt: skip


def write(folder, name, surplus):
    """Writes a recording with OpenAI's fields, and `surplus` more frames than lines."""
    folder.mkdir(parents=True, exist_ok=True)
    with RecordingWriter(folder / name, SIZE, SIZE) as recording:
        for i in range(LINES):
            recording.write(np.full((SIZE, SIZE, 3), 16 * i, np.uint8), {"camera": (3, 3)}, gui_open=i < GUIS)
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):
        line |= {"inventory": [{"type": "oak_log", "quantity": 1 + i}], "serverTick": i}
        line |= {"stats": {"minecraft.mine_block:minecraft.oak_log": i}}
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if surplus:
        with VideoWriter(folder / f"{name}.mp4", SIZE, SIZE) as video:
            for i in range(LINES + surplus):
                video.write(np.full((SIZE, SIZE, 3), 16 * i, np.uint8))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Default settings except for paths and sizes; one pair has one surplus frame, another has two."""
    run = nullcontext(lambda function, tasks: ((number, function(*task)) for number, task in enumerate(tasks)))
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: run)
    for number, name in enumerate(NAMES):
        write(tmp_path / "mirror/store/6.9", name, surplus=max(2 - number, 0))
    index = {"basedir": "store", "relpaths": [f"6.9/{name}" for name in NAMES]}
    (tmp_path / "mirror/index.json").write_text(json.dumps(index))
    config = prepare_config.get_config()
    config.update(recordings=str(tmp_path / "A"), out=str(tmp_path / "B"), height=SIZE, width=SIZE)
    config.contractor.index = str(tmp_path / "mirror/index.json")
    return config


def test_index_becomes_a_dataset(config, tmp_path, capsys):
    """The dataset has splits `train` and `valid` without a common player (fidelity S7, D9, D1, D2)."""
    download(config)
    out = prepare(config)
    report = json.loads((out / "report.json").read_text())
    ((broken_file, reason),) = [(note["file"], note["reason"]) for note in report["broken"]]
    assert (broken_file, reason) == (f"train/6.9_{next(iter(NAMES))}.mp4", "frame count")  # two surplus frames
    splits = {split: dataset.load_index(out, split) for split in ("train", "valid")}
    names = [name for index in splits.values() for name in index.names]
    assert sorted(names) == sorted(f"6.9_{name}" for name in list(NAMES)[1:])
    players = {split: {parse_name(name).player for name in index.names} for split, index in splits.items()}
    assert players["train"] | players["valid"] == set(PLAYERS)
    assert not players["train"] & players["valid"]
    assert not list(find_shared(find_episodes(out)))
    for split, index in splits.items():
        assert set(index.lengths) == {LINES}
        np.testing.assert_allclose(index.camera[:GUIS], 6, rtol=1e-6)  # recorder 6.9 in a GUI
        np.testing.assert_allclose(index.camera[GUIS:LINES], 3, rtol=1e-6)
        stream = Stream(StreamSettings(str(out), split, batch=1, length=LINES))
        frames = stream.read(0, [0]).frames[0].mean((1, 2, 3))
        assert np.abs(frames - 16 * np.arange(LINES))[GUIS:].max() < 4  # earlier frames show a cursor
    check_statistics(out, tmp_path, capsys)


def check_statistics(out, tmp_path, capsys):
    """`data.py stats` by the report equals the statistics of all recordings."""
    config = data_config.get_config()
    config.update(data=str(out), out=str(tmp_path / "stats"), workers=1)
    capsys.readouterr()
    values = summarize(config)["recorded"]
    output = capsys.readouterr().out
    assert sum(each["recordings"] for each in values.values()) == 5
    for each in values.values():
        count = each["recordings"]
        assert each == {
            "recordings": count, "hours": count * LINES / 20 / 3600, "gui": GUIS / LINES, "versions": {"6.9": count},
            "items": {"held": {"oak_log": count}, "mined": {"oak_log": count * (LINES - 1)}, "crafted": {},
                      "picked up": {}, "used": {}},
        }  # fmt: skip
    assert "recorder version 6.9" in output
    assert "Items in train" in output
    assert "oak_log" in (tmp_path / "stats" / "stats.html").read_text()
    assert json.loads((tmp_path / "stats" / "stats.json").read_text())["recorded"] == values


def test_existing_valid_folder_is_kept(config, tmp_path):
    download(config)
    (tmp_path / "A" / "valid").mkdir()
    last = f"6.9_{list(NAMES)[-1]}"
    for suffix in (".mp4", ".jsonl"):
        (tmp_path / "A" / "train" / f"{last}{suffix}").rename(tmp_path / "A" / "valid" / f"{last}{suffix}")
    assert dataset.load_index(prepare(config), "valid").names == (last,)


def test_fraction_zero_holds_out_no_recordings(config):
    download(config)
    config.valid.fraction = 0.0
    out = prepare(config)
    assert len(dataset.load_index(out, "train").names) == 5
    with pytest.raises(dataset.DatasetMissingError, match=r"(?s)no split .*config\.valid\.fraction"):
        dataset.load_index(out, "valid")
    config.valid.fraction = 0.5
    with pytest.raises(PrepareError, match=r"config\.valid, config\.join_segments or"):
        prepare(config)


def test_segments_of_a_manifest_are_split_and_counted(config, tmp_path):
    """Segments of a recording with a surplus frame are read and held out like the complete one (fidelity D1, S7)."""
    download(config)
    names = [f"6.9_{name}" for name in list(NAMES)[1:]]
    rows = [(f"train/{name}.mp4", *times) for name in names for times in ((0.0, 0.2), (0.2, LINES / 20))]
    table = pa.table(dict(zip(("video", "start", "end"), zip(*rows, strict=True), strict=True)))
    config.recordings = str(tmp_path / "A" / "m.parquet")
    pq.write_table(table, config.recordings)
    out = prepare(config)
    report = json.loads((out / "report.json").read_text())
    assert report["broken"] == []
    splits = {split: dataset.load_index(out, split) for split in ("train", "valid")}
    assert sorted(name for index in splits.values() for name in index.names) == sorted(
        f"{name}@{start}-{stop}" for name in names for start, stop in ((0, 4), (4, LINES))
    )
    players = [{parse_name(name).player for name in index.names} for index in splits.values()]
    assert not players[0] & players[1]
    recorded = report["recorded"].values()
    assert sum(each["recordings"] for each in recorded) == 2 * len(names)
    assert sum(each["gui"] * each["hours"] for each in recorded) == pytest.approx(len(names) * GUIS / 20 / 3600)
    assert sum(each["items"]["mined"]["oak_log"] for each in recorded) == len(names) * (3 + LINES - 5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("fraction", 1.0, "below 1"), ("fraction", -0.1, "0 .none. or more"), ("by", "planet", "choose one of player")],
)
def test_invalid_settings_are_named(config, field, value, message):
    config.valid[field] = value
    with pytest.raises(PrepareError, match=rf"config.valid.{field} is .*{message}"):
        prepare(config)
