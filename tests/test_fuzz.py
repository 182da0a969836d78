"""Fuzzing: thousands of damaged lines and films are read, or reported with the file's name."""

import json
import math
import resource
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import record_episode
from vpt_jax.actions.minerl import DEGREES_PER_COUNT
from vpt_jax.recording import MAX_COUNTS, BrokenRecordingError, read_frames, read_steps
from vpt_jax.video import VideoError, resampled_frames

LINE = {
    "mouse": {"x": 640.0, "y": 360.0, "dx": 3.0, "dy": -40.0, "buttons": [0], "newButtons": [0], "scaledX": 0.5},
    "keyboard": {"keys": ["key.keyboard.w", "key.keyboard.1"], "newKeys": [], "chars": ""},
    "isGuiOpen": False, "hotbar": 2, "tick": 7, "version": "6.13",
}  # fmt: skip
MEMORY = 2**30  # bytes: limit of the peak memory of a process that reads films
SECONDS = 60  # limit of the time for one film, on a busy machine


def edit(data, spans):
    """The bytes with spans overwritten, removed, repeated, or cut off."""
    for kind, place, new, length in spans:
        place = int(place * len(data))
        before, span, after = data[:place], data[place : place + length], data[place + length :]
        parts = {
            "overwrite": (before, new, data[place + len(new) :]),
            "cut out": (before, after),
            "repeat": (before, span, span, after),
            "cut off": (before,),
        }
        data = b"".join(parts[kind])
    return data


KINDS = "overwrite", "overwrite", "cut out", "repeat", "cut off"
spans = st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.binary(min_size=1, max_size=12), st.integers(1, 200))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([10**400, "\0", [0]]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
inner_fields = [(outer, name) for outer in ("mouse", "keyboard") for name in LINE[outer]]
fields = st.sampled_from([(name,) for name in LINE] + inner_fields)


def change(field, value, kept):
    """A line in which a field has another value, or is missing."""
    record = json.loads(json.dumps(LINE))
    *outer, name = field
    inner = record[outer[0]] if outer else record
    inner[name] = value
    if not kept:
        del inner[name]
    return json.dumps(record).encode()


lines = st.builds(change, fields, values, st.booleans()) | st.lists(spans, max_size=2).map(
    lambda edits: edit(json.dumps(LINE).encode(), edits)
)


def read_or_report(file):
    try:
        return read_steps(file), None
    except BrokenRecordingError as error:
        return None, error


def check(steps):
    """Checks that the steps are plausible."""
    assert len(steps.buttons) >= 2
    assert set(np.unique(steps.buttons)) <= {0, 1}
    assert np.abs(steps.camera).max() <= 2 * MAX_COUNTS * DEGREES_PER_COUNT
    assert math.isfinite(steps.cursor.sum())


@pytest.mark.slow
def test_ten_thousand_lines_are_read_or_reported(tmp_path):
    file, seen = tmp_path / "take.jsonl", Counter()
    good = json.dumps(LINE).encode()

    @settings(max_examples=10_000, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(lines)
    def read(line):
        file.write_bytes(b"\n".join([good, line, good]) + b"\n")
        steps, error = read_or_report(file)
        if steps:
            check(steps)
        else:
            assert error.path == file
            assert error.detail
        seen["read" if steps else "reported"] += 1

    read()
    assert seen.total() >= 10_000
    assert min(seen["read"], seen["reported"]) > 1000


def watch(film, steps):
    """Numbers of frames, or reasons of the errors, of both ways of reading a film; and the process's peak memory."""
    outcomes = []
    for frames in (lambda: read_frames(film, steps, 16, 16), lambda: resampled_frames(film)):
        try:
            outcomes.append(sum(1 for _ in frames()))
        except (BrokenRecordingError, VideoError) as error:
            outcomes.append(error.reason)
    return outcomes, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.slow
def test_five_hundred_films_are_read_or_reported(tmp_path):
    record_episode(tmp_path / "good", 0, 30)
    film, steps, seen = tmp_path / "bad.mp4", read_steps(tmp_path / "good.jsonl"), Counter()
    data = (tmp_path / "good.mp4").read_bytes()
    header = data.index(b"moov")  # half of the damage is in the index
    damage = st.lists(spans, min_size=1, max_size=4)
    anywhere = damage.map(lambda edits: edit(data, edits))
    films = anywhere | damage.map(lambda edits: data[:header] + edit(data[header:], edits))

    @settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(films)
    def read(content):
        film.write_bytes(content)
        outcomes, memory = reader.submit(watch, film, steps).result(SECONDS)
        assert memory < MEMORY
        assert outcomes[0] == 30 or isinstance(outcomes[0], str)
        seen[str(outcomes[0])] += 1

    with ProcessPoolExecutor(1, get_context("spawn")) as reader:  # a crash of this process would fail the test
        read()
    assert seen.total() >= 500
    assert min(seen["30"], seen["unreadable video"], seen["damaged video"]) > 10
