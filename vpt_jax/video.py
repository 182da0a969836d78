"""Video input and output with PyAV: decode, resample, resize, encode (H.264); drawing of cursor, keys and mouse.

All programs read videos by these functions, so they agree about every file: `video_files` decides which files are
videos, `video_clock` the time of each frame, `video_display` its rotation and pixel aspect.

A frame is RGB, uint8 `[height, width, 3]`. Decoder, encoder and colour conversion use one thread each: there is one
worker process per core, and an encoded file depends on its frames alone.
"""

import contextlib
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
from jaxtyping import UInt8

from vpt_jax.system.atomic_files import publish
from vpt_jax.video_clock import (
    FRAME_RATE,
    MAX_GAP,
    MAX_JUMP,
    duration_and_interval,
    make_monotone,
    presentation_order,
    resample,
    sort_times,
)
from vpt_jax.video_display import frame_orientation, square_width
from vpt_jax.video_files import CONTAINERS, VideoError, name_problem

Frame = UInt8[np.ndarray, "_h _w 3"]  # the sizes of two arguments may differ

CRF = 23  # x264's own default
MAX_PIXELS = 8192 * 4320  # of a frame; a few bytes of a file can claim any size
MAX_MISSING = 2  # seconds that a video may end before its stated end, since a last frame may last longer
PRESET = "superfast"  # nearly twice as fast as "veryfast", for a quarter more bytes at the same error


def decode(path: str | Path) -> Iterator[Frame]:
    """Decode all frames of a video file in presentation order, as players display them. Holds a few frames at a time.

    Frames are rotated and mirrored by the file's display matrix, and stretched to square pixels. A frame in which the
    decoder concealed damage is an error. Not all damage is detected: H.264 has no checksum, and a few changed bytes may
    decode to a wrong picture. Colours are those of OpenCV's reader.

    Raises:
      FileNotFoundError: there is no such file.
      VideoError: "unreadable video" when the container does not open (an mp4 cut short has lost its index, which is
        written last), or the display matrix asks for anything but quarter turns; "unreadable name" when the name is not
        UTF-8; "damaged video" at the first frame that cannot be decoded as it was encoded, and where a file ends more
        than `MAX_MISSING` seconds before the end that it states.
    """
    return (frame for _, frame in decode_timed(path))


class _TimeRange:
    """Time range of a stream's frames by their own time stamps, as far as it has been read; all in seconds."""

    first: Fraction | None = None
    last: Fraction  # time of the last frame
    last_duration: Fraction | None = None  # duration that the file states for the last frame
    end = Fraction(0)

    def update(self, time: Fraction | None, last_duration: Fraction | None) -> None:
        if time is not None:
            self.first = time if self.first is None else min(self.first, time)
            self.last, self.last_duration = time, last_duration
            self.end = max(self.end, time + (last_duration or 0))


def decode_timed(
    path: str | Path, start_time: float = 0, time_range: _TimeRange | None = None
) -> Iterator[tuple[Fraction | None, Frame]]:
    """Decode frames with strictly increasing time stamps in seconds (`video_clock.make_monotone`); None without any.

    Frames before `start_time`, in seconds from the first frame, may be skipped by seeking to a key frame, except for
    the first frame. `time_range` is updated with the frames that are read. Raises errors as `decode`.
    """
    time_range = time_range or _TimeRange()
    with _open(path) as container:
        stream = container.streams.video[0]
        reformatter = VideoReformatter()  # one for all frames: VideoFrame.to_ndarray would build a scaler for each
        try:
            frames = _track_time_range(_decode_from(path, container, start_time), stream, time_range)
            for frame, time in make_monotone(frames, _is_discontinuous(container), _nominal_gap(stream)):
                if frame.is_corrupt:
                    raise VideoError("damaged video", f"the frame at {frame.time} s is corrupt")
                yield time, _to_display(frame, stream, reformatter)
            _check_end(stream, time_range)
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error


_TimedFrames = Iterator[tuple[Any, Fraction | None]]


def _to_display(frame: Any, stream: Any, reformatter: VideoReformatter) -> Frame:
    """Convert a decoded frame to RGB as players display it: square pixels, then the display matrix."""
    orientation, width = frame_orientation(frame), _square_width(frame, stream)
    picture = reformatter.reformat(frame, width=width, format="rgb24", threads=1).to_ndarray()
    return orientation.apply(picture)


def _square_width(frame: Any, stream: Any) -> int:
    """Width of a frame in square pixels. The aspect is the container's, or else that of the coded picture."""
    aspects = [stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio]
    if _is_discontinuous(stream.container):  # the aspect may change, and the container's is that of the start
        aspects.reverse()
    width = square_width(frame.width, aspects[0] or aspects[1])
    if not 0 < width * frame.height <= MAX_PIXELS:
        raise VideoError("absurd size", f"its frames are shown at {width}x{frame.height} pixels")
    return width


