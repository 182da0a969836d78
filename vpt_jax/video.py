"""Frames in and out of video files: decode, resample, resize, encode; and what is drawn on them: cursor, keys, mouse.

All programs read videos by these functions, so they agree about every file: `video_files` says what a video is,
`video_clock` when a frame is shown, `video_display` how it is turned and stretched.

A frame is RGB, uint8 `[height, width, 3]`. Decoder, encoder and colour conversion use one thread each: workers run one
per core, and an encoded file depends on its frames alone.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTON_INDEX, CAMERA, HOTBARS, PITCH, YAW
from vpt_jax.system.atomic_files import publish
from vpt_jax.video_clock import FRAME_RATE, MAX_GAP, MAX_JUMP, in_order, measure, monotone, resample, sort_times
from vpt_jax.video_display import frame_orientation, square_width
from vpt_jax.video_files import CONTAINERS, VideoError, name_problem

Frame = UInt8[np.ndarray, "_h _w 3"]  # of any size: a function may take two

CRF = 23  # x264's own default
MAX_PIXELS = 8192 * 4320  # of a frame; a few bytes may claim any size
MAX_MISSING = 2  # seconds that a video may end before it says so, for a last frame that stays
PRESET = "superfast"  # nearly twice as fast as "veryfast", for a quarter more bytes at the same error


def decode(path: str | Path) -> Iterator[Frame]:
    """Every frame of a video file as players show it, in the order shown. Holds a few frames at a time.

    Pictures are turned as the file's display matrix says, and stretched to square pixels. A frame in which the decoder
    painted over damage is an error. Not all damage is noticed: H.264 carries no checksum, and a few changed bytes may
    decode to a wrong picture. Colours are those OpenCV's reader gives.

    Raises:
      FileNotFoundError: there is no such file.
      VideoError: "unreadable video" when the container does not open (an mp4 cut short has lost its index, which is
        written last), or the display matrix asks for more than quarter turns; "unreadable name" when the name is not
        UTF-8; "damaged video" at the first frame that cannot be decoded as it was encoded, and where a file ends more
        than `MAX_MISSING` seconds before the end that it states.
    """
    return (frame for _, frame in decode_timed(path))


class _Extent:
    """The time that a stream's frames fill by their own time stamps, as far as it is read."""

    first: Fraction | None = None
    last: Fraction  # time of the last frame
    stays: Fraction | None = None  # how long the file says that the last frame is shown
    end = Fraction(0)

    def note(self, time: Fraction | None, stays: Fraction | None) -> None:
        if time is not None:
            self.first = time if self.first is None else min(self.first, time)
            self.last, self.stays = time, stays
            self.end = max(self.end, time + (stays or 0))


def decode_timed(
    path: str | Path, since: float = 0, extent: _Extent | None = None
) -> Iterator[tuple[Fraction | None, Frame]]:
    """As `decode`, with each frame's time stamp in seconds, each later than the one before (`video_clock.monotone`).

    None where no frame has one. What is shown before the time `since`, in seconds from the first frame, may be left
    out, but not the first frame. So what comes late in a long video is there soon.
    """
    extent = extent or _Extent()
    with _open(path) as container:
        stream = container.streams.video[0]
        reformatter = VideoReformatter()  # one for all frames: VideoFrame.to_ndarray would build a scaler for each
        try:
            frames = _noted(_timed(path, container, since), stream, extent)
            for frame, time in monotone(frames, _may_jump(container), _nominal_gap(stream)):
                if frame.is_corrupt:
                    raise VideoError("damaged video", f"the frame at {frame.time} s is corrupt")
                yield time, _show(frame, stream, reformatter)
            _check_end(stream, extent)
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error


_TimedFrames = Iterator[tuple[Any, Fraction | None]]


def _show(frame: Any, stream: Any, reformatter: VideoReformatter) -> Frame:
    """A decoded picture as players show it."""
    orientation, width = frame_orientation(frame), _square_width(frame, stream)
    shown = reformatter.reformat(frame, width=width, format="rgb24", threads=1).to_ndarray()
    return orientation.apply(shown)


