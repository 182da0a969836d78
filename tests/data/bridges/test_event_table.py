"""Event tables: a written play reads back, in CSV and Parquet and on any clock; every damage is named."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.bridges.common_play import KEYS, RATE, make_play
from vpt_jax.data.bridges import event_table
from vpt_jax.data.bridges.event_table import BRIDGE
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.recording import BrokenRecordingError


def rows_of(play):
    """Rows (time, event, name, value) of a play, in order of time."""
    rows, before = [], np.zeros(len(KEYS), bool)
    for step, (held, moved) in enumerate(zip(play.held, play.mouse, strict=True)):
        time = step / RATE
        rows += [(time, "press" if held[key] else "release", KEYS[key], "") for key in np.flatnonzero(held != before)]
        rows += [(time, "move", axis, int(value)) for axis, value in zip(("mouse.x", "mouse.y"), moved, strict=True)]
        before = held
    return rows


def write(folder, name, play):
    """Writes a play as NAME.mp4 and NAME.csv."""
    shutil.copy(play.video, folder / f"{name}.mp4")
    write_rows(folder / f"{name}.csv", rows_of(play))


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("time", "event", "name", "value"), *rows])


def write_parquet(path, rows):
    time, event, name, value = zip(*rows, strict=True)
    values = [None if one == "" else float(one) for one in value]
    pq.write_table(pa.table({"time": time, "event": event, "name": name, "value": values}), path)


def read(folder, name):
    (found,) = BRIDGE.find(folder)
    assert found.name == name
    return read_recording("event_table", found)[name]


def check_events(events, rows, shift=0.0):
    """Checks that events are exactly those rows."""
    found = list(zip(events.time.tolist(), [events.names[code] for code in events.code], events.value, strict=True))
    kinds = {"press": 1.0, "release": 0.0}
    expected = [(time + shift, name, kinds.get(event, value)) for time, event, name, value in rows]
    assert found == expected


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


def test_a_table_reads_back(play, tmp_path):
    write(tmp_path, "mine", play)
    timed = read(tmp_path, "mine")
    rows = rows_of(play)
    check_events(timed.events, rows)
    assert timed.events.names == (*sorted(KEYS), "mouse.x", "mouse.y")
    assert timed.events.num_keys == len(KEYS)
    times, frames = zip(*timed.frames(), strict=True)
    np.testing.assert_allclose(times, np.arange(len(play.frames)) / RATE, atol=1e-9)
    np.testing.assert_array_equal(np.stack(frames), play.frames)
    assert BRIDGE.facts(tmp_path / "mine") == tmp_path / "mine.json"
    assert BRIDGE.files(tmp_path / "mine") == [tmp_path / "mine.mp4", tmp_path / "mine.csv"]


def test_parquet_on_another_clock_with_facts_and_pauses(play, tmp_path):
    shutil.copy(play.video, tmp_path / "mine.mp4")
    start = 1_764_000_000.5
    rows = [(start + time, *rest) for time, *rest in rows_of(play)]
    pauses = [(start + 1, "pause", "", ""), (start + 1.5, "resume", "", ""), (start + 2.5, "pause", "", "")]
    write_parquet(tmp_path / "mine.parquet", [*rows, *pauses])
    facts = {"player": "anna", "licence": "CC-BY-4.0", "trainable": False, "mouse_factor": 0.5}
    content = facts | {"start": start, "excluded": [[start + 0.1, start + 0.2]]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    timed = read(tmp_path, "mine")
    check_events(timed.events, rows)
    assert timed.facts == facts
    assert timed.excluded == ((start + 0.1, start + 0.2), (start + 1, start + 1.5), (start + 2.5, float("inf")))
    assert next(iter(timed.frames()))[0] == start


def test_columns_in_any_order_names_of_ones_own_and_no_movement(play, tmp_path):
    shutil.copy(play.video, tmp_path / "mine.MP4")
    text = "\ufeffname,time,value,event,comment\nfly,0.5,,press,\nfly,0.75,,release,a\n"
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    events = read(tmp_path, "mine").events
    assert (events.names, events.num_keys) == (("fly",), 1)
    assert (events.time.tolist(), events.value.tolist()) == ([0.5, 0.75], [1, 0])


def test_an_empty_table_has_no_events(play, tmp_path):
    shutil.copy(play.video, tmp_path / "mine.mp4")
    write_rows(tmp_path / "mine.csv", [])
    assert len(read(tmp_path, "mine").events.time) == 0


CSV_DAMAGE = {
    "no header": ("0.5,press,w,\n", r"unreadable actions: .*'time'"),
    "empty": ("", "unreadable actions: .*[Ee]mpty"),
    "no value": ("time,event,name\n0.5,press,w\n", "unreadable actions: .*'value'"),
    "cut row": ("time,event,name,value\n0.5,press,w,\n0.6,rel", r"unreadable actions: .*Row #3.*got 2"),
    "time is text": ("time,event,name,value\nnoon,press,w,\n", r"unreadable actions: .*Row #2.*noon"),
    "no time": ("time,event,name,value\n0.5,press,w,\n,press,w,\n", "row 2 after the header: `time` must be a number"),
    "infinite time": ("time,event,name,value\ninf,press,w,\n", "row 1 after the header: `time` must be a number"),
    "unknown event": ("time,event,name,value\n0.5,hit,w,\n", "row 1 .*`event` must be one of release, press, move"),
    "no name": ("time,event,name,value\n0.5,press,,\n", "row 1 .*`name` is empty"),
    "no movement": ("time,event,name,value\n0.5,move,mouse.x,\n", "row 1 .*`value` must be a number, the movement"),
    "two kinds": ("time,event,name,value\n0,press,a,\n1,move,a,2\n", "'a' is pressed and moves"),
    "long name": (f"time,event,name,value\n0,press,{'a' * 101},\n", "absurd size: too many, or too long, names"),
    "many names": (
        "time,event,name,value\n" + "".join(f"0,press,k{i},\n" for i in range(2001)),
        "absurd size: too many, or too long, names",
    ),
    "not text": (b"time,event,name,value\n0,press,\xff\xfe,\n", "unreadable actions: .*UTF8"),
}


@pytest.mark.parametrize("kind", CSV_DAMAGE)
def test_damaged_tables_are_named(kind, play, tmp_path):
    content, message = CSV_DAMAGE[kind]
    shutil.copy(play.video, tmp_path / "mine.mp4")
    (tmp_path / "mine.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BrokenRecordingError, match=rf"mine.csv: .*{message}"):
        read(tmp_path, "mine")


def test_damaged_parquet_is_named(play, tmp_path):
    shutil.copy(play.video, tmp_path / "mine.mp4")
    table = tmp_path / "mine.parquet"
    write_parquet(table, rows_of(play))
    content = table.read_bytes()
    for data in (content[:-100], content[:4], b"", content[100:]):
        table.write_bytes(data)
        with pytest.raises(BrokenRecordingError, match=r"mine.parquet: unreadable actions"):
            read(tmp_path, "mine")
    pq.write_table(pa.table({"time": ["0.5"], "event": ["press"], "name": ["w"], "value": [None]}), table)
    with pytest.raises(BrokenRecordingError, match=r"column time is of type string, and must hold numbers"):
        read(tmp_path, "mine")
    pq.write_table(pa.table({"time": [0.5]}), table)
    with pytest.raises(BrokenRecordingError, match=r"missing field: there is no column event, name, value"):
        read(tmp_path, "mine")


def test_too_many_rows_are_refused_before_they_are_read(play, tmp_path, monkeypatch):
    monkeypatch.setattr(event_table, "MAX_EVENTS", 100)
    write(tmp_path, "mine", play)
    with pytest.raises(BrokenRecordingError, match=r"mine.csv: absurd size: more than 100 rows"):
        read(tmp_path, "mine")
    (tmp_path / "mine.csv").unlink()
    write_parquet(tmp_path / "mine.parquet", rows_of(play))
    with pytest.raises(BrokenRecordingError, match=r"mine.parquet: absurd size: \d+ rows; up to 100 are read"):
        read(tmp_path, "mine")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ('{"mouse_factor": 0}', "`mouse_factor` must be a number above 0"),
        ("[1]", "bad json: it is not an object"),
        ('{"a": ', "bad json"),
        ('{"trainabel": false}', "unknown fields trainabel; known are player, session, world"),
        ('{"trainable": "no"}', "`trainable` must be true or false"),
        ('{"player": 5}', "`player` must be a text"),
        ('{"start": true}', "`start` must be a number"),
        ('{"start": NaN}', "`start` must be a number"),
        ('{"excluded": [[2, 1]]}', r"`excluded` must be a list of \[from, to\] in seconds"),
        ('{"excluded": [1, 2]}', r"`excluded` must be a list of \[from, to\] in seconds"),
        ('{"text": "' + "a" * 2**21 + '"}', "larger than 1,048,576 bytes"),
    ],
)
def test_invalid_facts_are_named(facts, message, play, tmp_path):
    write(tmp_path, "mine", play)
    (tmp_path / "mine.json").write_text(facts)
    with pytest.raises(BrokenRecordingError, match=f"mine.json: .*{message}"):
        read(tmp_path, "mine")


def test_missing_files_are_named(play, tmp_path):
    write(tmp_path, "mine", play)
    (tmp_path / "mine.mp4").unlink()
    with pytest.raises(BrokenRecordingError, match=r"mine.mp4: missing video"):
        read(tmp_path, "mine")
    shutil.copy(play.video, tmp_path / "mine.mkv")
    shutil.copy(tmp_path / "mine.csv", tmp_path / "mine.parquet")
    with pytest.raises(BrokenRecordingError, match=r"missing actions: mine.csv and mine.parquet exist: remove one"):
        read(tmp_path, "mine")
    (tmp_path / "mine.csv").unlink()
    (tmp_path / "mine.parquet").unlink()
    with pytest.raises(BrokenRecordingError, match=r"mine.csv: missing actions: there is no such file"):
        read(tmp_path, "mine")


def test_a_truncated_video_is_named(play, tmp_path):
    write(tmp_path, "mine", play)
    content = (tmp_path / "mine.mp4").read_bytes()
    (tmp_path / "mine.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenRecordingError, match=r"mine.mp4: (damaged|unreadable) video"):
        list(read(tmp_path, "mine").frames())
