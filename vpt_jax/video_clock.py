"""Video time stamps: repair of non-monotone ones (PTS discontinuities), and resampling to a constant frame rate."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeVar

from vpt_jax.video_files import VideoError

FRAME_RATE = 20  # frames, and actions, per second
MAX_SECONDS = 24 * 3600  # of a video
MAX_GAP = 60  # seconds from one frame of a video to the next; a longer gap counts as damage
MAX_JUMP = 10  # seconds forward: in a stream that may be concatenated, a new clock; FFmpeg's `dts_delta_threshold`
LOOK_AHEAD = 8  # frames that decide between a restarted clock and a few wrong time stamps
MIN_RUN = 4  # frames in a row with increasing times that count as a clock

T = TypeVar("T")
Timed = Iterable[tuple[T, Fraction | None]]


def sort_times(frames: Timed[T], window: int = LOOK_AHEAD) -> Iterator[tuple[T, Fraction | None]]:
    """The frames in their order, with the time stamps of each `window` frames sorted.

    AVI and ASF store decoding times (DTS), not presentation times (PTS). With B-frames these times are permuted, while
    the decoder outputs the frames in the right order.
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


def make_monotone(
    frames: Timed[T], discontinuous: bool = False, gap: Fraction = Fraction(1, FRAME_RATE)
) -> Iterator[tuple[T, Fraction | None]]:
    """All frames, with strictly increasing time stamps; times that are increasing already stay unchanged.

    - A clock that restarts, as in concatenated transport streams, continues where the previous one ended.
    - A few frames with wrong or missing times are spread evenly between the valid ones around them. A deviation that
      ends within `LOOK_AHEAD` frames counts as this, unless it contains `MIN_RUN` increasing times in a row.

    Args:
      frames: with their times in seconds, in presentation order. Frames before the first one that has a time are
        returned without one.
      discontinuous: the container may hold several clocks; a jump forward by more than `MAX_JUMP` is then a
        new clock, too.
      gap: seconds from the last frame of a clock to the first one of the next, until the file's own interval is known.
    """
    source, queue = iter(frames), deque[tuple[T, Fraction | None]]()
    held: list[tuple[T, Fraction | None]] = []  # frames that do not continue the clock
    last: Fraction | None = None  # time of the last frame that was returned
    offset, total, count = Fraction(0), Fraction(0), 0
    while (item := queue.popleft() if queue else next(source, None)) is not None or held:
        time = None if item is None or item[1] is None else item[1] + offset
        if item is not None and last is None:
            last = time
            yield item
        elif last is not None and item is not None and time is not None and _continues_clock(last, time, discontinuous):
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
                frame, clock_start = held[0]
                offset = offset if clock_start is None else last - clock_start
                queue.extendleft(reversed(held[1:]))
                held = []
                yield frame, last


def _continues_clock(last: Fraction, time: Fraction, discontinuous: bool) -> bool:
    return last < time and not (discontinuous and time - last > MAX_JUMP)


def _is_run(held: list[tuple[Any, Fraction | None]]) -> bool:
    times = [time for _, time in held[-MIN_RUN:] if time is not None]
    return len(times) == MIN_RUN and all(before < after for before, after in pairwise(times))


def duration_and_interval(
    times: Iterable[Fraction | None], last_duration: Fraction | None = None
) -> tuple[Fraction, Fraction]:
    """Duration of a video and mean interval between its frames, both in seconds, consistent with `resample`.

    Args:
      times: monotone time stamps of all frames in seconds.
      last_duration: seconds that the file states for its last frame, if any.

    Raises:
      VideoError: as `resample`.
    """
    known: list[Fraction] = []
    for time in times:
        if time is None:
            raise VideoError("damaged video", "a frame has no time stamp")
        if known and time - known[-1] > MAX_GAP:
            raise _gap_error(known[-1], time)
        if known and time - known[0] > MAX_SECONDS:
            raise _length_error()
        known.append(time)
    length = known[-1] - known[0]
    mean = length / (len(known) - 1) if length else Fraction(1, FRAME_RATE)
    return length + last_frame_duration(mean, last_duration), mean


def _gap_error(start: Fraction, end: Fraction) -> VideoError:
    return VideoError("damaged video", f"nothing is shown from {float(start):.2f} s to {float(end):.2f} s")


def _length_error() -> VideoError:
    return VideoError("absurd size", f"the video is longer than {MAX_SECONDS / 3600:.0f} hours")


def resample(
    timed: Iterable[tuple[Fraction | None, T]],
    rate: int = FRAME_RATE,
    first: int = 0,
    last_duration: Callable[[], Fraction | None] = lambda: None,
) -> Iterator[T]:
    """Resample frames to a constant rate by nearest neighbour in time, for any and uneven source frame rates.

    Tick 0 is at the time of the first frame. At every tick the frame nearest in time is returned, and of two equally
    near ones the earlier. So frames are dropped or repeated, and a video of that rate is returned unchanged. A frame
    that is not later than its predecessor is dropped. The last frame lasts as `last_frame_duration` returns.

    Args:
      timed: times in seconds, and frames.
      rate: ticks per second.
      first: number of the first tick to return.
      last_duration: called after the last frame: the duration in seconds that the file states for it, if any.

    Raises:
      VideoError: "damaged video" where a frame has no time stamp, or lasts longer than `MAX_GAP`; "absurd size" where
        the video is longer than `MAX_SECONDS`.
    """
    start = current = None
    last, tick = Fraction(0), Fraction(first, rate)
    gaps, frames = Fraction(0), 0  # sum of the intervals between the frames, without those over `MAX_GAP`
    for time, frame in timed:
        if time is None:
            raise VideoError("damaged video", "a frame has no time stamp")
        start = time if start is None else start
        now = time - start
        if frames and now <= last:
            continue
        if now > MAX_SECONDS:
            raise _length_error()
        if now - last > MAX_GAP and now > tick:
            raise _gap_error(start + last, time)
        while current is not None and tick <= (last + now) / 2:
            yield current
            tick += Fraction(1, rate)
        if frames and now - last <= MAX_GAP:
            gaps, frames = gaps + now - last, frames + 1
        current, last, frames = frame, now, max(frames, 1)
    end = last + last_frame_duration(gaps / (frames - 1) if frames > 1 else Fraction(1, rate), last_duration())
    while current is not None and tick < end:
        yield current
        tick += Fraction(1, rate)


def last_frame_duration(mean: Fraction, stated: Fraction | None) -> Fraction:
    """Duration of a video's last frame in seconds: the mean interval, or the stated duration where that is longer.

    Files often state a nominal duration for each frame, so a duration shorter than the mean is ignored. A last frame of
    more than a minute is shown for `MAX_GAP`.
    """
    return min(stated, Fraction(MAX_GAP)) if stated is not None and stated > mean * 3 / 2 else mean


def presentation_order(packets: Iterable[tuple[int, int | None]], max_jump: int | None) -> Iterator[tuple[Any, int]]:
    """Presentation times (PTS) of a file's frames in presentation order, from its packets in decoding order.

    Args:
      packets: PTS and DTS of each, in ticks of the stream's time base.
      max_jump: a jump forward by more ticks starts a new clock; None: no jump does.
    """
    clock: list[int] = []  # PTS since the last discontinuity
    before: int | None = None
    for pts, dts in packets:
        if dts is not None:
            if before is not None and (dts < before or (max_jump is not None and dts - before > max_jump)):
                yield from ((None, time) for time in sorted(clock))
                clock = []
            before = dts
        clock.append(pts)
    yield from ((None, time) for time in sorted(clock))