def _square_width(frame: Any, stream: Any) -> int:
    """Width of a frame in square pixels. Where the container does not say their aspect, the coded picture does."""
    aspects = [stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio]
    if _may_jump(stream.container):  # a stream that changes on its way; PyAV tells the container's as it began
        aspects.reverse()
    width = square_width(frame.width, aspects[0] or aspects[1])
    if not 0 < width * frame.height <= MAX_PIXELS:
        raise VideoError("absurd size", f"its frames are shown at {width}x{frame.height} pixels")
    return width


def _may_jump(container: Any) -> bool:
    """True for containers, such as transport streams, that FFmpeg says may hold several clocks."""
    return bool(container.format.flags & av.format.Flags.ts_discont.value)


def _is(container: Any, *names: str) -> bool:
    return not set(names).isdisjoint(container.format.name.split(","))


def _nominal_gap(stream: Any) -> Fraction:
    rate = stream.average_rate
    return 1 / Fraction(rate.numerator, rate.denominator) if rate else Fraction(1, FRAME_RATE)


def _noted(frames: _TimedFrames, stream: Any, extent: _Extent) -> _TimedFrames:
    states_durations = _is(stream.container, "mov", "matroska")  # others guess one by the frame rate
    for frame, time in frames:
        extent.note(time, frame.duration * frame.time_base if states_durations and frame.duration else None)
        yield frame, time


def _timed(path: str | Path, container: Any, since: float) -> _TimedFrames:
    """Frames as the decoder gives them, and their times: the first one, and all from some key frame on."""
    frames = _all_frames(container)
    first = next(frames, None)
    if first is None:
        return
    yield first
    start = first[1]
    # What is left out must not look like a frame that lasts, and of several clocks each would have to be found.
    if start is None or since <= MAX_GAP or _may_jump(container):
        yield from frames
    elif (frames_from_key := _seek(container, start + MAX_GAP, start + Fraction(since))) is not None:
        yield from frames_from_key
    else:
        with _open(path) as anew:  # where seeking fails, it fails backwards too
            yield from islice(_all_frames(anew), 1, None)


def _seek(container: Any, earliest: Fraction, latest: Fraction) -> _TimedFrames | None:
    """Frames from a key frame on that is shown between two times; None if there is none, or the file cannot tell."""
    container.seek(int(latest / container.streams.video[0].time_base), stream=container.streams.video[0])
    frames = _all_frames(container)
    # What is shown before the key frame may need frames from before it.
    key = next((pair for pair in frames if pair[0].key_frame), None)
    if key is None or key[1] is None or not earliest < key[1] <= latest:
        return None
    return chain([key], frames)


def _all_frames(container: Any) -> _TimedFrames:
    stream = container.streams.video[0]
    frames = container.decode(stream)
    timed = ((frame, None if frame.pts is None else frame.pts * frame.time_base) for frame in frames)
    return sort_times(timed) if _is(container, "avi", "asf") and stream.codec_context.has_b_frames else timed


def _check_end(stream: Any, extent: _Extent) -> None:
    """Raise if a stream states that it goes on after its last frame: a file cut short, which no decoder notices."""
    if extent.first is None:
        return
    stated, end = None, extent.end
    if parts := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        hours, minutes, seconds = map(Fraction, parts.groups())
        stated = 3600 * hours + 60 * minutes + seconds
    elif _is(stream.container, "mov") and len(stream.index_entries):  # its length may be that of a picture that stays
        stated = stream.index_entries[-1].timestamp * stream.time_base
    elif _is(stream.container, "avi", "mxf") and stream.duration:  # others state that of the sound, or guess
        stated = stream.duration * stream.time_base
    if stated is not None and stated - end > MAX_MISSING:
        raise VideoError(
            "damaged video", f"it states a length of {float(stated):.2f} s, and ends at {float(end):.2f} s"
        )


class Facts(NamedTuple):
    """What a video file is."""

    width: int  # pixels, as it is shown
    height: int
    fps: float  # frames per second, on average
    seconds: float  # from the first frame to the end of the last


