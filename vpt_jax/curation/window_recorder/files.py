"""Files of a recording while it grows, and their publication as NAME.mp4, NAME.csv and NAME.json.

While it grows they are in a folder NAME.partial: a Matroska video, whose frames can be read up to any cut, and the
events in lines. Publication copies the frames that are there into an mp4, without encoding them again. After a kill the
next recorder publishes what is left in the same way, so a killed recording ends with its last complete frame.
"""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from vpt_jax.curation.window_recorder.gate import Row
from vpt_jax.data.bridges.event_table import COLUMNS
from vpt_jax.system.atomic_files import publish, read_json, write_text
from vpt_jax.video import CRF, FRAME_RATE, PRESET

PARTIAL = ".partial"
MIN_SECONDS = 1.0  # shorter recordings are removed
_CLOCK = 1000  # parts of a second in which times of frames are stored, those of the X server
_VIDEO, _EVENTS, _FACTS, _FILM = "video.mkv", "events.csv", "facts.json", "film.mp4"
_DIGITS = 4  # decimals of times in the table


class GrowingRecording:
    """Recording in progress; times are in seconds on the recorder's clock.

    Args:
        out: folder of the recordings.
        name: of the recording.
        facts: of the recording, as `vpt_jax/data/bridges/facts.py` reads them.
        start: time of the first frame.
        height, width: of all frames; even numbers.
    """

    def __init__(self, out: Path, name: str, facts: Mapping[str, Any], start: float, height: int, width: int):
        self.folder, self.start, self.last, self.size = out / (name + PARTIAL), start, start, (height, width)
        self.folder.mkdir(parents=True)
        write_text(self.folder / _FACTS, json.dumps(facts, indent=1) + "\n")
        self._events = (self.folder / _EVENTS).open("w", encoding="utf-8", newline="")
        self._table = csv.writer(self._events, lineterminator="\n")
        self._table.writerow(COLUMNS)
        options = {"flush_packets": "1", "cluster_time_limit": "1"}  # a cluster, thus a kill, holds one frame back
        self._video = av.open(str(self.folder / _VIDEO), "w", format="matroska", options=options)
        # "zerolatency": the encoder keeps no frame back.
        quality = {"crf": str(CRF), "preset": PRESET, "tune": "zerolatency"}
        self._stream = self._video.add_stream("libx264", rate=FRAME_RATE, options=quality)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        self._stream.codec_context.thread_count = 1
        self._pts = -1

    def add_frame(self, time: float, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Append a frame; one that is not later than its predecessor by a millisecond is dropped."""
        pts = round((time - self.start) * _CLOCK)
        if pts <= self._pts:
            return
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = pts, Fraction(1, _CLOCK)
        self._video.mux(self._stream.encode(picture))
        self._pts, self.last = pts, time

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Append events, and hand them to the operating system."""
        for row in rows:
            time = round(max(row.time - self.start, 0.0), _DIGITS)
            value = "" if row.value is None else f"{row.value:g}"
            self._table.writerow([f"{time:.{_DIGITS}f}", row.event, row.name, value])
        self._events.flush()

    def finish(self) -> Path | None:
        """Publish the recording; returns its path without suffix, or None if it was too short and is removed."""
        self._video.mux(self._stream.encode(None))
        self._video.close()
        self._events.close()
        return publish_partial(self.folder)


def recover(out: Path) -> list[Path]:
    """Publish what killed recorders left in a folder; the caller has locked it. Returns the paths, without suffix."""
    found = [publish_partial(folder) for folder in sorted(out.glob(f"*{PARTIAL}")) if folder.is_dir()]
    return [path for path in found if path is not None]


def publish_partial(folder: Path) -> Path | None:
    """Publish a folder NAME.partial; one without facts, or shorter than `MIN_SECONDS`, is removed."""
    target = folder.with_name(folder.name.removesuffix(PARTIAL))
    facts = read_json(folder / _FACTS)
    length = _copy_frames(folder / _VIDEO, folder / _FILM) if facts else 0.0
    if length < MIN_SECONDS:
        shutil.rmtree(folder)
        return None
    lines = "".join(_lines_until(folder / _EVENTS, length))
    write_text(Path(f"{target}.csv"), lines)
    write_text(Path(f"{target}.json"), json.dumps(facts, indent=1) + "\n")
    publish(folder / _FILM, Path(f"{target}.mp4"))
    shutil.rmtree(folder)
    return target


def _copy_frames(source: Path, target: Path) -> float:
    """Copy all whole frames into an mp4; returns the time of the last in seconds, 0 if there is none."""
    last = 0.0
    try:
        with (
            av.open(str(source)) as old,
            av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as new,
        ):
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in _whole_packets(old):
                last = float(packet.pts * packet.time_base)
                packet.stream = stream
                new.mux(packet)
    except (FileNotFoundError, av.FFmpegError, IndexError):  # killed before its first frame
        return 0.0
    return last


def _whole_packets(container: Any) -> Iterator[Any]:
    """Packets up to the place where a killed recorder's file ends."""
    packets = container.demux(container.streams.video[0])
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None or packet.pts is None or packet.is_corrupt:
            return
        yield packet


def _lines_until(table: Path, last: float) -> Iterator[str]:
    """Header and lines up to a time, without a line that a kill has cut."""
    with table.open(encoding="utf-8", newline="") as file:
        yield file.readline()
        for line in file:
            if line.endswith("\n") and float(line.partition(",")[0]) <= last:
                yield line