def _is_discontinuous(container: Any) -> bool:
    """True for containers that may hold several clocks by FFmpeg's flags, such as transport streams."""
    return bool(container.format.flags & av.format.Flags.ts_discont.value)


def _is_format(container: Any, *names: str) -> bool:
    return not set(names).isdisjoint(container.format.name.split(","))


def _nominal_gap(stream: Any) -> Fraction:
    rate = stream.average_rate
    return 1 / Fraction(rate.numerator, rate.denominator) if rate else Fraction(1, FRAME_RATE)


def _track_time_range(frames: _TimedFrames, stream: Any, time_range: _TimeRange) -> _TimedFrames:
    has_frame_durations = _is_format(stream.container, "mov", "matroska")  # others derive durations from the frame rate
    for frame, time in frames:
        time_range.update(time, frame.duration * frame.time_base if has_frame_durations and frame.duration else None)
        yield frame, time


def _decode_from(path: str | Path, container: Any, start_time: float) -> _TimedFrames:
    """Frames in decoder order with their times: the first one, and all from a key frame before `start_time` on."""
    frames = _all_frames(container)
    first = next(frames, None)
    if first is None:
        return
    yield first
    start = first[1]
    # Skipped frames must not appear as one long frame, and with several clocks each would have to be found.
    if start is None or start_time <= MAX_GAP or _is_discontinuous(container):
        yield from frames
    elif (frames_from_key := _seek(container, start + MAX_GAP, start + Fraction(start_time))) is not None:
        yield from frames_from_key
    else:
        with _open(path) as reopened:  # where seeking fails, seeking back to the start fails as well
            yield from islice(_all_frames(reopened), 1, None)


def _seek(container: Any, earliest: Fraction, latest: Fraction) -> _TimedFrames | None:
    """Seek: frames from a key frame between two times on; None if there is no such key frame, or no index."""
    container.seek(int(latest / container.streams.video[0].time_base), stream=container.streams.video[0])
    frames = _all_frames(container)
    # Frames that are presented before the key frame may depend on frames before it.
    key = next((pair for pair in frames if pair[0].key_frame), None)
    if key is None or key[1] is None or not earliest < key[1] <= latest:
        return None
    return chain([key], frames)


def _all_frames(container: Any) -> _TimedFrames:
    stream = container.streams.video[0]
    frames = container.decode(stream)
    timed = ((frame, None if frame.pts is None else frame.pts * frame.time_base) for frame in frames)
    return sort_times(timed) if _is_format(container, "avi", "asf") and stream.codec_context.has_b_frames else timed


def _check_end(stream: Any, time_range: _TimeRange) -> None:
    """Raise if a stream states a longer duration than its frames: a truncated file, which no decoder detects."""
    if time_range.first is None:
        return
    stated, end = None, time_range.end
    if parts := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # Matroska
        hours, minutes, seconds = map(Fraction, parts.groups())
        stated = 3600 * hours + 60 * minutes + seconds
    elif _is_format(stream.container, "mov") and len(stream.index_entries):
        # The container's stated length may include a long last frame; the index does not.
        stated = stream.index_entries[-1].timestamp * stream.time_base
    elif _is_format(stream.container, "avi", "mxf") and stream.duration:  # others: of the sound, or an estimate
        stated = stream.duration * stream.time_base
    if stated is not None and stated - end > MAX_MISSING:
        raise VideoError(
            "damaged video", f"it states a length of {float(stated):.2f} s, and ends at {float(end):.2f} s"
        )


class VideoInfo(NamedTuple):
    """Size, frame rate and duration of a video file."""

    width: int  # pixels, as displayed
    height: int
    fps: float  # frames per second, on average
    seconds: float  # from the first frame to the end of the last


def probe(path: str | Path) -> VideoInfo:
    """Read the packets of a video file to its end, and decode its first frame only.

    Raises:
      FileNotFoundError, VideoError: as `resampled_frames`, as far as the packets show.
    """
    with _open(path) as container:
        stream, size, packets, corrupt = container.streams.video[0], None, [], False
        discontinuous = _is_discontinuous(container)  # at the joints of concatenated streams, packets count as damaged
        try:
            for packet in container.demux(stream):
                frames = packet.decode() if size is None else []
                size = _display_size(frames[0], stream) if frames else size
                if packet.pts is not None:
                    packets.append((packet.pts, packet.dts, packet.duration))
                    corrupt = packet.is_corrupt or (corrupt and not discontinuous)
        except av.FFmpegError as error:
            raise VideoError("damaged video", str(error)) from error
        if corrupt:
            raise VideoError("damaged video", "it is cut short")
        if not packets or size is None or stream.time_base is None:
            raise VideoError("unreadable video", "it has no frames")
        return VideoInfo(*size, *_length(container, packets))