def probe(path: str | Path) -> Facts:
    """Reads a video file to its end, and decodes no more than its first frame.

    Raises:
      FileNotFoundError, VideoError: as `steady_frames`, as far as the packets tell.
    """
    with _open(path) as container:
        stream, size, packets, corrupt = container.streams.video[0], None, [], False
        jumps = _may_jump(container)  # where streams were joined, their packets count as damaged
        try:
            for packet in container.demux(stream):
                frames = packet.decode() if size is None else []
                size = _shown_size(frames[0], stream) if frames else size
                if packet.pts is not None:
                    packets.append((packet.pts, packet.dts, packet.duration))
                    corrupt = packet.is_corrupt or (corrupt and not jumps)
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error
        if corrupt:
            raise VideoError("damaged video", "it is cut short")
        if not packets or size is None or stream.time_base is None:
            raise VideoError("unreadable video", "it has no frames")
        return Facts(*size, *_length(container, packets))


def _shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height of a frame as it is shown."""
    height, width = frame_orientation(frame).size(frame.height, _square_width(frame, stream))
    return width, height


def _length(container: Any, packets: list[tuple[int, int | None, int | None]]) -> tuple[float, float]:
    """Frames per second, and seconds, of a stream with these packets: pts, dts, duration."""
    stream, extent, jumps = container.streams.video[0], _Extent(), _may_jump(container)
    base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
    states_durations = _is(container, "mov", "matroska")
    for pts, _, duration in sorted(packets, key=lambda packet: packet[0]):
        extent.note(pts * base, duration * base if states_durations and duration else None)
    _check_end(stream, extent)
    ordered = in_order(((pts, dts) for pts, dts, _ in packets), int(MAX_JUMP / base) if jumps else None)
    timed = monotone(((None, time * base) for _, time in ordered), jumps, _nominal_gap(stream))
    seconds, mean = measure((time for _, time in timed), extent.stays)
    return float(1 / mean), float(seconds)


def _open(path: str | Path) -> Any:
    only_this_file = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    if problem := name_problem(path):
        raise VideoError("unreadable name", problem)
    if not Path(path).is_file() and Path(path).exists():
        raise VideoError("unreadable video", "it is no file")  # a pipe would be waited for
    try:
        container = av.open(f"file:{path}", options=only_this_file)
    except av.FileNotFoundError:
        raise
    except (av.FFmpegError, UnicodeDecodeError) as error:  # some versions of PyAV read all names and titles
        raise VideoError("unreadable video", f"{error} (cut short, or not a video)") from error
    if not container.streams.video:
        container.close()
        raise VideoError("unreadable video", "the file holds no video stream")
    if problem := _prepare_decoder(container.streams.video[0].codec_context):
        container.close()
        raise VideoError("unreadable video", problem)
    return container


def _prepare_decoder(codec: Any) -> str:
    """One thread, and frames of no absurd size; or what is wrong."""
    if codec is None:
        return "its codec is none that is known"
    codec.thread_count = 1
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may change its size
    if codec.width * codec.height > MAX_PIXELS:
        return f"its frames are {codec.width}x{codec.height}, more than {MAX_PIXELS:,} pixels"
    return ""


def steady_frames(path: str | Path, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """The frames of a video at 20 per second, or some of them, without decoding all that comes before.

    Raises:
      FileNotFoundError, VideoError: as `decode` and `resample`.
    """
    extent = _Extent()
    timed = decode_timed(path, first / FRAME_RATE, extent)
    frames = resample(timed, first=first, stays=lambda: extent.stays)
    return frames if stop is None else islice(frames, stop - first)


def fit_aspect(frame: Frame, width: int, height: int) -> Frame:
    """The frame at the aspect `width` to `height`, its height kept: cut off at both sides, or black added there.

    Games with a wider window show more at the sides and not more above, so this keeps the scale of what is seen.
    """
    wanted, there = round(len(frame) * width / height), frame.shape[1]
    if wanted <= there:
        left = (there - wanted) // 2
        return frame[:, left : left + wanted]
    left = (wanted - there) // 2
    return np.pad(frame, ((0, 0), (left, wanted - there - left), (0, 0)))


def resize(frame: Frame, height: int, width: int) -> Frame:
    """The frame at another size: bilinear, no antialiasing, aspect not kept, as the reference's `resize_image`."""
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


