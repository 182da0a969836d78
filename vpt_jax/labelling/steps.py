"""Labels of a plan's steps: computed step by step, stored in one file per step, and read back video by video."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.keys import seed_key
from vpt_jax.labelling import LabelError
from vpt_jax.labelling.model import label_spans
from vpt_jax.labelling.overlap import StageSeconds, Writer, count_readers, read_spans
from vpt_jax.labelling.plan import Labels, Plan
from vpt_jax.system.atomic_files import atomic_write, read_arrays
from vpt_jax.system.workers import progress_bar
from vpt_jax.training.checkpoints import TrainedIDM


class Labeller:
    """Computes the labels of plans with one compiled program, and measures the stages.

    Plans must have equal numbers of rows, as those of one job do.
    """

    def __init__(self, config: ConfigDict, idm: TrainedIDM):
        mesh = parallel.make_mesh(devices=jax.local_devices())  # shards of a job run separate programs
        self._sharded, replicated = parallel.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
        self._arguments = jax.device_put((idm.params, jax.random.wrap_key_data(seed_key(config.seed))), replicated)
        self._label = jax.jit(
            partial(label_spans, idm.module, idm.window, config.mode, config.choice, mirror=config.mirror)
        )
        self._written: tuple[Plan | None, int] = None, 0  # the last plan, and its number of labelled steps
        self.times = StageSeconds(readers=count_readers(config.workers))

    def label_steps(self, plan: Plan, folder: Path, stop: int) -> None:
        """Computes the missing steps of a plan before step `stop`; reading, the device and writing overlap.

        Steps that this object has written are not read again if the plan continues the one before.
        """
        folder.mkdir(exist_ok=True)
        times, (before, written) = self.times, self._written
        known = written if before and replace(plan, videos=plan.videos[: len(before.videos)]) == before else 0
        first = next((step for step in range(known, stop) if _load(plan, folder, step) is None), stop)
        if first < stop and step_file(folder, first).exists():
            print(f"{step_file(folder, first)} is damaged: it and the labels after it are computed again", flush=True)
        done = sum(map(plan.count_kept, range(first)))
        total = sum(video.frames for video in plan.videos)
        begun = time.monotonic()
        with (
            progress_bar(total, desc="labelling", unit=" frames", initial=done) as bar,
            closing(Writer(lambda step, labels: _save(plan, folder, step, labels), times)) as writing,
            closing(read_spans(plan, first, stop, times)) as inputs,
        ):
            for step in range(first, stop):
                asked = time.monotonic()
                spans = next(inputs)
                times.add("input_wait", writing.idle_seconds(asked))
                bar.update(writing.put(step, self._label(*self._arguments, jax.device_put(spans, self._sharded))))
            bar.update(writing.finish())
        self._written = plan, stop
        times.add("wall", time.monotonic() - begun)
        times.frames += sum(map(plan.count_kept, range(first, stop)))


def step_file(folder: Path, step: int) -> Path:
    """Path of a step's labels."""
    return folder / f"{step:08}.npz"


def _save(plan: Plan, folder: Path, step: int, labels: Labels) -> int:
    """Writes the labels to keep of a step, and returns their number."""
    kept = plan.select_kept(step, labels)
    save_labels(step_file(folder, step), kept)
    return len(kept.buttons)


def _load(plan: Plan, folder: Path, step: int) -> Labels | None:
    """Loads the labels of a step; None if they are missing or damaged."""
    labels = try_load_labels(step_file(folder, step))
    return labels if labels is not None and len(labels.buttons) == plan.count_kept(step) else None


def read_steps(folder: Path, plan: Plan) -> Iterator[Labels]:
    """Yields the labels of every step, up to the first one that is missing or damaged."""
    for step in range(plan.steps):
        if (labels := _load(plan, folder, step)) is None:
            return
        yield labels


def _load_required(plan: Plan, folder: Path, step: int) -> Labels:
    labels = _load(plan, folder, step)
    if labels is None:
        raise LabelError(f"{step_file(folder, step)} is damaged: run the same command again, which computes it again")
    return labels


def read_videos(plan: Plan, folder: Path, names: Sequence[str], kept: Mapping[str, Path]) -> Iterator[Labels]:
    """Yields the labels of every video, in the order of `names`: from its file in `kept`, or from the plan's steps."""
    planned = plan.split_by_video(_load_required(plan, folder, step) for step in range(plan.steps))
    return (load_labels(kept[name]) if name in kept else next(planned) for name in names)


def save_labels(file: Path, labels: Labels) -> None:
    """Writes labels to a file atomically."""
    with atomic_write(file) as writing, writing.open("wb") as opened:
        np.savez(opened, **labels._asdict())


def load_labels(file: Path) -> Labels:
    """Loads the labels of a file.

    Raises:
        LabelError: the file is missing or damaged; it is then removed, so that the next run computes it again.
    """
    if (labels := try_load_labels(file)) is None:
        file.unlink(missing_ok=True)
        raise LabelError(f"{file} is damaged: run the same command again, which computes it again")
    return labels


def try_load_labels(file: Path) -> Labels | None:
    """Loads the labels of a file; None if it is missing or damaged."""
    stored = read_arrays(file)
    if stored is None or stored.keys() != set(Labels._fields):
        return None
    labels = Labels(**stored)
    return labels if len({len(field) for field in labels}) == 1 else None