def _display_size(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height of a frame as displayed."""
    height, width = frame_orientation(frame).size(frame.height, _square_width(frame, stream))
    return width, height


def _length(container: Any, packets: list[tuple[int, int | None, int | None]]) -> tuple[float, float]:
    """Frame rate (frames per second) and duration (seconds) of a stream with these packets: PTS, DTS, duration."""
    stream, time_range = container.streams.video[0], _TimeRange()
    discontinuous = _is_discontinuous(container)
    base = Fraction(stream.time_base.numerator, stream.time_base.denominator)
    has_frame_durations = _is_format(container, "mov", "matroska")
    for pts, _, duration in sorted(packets, key=lambda packet: packet[0]):
        time_range.update(pts * base, duration * base if has_frame_durations and duration else None)
    _check_end(stream, time_range)
    max_jump = int(MAX_JUMP / base) if discontinuous else None
    ordered = presentation_order(((pts, dts) for pts, dts, _ in packets), max_jump)
    timed = make_monotone(((None, time * base) for _, time in ordered), discontinuous, _nominal_gap(stream))
    seconds, mean = duration_and_interval((time for _, time in timed), time_range.last_duration)
    return float(1 / mean), float(seconds)


def _open(path: str | Path) -> Any:
    only_this_file = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
    if problem := name_problem(path):
        raise VideoError("unreadable name", problem)
    if not Path(path).is_file() and Path(path).exists():
        raise VideoError("unreadable video", "it is not a regular file")  # opening a pipe would block
    try:
        container = av.open(f"file:{path}", options=only_this_file)
    except av.FileNotFoundError:
        raise
    except (av.FFmpegError, UnicodeDecodeError) as error:  # some versions of PyAV decode all names and titles
        raise VideoError("unreadable video", f"{error} (cut short, or not a video)") from error
    if not container.streams.video:
        container.close()
        raise VideoError("unreadable video", "the file holds no video stream")
    if problem := _prepare_decoder(container.streams.video[0].codec_context):
        container.close()
        raise VideoError("unreadable video", problem)
    return container


def _prepare_decoder(codec: Any) -> str:
    """Set one thread and a limit of the frame size; returns an error message, or ""."""
    if codec is None:
        return "its codec is unknown"
    codec.thread_count = 1
    codec.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may change its size
    if codec.width * codec.height > MAX_PIXELS:
        return f"its frames are {codec.width}x{codec.height}, more than {MAX_PIXELS:,} pixels"
    return ""


def resampled_frames(path: str | Path, first: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """Frames `first` to `stop` (None: the end) of a video resampled to 20 per second; seeks to the first one.

    Raises:
      FileNotFoundError, VideoError: as `decode` and `resample`.
    """
    time_range = _TimeRange()
    timed = decode_timed(path, first / FRAME_RATE, time_range)
    frames = resample(timed, first=first, last_duration=lambda: time_range.last_duration)
    return frames if stop is None else islice(frames, stop - first)


def fit_aspect(frame: Frame, width: int, height: int) -> Frame:
    """Crop or pad (black) a frame at both sides to the aspect `width` to `height`; its height is kept.

    Games with a wider window show more at the sides and not more above, so this keeps the scale of the scene.
    """
    wanted, current = round(len(frame) * width / height), frame.shape[1]
    if wanted <= current:
        left = (current - wanted) // 2
        return frame[:, left : left + wanted]
    left = (wanted - current) // 2
    return np.pad(frame, ((0, 0), (left, wanted - current - left), (0, 0)))


def resize(frame: Frame, height: int, width: int) -> Frame:
    """Resize a frame: bilinear, no antialiasing, aspect not kept, as the reference's `resize_image`."""
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)


class VideoWriter:
    """Writes an H.264 mp4 atomically: the file appears under its name only when it is complete.

        with VideoWriter(path, 360, 640) as video:
            video.write(frame)

    Frames are written to `path` + ".partial". Leaving the block renames the file to `path`; an exception removes it; a
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
        self._partial.touch()  # the encoder opens it at the first packet: fail here if it is not writable
        # "faststart" moves the index to the front, so that a browser plays the film while it loads.
        self._container = av.open(str(self._partial), "w", format="mp4", options={"movflags": "faststart"})
        quality = {"crf": str(crf), "preset": PRESET}
        self._stream = self._container.add_stream("libx264", rate=FRAME_RATE, options=quality)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._reformatter = VideoReformatter()

    def write(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 `[height, width, 3]`; ValueError if its shape or type differs from the film's."""
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
            with contextlib.suppress(av.FFmpegError):  # closing an unfinished file; the actual error is already raised
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

    The reference's arithmetic (`composite_images_with_alpha`) to the bit: float64, truncated and not rounded. The
    sprite is clipped at all edges; the reference clips at the right and lower edge only and fails at the other two.
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