class VideoWriter:
    """Writes an H.264 mp4 that exists under its name only once it is whole.

        with VideoWriter(path, 360, 640) as video:
            video.write(frame)

    Frames go to `path` + ".partial" beside it. Leaving the block gives the file its name; an exception removes it; a
    killed process leaves the partial file, which the next writer of that path overwrites.

    Args:
      path: the file, in a folder that exists.
      height, width: of every frame; even numbers, for colour is stored at half the resolution (yuv420p).
      crf: x264's constant quality, 0 (best) to 51.
    """

    def __init__(self, path: str | Path, height: int, width: int, crf: int = CRF):
        if height % 2 or width % 2:
            raise ValueError(f"{path}: frames of {height}x{width} cannot be stored, both numbers must be even")
        self.path, self._shape, self._frames = Path(path), (height, width, 3), 0
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._partial.touch()  # the encoder opens it at the first packet: fail here where it cannot be written
        # "faststart" moves the index to the front, so that a browser plays the film before it has loaded all of it.
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "faststart"})
        quality = {"crf": str(crf), "preset": PRESET}
        self._stream = self._container.add_stream("libx264", rate=FRAME_RATE, options=quality)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._reformatter = VideoReformatter()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 [height, width, 3]; ValueError if its shape or type is not the film's."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"{self.path}: takes frames uint8{self._shape}, not {frame.dtype}{frame.shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._container.mux(self._stream.encode(self._reformatter.reformat(picture, format="yuv420p", threads=1)))
        self._frames += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            with contextlib.suppress(av.FFmpegError):  # closing an unfinished file; what went wrong is already raised
                self._container.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if not self._frames:
            raise ValueError(f"{self.path}: no frame was written")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        publish(self._partial, self.path)


def blend(frame: Frame, sprite: UInt8[np.ndarray, "sh sw 4"], x: int, y: int) -> None:
    """Draw an RGBA sprite into the frame, in place, its top left corner at column `x`, row `y`.

    The reference's arithmetic (`composite_images_with_alpha`) to the bit: float64, cut and not rounded. What lies
    beyond an edge is left out; the reference does so at the right and lower edge only and fails at the other two.
    """
    area = frame[max(y, 0) : max(y + len(sprite), 0), max(x, 0) : max(x + sprite.shape[1], 0)]
    visible = sprite[max(-y, 0) :, max(-x, 0) :][: area.shape[0], : area.shape[1]]
    alpha = visible[..., 3:] / 255.0
    area[:] = (area * (1 - alpha) + visible[..., :3] * alpha).astype(np.uint8)


def draw_cursor(frame: Frame, x: int, y: int) -> None:
    """Draw a white mouse arrow of at most 16x16 pixels into the frame, in place, its tip at column `x`, row `y`."""
    blend(frame, CURSOR, x, y)


_CURSOR_ROWS = (
    "#...............",
    "##..............",
    "#o#.............",
    "#oo#............",
    "#ooo#...........",
    "#oooo#..........",
    "#ooooo#.........",
    "#oooooo#........",
    "#ooooooo#.......",
    "#oooooooo#......",
    "#ooooo####......",
    "#oo#oo#.........",
    "#o#-#oo#........",
    "##..#oo#........",
    "#....#oo#.......",
    ".....-##-.......",
)
_CURSOR_COLOURS = {".": (0, 0, 0, 0), "-": (0, 0, 0, 96), "#": (0, 0, 0, 255), "o": (255, 255, 255, 255)}  # RGBA
CURSOR = np.array([[_CURSOR_COLOURS[dot] for dot in row] for row in _CURSOR_ROWS], np.uint8)


_KEY_CAPS = {
    "forward": "W", "left": "A", "back": "S", "right": "D", "jump": "jump", "sneak": "sneak", "sprint": "sprint",
    "attack": "attack", "use": "use", "drop": "drop", "inventory": "inv",
}  # fmt: skip
_ROW_HEIGHT, _ROW_WIDTH, _GAP = 64, 1280, 10  # a row is drawn at this size, then scaled to the width of the frame
_LABEL, _UP, _DOWN, _ON_DOWN = (200, 200, 200), (120, 120, 120), (255, 212, 80), (1, 1, 1)  # colours; a key's state


