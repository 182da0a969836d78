"""Waves of a labelling job: which videos are labelled while later ones are still being decoded.

A plan orders videos by number, so its full steps depend on the first videos alone: those before the first that is not
decoded. A wave labels their full steps; the plan of all videos has the same steps and continues after them.
"""

from collections.abc import Callable, Mapping

from vpt_jax.labelling.shards import JobShard

MIN_STEPS = 64  # of a wave, unless that is less than the following share of the steps before: a wave costs a second
GROWTH = 0.25


class Waves:
    """Decides when the videos that are decoded are worth a wave."""

    def __init__(self, shard: JobShard, rows: int, count_spans: Callable[[int], int]) -> None:
        """Starts before the first video.

        Args:
            shard: of the job.
            rows: spans of a step.
            count_spans: number of spans of a video, from that of its frames.
        """
        self._shard, self._rows, self._count_spans = shard, rows, count_spans
        self._order = sorted(shard.videos, key=shard.numbers.__getitem__)
        self._position = self._spans = self._labelled = 0
        self._frames: dict[str, int] = {}

    def next_wave(self) -> Mapping[str, int] | None:
        """Number of frames of the first decoded videos, by name, if labelling them is due; None: it is not.

        It is asked after every video, so it reads the result of each video only once.
        """
        while self._position < len(self._order) and self._take(self._order[self._position]):
            self._position += 1
        steps = self._spans // self._rows
        if steps - self._labelled < max(MIN_STEPS, GROWTH * self._labelled):
            return None
        self._labelled = steps
        return self._frames

    def _take(self, name: str) -> bool:
        """Adds a video; returns False if it is not decoded yet."""
        if (file := self._shard.result(name, "frames")).exists():
            self._frames[name] = int(file.read_text())
            self._spans += self._count_spans(self._frames[name])
            return True
        return self._shard.result(name, "broken").exists()
