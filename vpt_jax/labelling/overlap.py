"""Overlap of a labelling job's stages: threads read the inputs of coming steps, and one writes the labels of past ones.

Reading is mostly decoding of JPEGs, and writing mostly waiting for the device and the disk; both release Python's lock.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from vpt_jax.labelling.plan import Labels, Plan, Spans
from vpt_jax.system.cores import available_cores

AHEAD = 2  # steps that are read before they are needed, and steps that may wait to be written


@dataclass
class StageSeconds:
    """Seconds of the stages of labelling, which overlap: their sum exceeds the wall time.

    Attributes:
        wall: of all steps.
        reading: of all reader threads together.
        input_wait: in which the device had no input.
        device: in which the device computed.
        writing: of the writer thread, without waiting for the device.
        readers: number of reader threads.
        frames: labelled.
    """

    wall: float = 0.0
    reading: float = 0.0
    input_wait: float = 0.0
    device: float = 0.0
    writing: float = 0.0
    readers: int = 1
    frames: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds to a stage; any thread may call it."""
        with self._lock:
            setattr(self, stage, getattr(self, stage) + seconds)

    def shares(self) -> dict[str, float]:
        """Share of the wall time of each stage; that of reading is the mean of the threads."""
        wall = self.wall or 1.0
        shares = {"device": self.device, "reading": self.reading / self.readers, "waiting for input": self.input_wait}
        return {name: seconds / wall for name, seconds in (shares | {"writing": self.writing}).items()}

    def __str__(self) -> str:
        """One line of text: the speed, and the shares."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares().items())
        return f"{self.frames / (self.wall or 1.0):,.1f} frames/s; share of the time: {shares}"


def count_readers(workers: int) -> int:
    """Number of reader threads; `workers` 0: one per core, all of which a device of any speed can keep busy."""
    return workers or available_cores()


def read_spans(plan: Plan, first: int, stop: int, times: StageSeconds) -> Generator[Spans]:
    """Yields the inputs of steps `first` to `stop`, read by `times.readers` threads, `AHEAD` steps ahead.

    Threads share the rows of a step, so that memory does not grow with their number. Errors of `Plan.read` are raised
    at the step that they belong to.
    """
    pool = ThreadPoolExecutor(times.readers, "reader")
    steps: deque[list[Future[Spans]]] = deque()

    def read(step: int, row: int) -> Spans:
        start = time.monotonic()
        spans = plan.read(step, [row])
        times.add("reading", time.monotonic() - start)
        return spans

    try:
        for step in range(first, stop + AHEAD):
            if step < stop:
                steps.append([pool.submit(read, step, row) for row in range(plan.rows)])
            if step >= first + AHEAD:
                rows = [future.result() for future in steps.popleft()]
                yield Spans(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Writer:
    """Threads that wait for the labels of steps and write them, in their order, while the device computes the next.

    After an error, nothing more is written.
    """

    def __init__(self, save: Callable[[int, Labels], int], times: StageSeconds) -> None:
        self._save, self._times, self._failed = save, times, False
        self._device, self._disk = ThreadPoolExecutor(1, "device"), ThreadPoolExecutor(1, "writer")
        self._computing: deque[Future[float]] = deque(maxlen=1)  # the last step; its result is the time of its end
        self._writing: deque[Future[int]] = deque()
        self._ready_time = 0.0

    def put(self, step: int, labels: Any) -> int:
        """Hands over the labels of a step, on the device; waits while `AHEAD` steps have not been written.

        Returns:
            The number of frames written since the last call.

        Raises:
            Exception: of the computation or of writing an earlier step.
        """
        self._computing.append(self._device.submit(self._wait, labels, time.monotonic()))
        self._writing.append(self._disk.submit(self._write, step, labels, self._computing[0]))
        return self._collect(AHEAD)

    def finish(self) -> int:
        """Waits until all steps are written; returns as `put`."""
        return self._collect(0)

    def idle_seconds(self, since: float) -> float:
        """Seconds that the device has been idle, not counting those before a time of `time.monotonic`."""
        if self._computing and not self._computing[0].done():
            return 0.0
        return time.monotonic() - max(since, self._ready_time)

    def close(self) -> None:
        """Waits for the step that is being written, and drops the others."""
        self._failed = True
        for pool in (self._device, self._disk):
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, allowed: int) -> int:
        frames = 0
        while len(self._writing) > allowed:
            frames += self._writing.popleft().result()
        return frames

    def _wait(self, labels: Any, dispatched: float) -> float:
        jax.block_until_ready(labels)
        ready = time.monotonic()
        self._times.add("device", ready - max(dispatched, self._ready_time))
        self._ready_time = ready
        return ready

    def _write(self, step: int, labels: Any, computing: Future[float]) -> int:
        if self._failed:
            return 0
        try:
            computing.result()
            start = time.monotonic()
            frames = self._save(step, jax.device_get(labels))
            self._times.add("writing", time.monotonic() - start)
        except BaseException:
            self._failed = True
            raise
        return frames
