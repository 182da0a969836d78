"""Frames in and out of video files: decode, resample, resize, encode; and what is drawn on them: cursor, keys, mouse.

A frame is RGB, uint8 `[height, width, 3]`. Decoder, encoder and colour conversion use one thread each: workers run one
per core, and an encoded file depends on its frames alone.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
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
from vpt_jax.state_files import publish

Frame = UInt8[np.ndarray, "_h _w 3"]  # of any size: a function may take two

FRAME_RATE = 20  # frames, and actions, per second
CRF = 23  # x264's own default
MAX_PIXELS = 8192 * 4320  # of a frame; a few bytes may claim any size
MAX_SECONDS = 24 * 3600  # of a video
MAX_GAP = 60  # seconds from one frame of a video to the next; more is taken for damage
MAX_MISSING = 2  # seconds that a video may end before it says so, for a last frame that stays
# What a container may be. Others are text files that make FFmpeg open further files (playlists, lists to join).
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "flv", "ogg")
PRESET = "superfast"  # nearly twice as fast as "veryfast", for a quarter more bytes at the same error


class VideoError(Exception):
    """A video that cannot be decoded to its end; `reason`: "unreadable video", "damaged video", "absurd size"."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(path: str | Path) -> Iterator[Frame]:
    """Every frame of a video file, in the order shown. Holds one frame at a time.

    A frame in which the decoder painted over damage is an error. Not all damage is noticed: H.264 carries no checksum,
    and a few changed bytes may decode to a wrong picture. Colours are those OpenCV's reader gives.

    Raises:
      FileNotFoundError: there is no such file.
      VideoError: "unreadable video" when the container does not open (an mp4 cut short has lost its index, which is
        written last), "damaged video" at the first frame that cannot be decoded as it was encoded, and where a
        Matroska or WebM file ends more than `MAX_MISSING` seconds before the end that it states.
    """
    return (frame for _, frame in decode_timed(path))


def decode_timed(path: str | Path, since: float = 0) -> Iterator[tuple[Fraction | None, Frame]]:
    """As `decode`, with each frame's time stamp in seconds; None where it has none.

    What is shown before the time `since`, in seconds from the first frame, may be left out, but not the first frame. So
    what comes late in a long video is there soon.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        reformatter = VideoReformatter()  # one for all frames: VideoFrame.to_ndarray would build a scaler for each
        time = None
        try:
            for frame, time in _timed(path, container, since):
                if frame.is_corrupt:
                    raise VideoError("damaged video", f"the frame at {frame.time} s is corrupt")
                yield time, reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            _check_end(stream, time)
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error


_TimedFrames = Iterator[tuple[Any, Fraction | None]]


def _timed(path: str | Path, container: Any, since: float) -> _TimedFrames:
    """Frames as the decoder gives them, and their times: the first one, and all from some key frame on."""
    frames = _all_frames(container)
    first = next(frames, None)
    if first is None:
        return
    yield first
    start = first[1]
    if start is None or since <= MAX_GAP:  # what is left out must not look like a frame that lasts
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
    frames = container.decode(container.streams.video[0])
    return ((frame, None if frame.pts is None else frame.pts * frame.time_base) for frame in frames)


def _check_end(stream: Any, last: Fraction | None) -> None:
    """Raise if a stream states that it goes on after its `last` frame: a file cut short, which no decoder notices."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if last is None or parts is None:
        return
    hours, minutes, seconds = map(float, parts.groups())
    if (stated := 3600 * hours + 60 * minutes + seconds) - last > MAX_MISSING:
        raise VideoError("damaged video", f"it states a length of {stated:.2f} s, and ends at {float(last):.2f} s")


class Facts(NamedTuple):
    """What a video file is."""

    width: int  # pixels
    height: int
    fps: float  # frames per second, on average
    seconds: float  # from the first frame to the end of the last


def probe(path: str | Path) -> Facts:
    """Reads a video file to its end without decoding it.

    Raises:
      FileNotFoundError, VideoError: as `decode`, as far as the packets tell; "damaged video" also where the container
        states more than `MAX_MISSING` seconds that are not there.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        try:
            packets = [(packet.pts, packet.is_corrupt) for packet in container.demux(stream) if packet.pts is not None]
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error
        if not packets or stream.time_base is None:
            raise VideoError("unreadable video", "it has no frames")
        if any(corrupt for _, corrupt in packets):
            raise VideoError("damaged video", "it is cut short")
        times = [time for time, _ in packets]
        last, length = max(times), float((max(times) - min(times)) * stream.time_base)
        _check_end(stream, last * stream.time_base)
        if stream.duration and (missing := stream.duration * stream.time_base - length) > MAX_MISSING:
            raise VideoError("damaged video", f"its last {float(missing):.2f} s are missing")
        mean_gap = length / (len(times) - 1) if len(times) > 1 else 1 / FRAME_RATE
        size = stream.codec_context.width, stream.codec_context.height
        return Facts(*size, 1 / mean_gap if mean_gap else 0.0, length + mean_gap)


def _open(path: str | Path) -> Any:
    only_this_file = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
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
    frames = resample(decode_timed(path, first / FRAME_RATE), first=first)
    return frames if stop is None else islice(frames, stop - first)


def resample(timed: Iterable[tuple[Fraction | None, Frame]], rate: int = FRAME_RATE, first: int = 0) -> Iterator[Frame]:
    """Frames at a steady rate, whatever the rate of the video is and however uneven.

    At every tick from the first frame's time on, the frame nearest in time is given; of two equally near, the earlier.
    The first tick is number 0; `first` is the number of the first one that is asked for.
    So frames are left out or repeated, and a video of that rate comes out as it is. The last frame is taken to last as
    long as the average one. A frame that is not later than the one before it is left out.

    Raises:
      VideoError: "damaged video" where a frame has no time stamp, or lasts longer than `MAX_GAP`; "absurd size" where
        the video is longer than `MAX_SECONDS`.
    """
    start = shown = None
    last, due = Fraction(0), Fraction(first, rate)
    gaps, frames = Fraction(0), 0  # the time between the frames, but for what was left out
    for time, frame in timed:
        if time is None:
            raise VideoError("damaged video", "a frame has no time stamp")
        start = time if start is None else start
        now = time - start
        if frames and now <= last:
            continue
        if now > MAX_SECONDS:
            raise VideoError("absurd size", f"the video is longer than {MAX_SECONDS / 3600:.0f} hours")
        if now - last > MAX_GAP and now > due:
            raise VideoError(
                "damaged video", f"nothing is shown from {float(start + last):.2f} s to {float(time):.2f} s"
            )
        while shown is not None and due <= (last + now) / 2:
            yield shown
            due += Fraction(1, rate)
        if frames and now - last <= MAX_GAP:
            gaps, frames = gaps + now - last, frames + 1
        shown, last, frames = frame, now, max(frames, 1)
    end = last + (gaps / (frames - 1) if frames > 1 else Fraction(1, rate))
    while shown is not None and due < end:
        yield shown
        due += Fraction(1, rate)


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
    height = min(round(len(rows) * width / _ROW_WIDTH), len(frame))
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
