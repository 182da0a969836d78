"""Episodes as OWAMcap: NAME.mcap and NAME.mp4, which `mcap-owa-support` and `owa-msgs` read.

Keys and mouse buttons become presses and releases at the time of the frame from which they are held, movements become
counts of the mouse. Snapshots of what is held come once a second. The format has whole counts only, and no confidence:
the exact movements and the confidence of each step are attachments, float32 in little-endian order, and the metadata
record "vpt_jax" has the bindings, so that this library's reader gets back the very actions.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vpt_jax.data.bridges.bindings import CODES, Bindings
from vpt_jax.data.bridges.export_video import write_frames
from vpt_jax.data.bridges.exported import ExportedEpisode, file_stem
from vpt_jax.data.bridges.key_names import MOUSE_BUTTONS, MOUSE_WHEEL, MOUSE_X, MOUSE_Y
from vpt_jax.data.bridges.mcap_file import require_mcap
from vpt_jax.data.bridges.owamcap_events import (
    CAMERA,
    CONFIDENCE,
    DETAILS,
    KEYBOARD,
    KEYBOARD_STATE,
    MOUSE_RAW,
    MOUSE_STATE,
    WINDOW,
)
from vpt_jax.data.bridges.owamcap_screen import SCREEN
from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.video import FRAME_RATE

START = 10**18  # nanoseconds since 1970 of an episode's first frame: datasets keep no date
STEP = 10**9 // FRAME_RATE
_INTEGER, _TEXT = {"type": "integer"}, {"type": "string"}
_SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    SCREEN: (
        "desktop/ScreenCaptured",
        {"utc_ns": _INTEGER, "shape": {"type": "array"}, "media_ref": {"type": "object"}},
    ),
    KEYBOARD: ("desktop/KeyboardEvent", {"event_type": _TEXT, "vk": _INTEGER}),
    KEYBOARD_STATE: ("desktop/KeyboardState", {"buttons": {"type": "array"}}),
    MOUSE_RAW: (
        "desktop/RawMouseEvent",
        dict.fromkeys(("last_x", "last_y", "us_flags", "button_flags", "button_data"), _INTEGER),
    ),
    MOUSE_STATE: ("desktop/MouseState", {"x": _INTEGER, "y": _INTEGER, "buttons": {"type": "array"}}),
    WINDOW: ("desktop/WindowInfo", {"title": _TEXT, "rect": {"type": "array"}, "hWnd": _INTEGER}),
}
# Order of the down bits of `button_flags`, in steps of two.
_BITS = {name: 2 * number for number, name in enumerate(MOUSE_BUTTONS)}
_WHEEL_FLAG = 0x400

Rows = Iterator[tuple[str, int, dict[str, Any]]]  # topic, time in nanoseconds, fields


def is_written(folder: Path, episode: str) -> bool:
    """True if the episode is in the folder, complete: its .mcap file is written last."""
    return (folder / f"{file_stem(episode)}.mcap").is_file()


def write_owamcap(episode: ExportedEpisode, folder: Path, bindings: Bindings, crf: int) -> Path:
    """Writes an episode atomically, the .mcap file last; returns its path.

    Args:
        episode: with frames.
        folder: must exist.
        bindings: of the episode's action space.
        crf: of the video, as of `write_frames`.
    """
    mcap = require_mcap()
    stem = file_stem(episode.name)
    with atomic_write(folder / f"{stem}.mp4") as video:
        size = write_frames(video, episode.frames(), crf)
    with atomic_write(folder / f"{stem}.mcap") as path, path.open("wb") as stream:
        writer = mcap.writer.Writer(stream)
        writer.start(profile="owa", library="vpt_jax")
        channels = {topic: _register(writer, topic) for topic in _SCHEMAS}
        for topic, time, fields in _messages(episode, bindings, f"{stem}.mp4", size):
            data = json.dumps(fields, separators=(",", ":")).encode()
            writer.add_message(channels[topic], log_time=time, publish_time=time, data=data)
        for name, values in ((CAMERA, episode.camera), (CONFIDENCE, episode.confidence)):
            writer.add_attachment(START, START, name, "application/octet-stream", values.astype("<f4").tobytes())
        details = {
            "keys": json.dumps(bindings.keys),
            "axes": json.dumps(bindings.axes),
            "labels": episode.labels,
            "episode": episode.name,
            "action_space": json.dumps(episode.space.to_dict()),
        }
        writer.add_metadata(DETAILS, details)
        writer.finish()
    return folder / f"{stem}.mcap"


def _register(writer: Any, topic: str) -> int:
    name, properties = _SCHEMAS[topic]
    schema = json.dumps({"type": "object", "title": name.partition("/")[2], "properties": properties}).encode()
    return writer.register_channel(topic, "json", writer.register_schema(name, "jsonschema", schema))


def _messages(episode: ExportedEpisode, bindings: Bindings, video: str, size: tuple[int, int]) -> Rows:
    height, width = size
    counts = _counts(episode, bindings)
    physical = [bindings.keys[key] for key in episode.space.keys]
    before = np.zeros(len(physical), bool)
    for step in range(len(episode)):
        time, held = START + step * STEP, episode.buttons[step] > 0
        reference = {"uri": video, "pts_ns": step * STEP}
        yield SCREEN, time, {"utc_ns": time, "shape": [width, height], "media_ref": reference}
        yield from _inputs(time, physical, before, held, {axis: int(values[step]) for axis, values in counts.items()})
        if step % FRAME_RATE == 0:
            yield from _snapshots(time, [name for name, down in zip(physical, held, strict=True) if down], size)
            title = episode.space.name
            yield WINDOW, time, {"title": title, "rect": [0, 0, width, height], "hWnd": 1}
        before = held
    yield from _inputs(START + len(episode) * STEP, physical, before, np.zeros_like(before), {})


def _inputs(time: int, physical: list[str], before: np.ndarray, held: np.ndarray, moves: dict[str, int]) -> Rows:
    """Events of a step: keys whose state changes, and one message of the mouse if anything of it does."""
    flags = 0
    for number in np.flatnonzero(before != held):
        name, down = physical[number], bool(held[number])
        if name in _BITS:
            flags |= 1 << (_BITS[name] + (0 if down else 1))
        else:
            yield KEYBOARD, time, {"event_type": "press" if down else "release", "vk": CODES[name]}
    x, y, wheel = (moves.get(axis, 0) for axis in (MOUSE_X, MOUSE_Y, MOUSE_WHEEL))
    if x or y or wheel or flags:
        flags |= _WHEEL_FLAG if wheel else 0
        mouse = {"last_x": x, "last_y": y, "us_flags": 0, "button_flags": flags, "button_data": wheel % 2**16}
        yield MOUSE_RAW, time, mouse


def _snapshots(time: int, held: list[str], size: tuple[int, int]) -> Rows:
    keys = sorted(CODES[name] for name in held)
    buttons = [name.removeprefix("mouse.") for name in held if name in _BITS]
    yield KEYBOARD_STATE, time, {"buttons": keys}
    yield MOUSE_STATE, time, {"x": size[1] // 2, "y": size[0] // 2, "buttons": sorted(buttons)}


def _counts(episode: ExportedEpisode, bindings: Bindings) -> dict[str, Int64[np.ndarray, " n"]]:
    """Movement of each mouse axis in whole counts per step. What rounding drops is added to later steps."""
    names = [axis.name for axis in episode.space.axes]
    return {
        bindings.axes[name]: _round_sums(episode.camera[:, number], bindings.units_per_count[name])
        for number, name in enumerate(names)
    }


def _round_sums(movement: Float32[np.ndarray, " n"], unit: float) -> Int64[np.ndarray, " n"]:
    sums = np.rint(np.cumsum(movement.astype(np.float64)) / unit).astype(np.int64)
    return np.diff(sums, prepend=0)