def draw_action(
    frame: Frame,
    buttons: UInt8[np.ndarray, "20"],
    camera: Float[np.ndarray, "2"],
    predicted: tuple[UInt8[np.ndarray, "20"], Float[np.ndarray, "2"]] | None = None,
) -> Frame:
    """A copy of the frame with the action along its upper edge: a cap for every key, lit when held, and the mouse.

    Args:
      frame: left as it is. The letters need about 300 pixels of width: enlarge a smaller frame first.
      buttons: keys held, 1 each.
      camera: degrees. The arrow points where the camera turns and is longest from 10 degrees on, where the bins end.
      predicted: buttons and camera of a second action, for the row below; the rows are then labelled.
    """
    rows = _action_row(buttons, camera)
    if predicted is not None:
        rows = np.concatenate([_action_row(buttons, camera, "recorded"), _action_row(*predicted, "predicted")])
    width = frame.shape[1]
    height = min(max(1, round(len(rows) * width / _ROW_WIDTH)), len(frame))
    drawn = frame.copy()
    strip = drawn[:height]
    np.maximum(strip // 4, cv2.resize(rows, (width, height), interpolation=cv2.INTER_AREA), out=strip)
    return drawn


def draw_note(frame: Frame, text: str) -> None:
    """Write a few words into the lower left corner of the frame, in place; half its height at most."""
    scale = min(0.7 * _FONT_SCALE, 0.004 * len(frame))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    frame[len(frame) - 2 * height :, : width + 2 * height] //= 4  # a dark ground, to be read on any picture
    cv2.putText(frame, text, (height, len(frame) - height // 2), _FONT, scale, _DOWN, 1, cv2.LINE_AA)


def _action_row(buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"], label: str = "") -> Frame:
    row = np.zeros((_ROW_HEIGHT, _ROW_WIDTH, 3), np.uint8)
    _draw_text(row, label, _GAP, _LABEL)
    x = 170 if label else _GAP
    for name, text in _KEY_CAPS.items():
        x = _draw_cap(row, text, x, bool(buttons[BUTTON_INDEX[name]]))
    slots = [str(slot) for slot, name in enumerate(HOTBARS, 1) if buttons[BUTTON_INDEX[name]]]
    x = _draw_cap(row, slots[-1] if slots else "1-9", x, bool(slots), width=66)
    _draw_mouse(row, x, camera)
    return row


def _draw_cap(row: Frame, text: str, x: int, held: bool, width: int = 0) -> int:
    """Draw a key cap with its left edge at `x`; returns where the next one starts."""
    width = width or _text_width(text) + 24
    corners = (x, 8), (x + width, _ROW_HEIGHT - 8)
    cv2.rectangle(row, *corners, _DOWN if held else _UP, cv2.FILLED if held else 2, cv2.LINE_AA)
    _draw_text(row, text, x + (width - _text_width(text)) // 2, _ON_DOWN if held else _UP)
    return x + width + _GAP


def _draw_mouse(row: Frame, x: int, camera: Float[np.ndarray, "2"]) -> None:
    radius = _ROW_HEIGHT // 2 - 4
    centre = (x + radius, _ROW_HEIGHT // 2)
    cv2.circle(row, centre, radius, _UP, 2, cv2.LINE_AA)
    right, down = float(camera[YAW]), float(camera[PITCH])
    if angle := math.hypot(right, down):
        length = radius * min(1, angle / CAMERA.max_degrees) ** 0.5 / angle  # the root keeps small moves visible
        tip = (round(centre[0] + length * right), round(centre[1] + length * down))
        cv2.arrowedLine(row, centre, tip, _DOWN, 4, cv2.LINE_AA, tipLength=0.4)


_FONT, _FONT_SCALE, _FONT_WEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 0.85, 2


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _FONT_SCALE, _FONT_WEIGHT)[0][0]


def _draw_text(row: Frame, text: str, x: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(row, text, (x, _ROW_HEIGHT // 2 + 10), _FONT, _FONT_SCALE, colour, _FONT_WEIGHT, cv2.LINE_AA)
