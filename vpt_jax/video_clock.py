"""Time stamps of a video: made monotone where a file's are not, and resampled to a steady rate."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeVar

from vpt_jax.video_files import VideoError

FRAME_RATE = 20  # frames, and actions, per second
MAX_SECONDS = 24 * 3600  # of a video
MAX_GAP = 60  # seconds from one frame of a video to the next; more is taken for damage
MAX_JUMP = 10  # seconds forward, at which a stream that may be joined has a new clock: FFmpeg's `dts_delta_threshold`
LOOK_AHEAD = 8  # frames that show whether a clock began anew, or a few time stamps are wrong
SURE = 4  # frames in a row, each later than the one before, that are a clock

T = TypeVar("T")
Timed = Iterable[tuple[T, Fraction | None]]


def sort_times(frames: Timed[T], window: int = LOOK_AHEAD) -> Iterator[tuple[T, Fraction | None]]:
    """The frames in their order, with the time stamps of each `window` frames sorted.

    AVI and ASF store when a picture is decoded, not when it is shown. With B-frames these times come permuted, while
    the decoder gives the frames in the right order.
    """
    waiting: deque[tuple[T, bool]] = deque()
    times: list[Fraction] = []
    for frame, time in frames:
        waiting.append((frame, time is not None))
        if time is not None:
            heapq.heappush(times, time)
        if len(waiting) > window:
            first, has_time = waiting.popleft()
            yield first, heapq.heappop(times) if has_time else None
    for frame, has_time in waiting:
        yield frame, heapq.heappop(times) if has_time else None


def monotone(
    frames: Timed[T], may_jump: bool = False, gap: Fraction = Fraction(1, FRAME_RATE)
) -> Iterator[tuple[T, Fraction | None]]:
    """All frames, each later than the one before; times that are later already stay as they are.

    - A clock that begins anew, as in transport streams that were joined, goes on where the one before ended.
    - A few frames whose times are wrong, or missing, are spread between the good ones around them. What comes back
      within `LOOK_AHEAD` frames is taken for this, unless `SURE` of them follow one another.

    Args:
      frames: with their times in seconds, in the order shown. Before the first frame that has a time, they are given
        without one.
      may_jump: the container may hold several clocks; a jump forward by more than `MAX_JUMP` is then a new one too.
      gap: seconds from the last frame of a clock to the first one of the next, until the file's own are known.
    """
    source, queue = iter(frames), deque[tuple[T, Fraction | None]]()
    held: list[tuple[T, Fraction | None]] = []  # frames that do not go on where the last one was
    last: Fraction | None = None  # time given last
    offset, total, count = Fraction(0), Fraction(0), 0
    while (item := queue.popleft() if queue else next(source, None)) is not None or held:
        time = None if item is None or item[1] is None else item[1] + offset
        if item is not None and last is None:
            last = time
            yield item
        elif last is not None and item is not None and time is not None and _goes_on(last, time, may_jump):
            step = (time - last) / (len(held) + 1)
            yield from ((frame, last + number * step) for number, (frame, _) in enumerate(held, 1))
            if step <= MAX_JUMP:
                total, count = total + time - last, count + len(held) + 1
            held, last = [], time
            yield item[0], time
        elif last is not None:
            held += [] if item is None else [item]
            if item is None or len(held) == LOOK_AHEAD or _is_run(held):  # a new clock, or the end
                last += total / count if count else gap
                frame, begin = held[0]
                offset = offset if begin is None else last - begin
                queue.extendleft(reversed(held[1:]))
                held = []
                yield frame, last


def _goes_on(last: Fraction, time: Fraction, may_jump: bool) -> bool:
    return last < time and not (may_jump and time - last > MAX_JUMP)


def _is_run(held: list[tuple[Any, Fraction | None]]) -> bool:
    times = [time for _, time in held[-SURE:] if time is not None]
    return len(times) == SURE and all(before < after for before, after in pairwise(times))


def measure(times: Iterable[Fraction | None], stays: Fraction | None = None) -> tuple[Fraction, Fraction]:
    """Length of a video in seconds, and the mean time between its frames, from monotone times; as `resample` has them.

    Raises:
      VideoError: as `resample`.
    """
    known: list[Fraction] = []
    for time in times:
        if time is None:
            raise VideoError("damaged video", "a frame has no time stamp")
        if known and time - known[-1] > MAX_GAP:
            raise _nothing_shown(known[-1], time)
        if known and time - known[0] > MAX_SECONDS:
            raise _too_long()
        known.append(time)
    length = known[-1] - known[0]
    mean = length / (len(known) - 1) if length else Fraction(1, FRAME_RATE)
    return length + last_seconds(mean, stays), mean


def _nothing_shown(start: Fraction, end: Fraction) -> VideoError:
    return VideoError("damaged video", f"nothing is shown from {float(start):.2f} s to {float(end):.2f} s")


def _too_long() -> VideoError:
    return VideoError("absurd size", f"the video is longer than {MAX_SECONDS / 3600:.0f} hours")


def resample(
    timed: Iterable[tuple[Fraction | None, T]],
    rate: int = FRAME_RATE,
    first: int = 0,
    stays: Callable[[], Fraction | None] = lambda: None,
) -> Iterator[T]:
    """Frames at a steady rate, whatever the rate of the video is and however uneven.

    At every tick from the first frame's time on, the frame nearest in time is given; of two equally near, the earlier.
    The first tick is number 0; `first` is the number of the first one that is asked for.
    So frames are left out or repeated, and a video of that rate comes out as it is. A frame that is not later than the
    one before it is left out. How long the last one is shown, `last_seconds` says.

    Args:
      timed: times in seconds, and frames.
      rate: ticks per second.
      first: number of the first tick that is asked for.
      stays: asked after the last frame: how long the file says that it is shown.

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
            raise _too_long()
        if now - last > MAX_GAP and now > due:
            raise _nothing_shown(start + last, time)
        while shown is not None and due <= (last + now) / 2:
            yield shown
            due += Fraction(1, rate)
        if frames and now - last <= MAX_GAP:
            gaps, frames = gaps + now - last, frames + 1
        shown, last, frames = frame, now, max(frames, 1)
    end = last + last_seconds(gaps / (frames - 1) if frames > 1 else Fraction(1, rate), stays())
    while shown is not None and due < end:
        yield shown
        due += Fraction(1, rate)


def last_seconds(mean: Fraction, stated: Fraction | None) -> Fraction:
    """Duration of a video's last frame: the mean time between frames, or longer if the file says so.

    Files often state a nominal duration for each frame, so a shorter one than the mean is not believed. A picture that
    stays for over a minute is shown for `MAX_GAP`.
    """
    return min(stated, Fraction(MAX_GAP)) if stated is not None and stated > mean * 3 / 2 else mean


def in_order(packets: Iterable[tuple[int, int | None]], longest: int | None) -> Iterator[tuple[Any, int]]:
    """Times of the frames of a file in the order shown, from those of its packets, which lie as they are decoded.

    Args:
      packets: pts and dts of each, in ticks.
      longest: ticks forward after which a clock is a new one; None: none is.
    """
    part: list[int] = []
    before: int | None = None
    for pts, dts in packets:
        if dts is not None:
            if before is not None and (dts < before or (longest is not None and dts - before > longest)):
                yield from ((None, time) for time in sorted(part))
                part = []
            before = dts
        part.append(pts)
    yield from ((None, time) for time in sorted(part))
