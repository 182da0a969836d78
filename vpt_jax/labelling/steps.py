"""Labels of a plan's steps: computed step by step, stored in one file per step, and read back video by video."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.data.streams import batches
from vpt_jax.keys import seed_key
from vpt_jax.labelling import LabelError
from vpt_jax.labelling.model import label_spans
from vpt_jax.labelling.plan import Labels, Plan
from vpt_jax.system.atomic_files import atomic_write, read_arrays
from vpt_jax.system.workers import progress_bar
from vpt_jax.training.checkpoints import TrainedIDM


def label_steps(plan: Plan, folder: Path, config: ConfigDict, idm: TrainedIDM) -> None:
    """Computes the missing steps; the device runs a step while the previous one is written (async dispatch)."""
    folder.mkdir(exist_ok=True)
    first = next(step for step in range(plan.steps + 1) if step == plan.steps or _load(plan, folder, step) is None)
    if step_file(folder, first).exists():
        print(f"{step_file(folder, first)} is damaged: it and the labels after it are computed again", flush=True)
    done = sum(map(plan.count_kept, range(first)))
    mesh = parallel.make_mesh(devices=jax.local_devices())  # shards of a job run separate programs
    sharded, replicated = parallel.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    params, rng = jax.device_put((idm.params, jax.random.wrap_key_data(seed_key(config.seed))), replicated)
    label_fn = jax.jit(partial(label_spans, idm.module, idm.window, config.mode, config.choice, mirror=config.mirror))
    previous: tuple[int, Labels] | None = None
    total = sum(video.frames for video in plan.videos)
    with (
        progress_bar(total, desc="labelling", unit=" frames", initial=done) as bar,
        closing(batches(plan, range(plan.rows), first, plan.steps, config.workers or 1)) as batches_of_spans,
    ):
        for step, spans in enumerate(batches_of_spans, first):
            labels = label_fn(params, rng, jax.device_put(spans, sharded))
            if previous is not None:
                bar.update(_save(plan, folder, *previous))
            previous = step, labels
        if previous is not None:
            bar.update(_save(plan, folder, *previous))


def step_file(folder: Path, step: int) -> Path:
    """Path of a step's labels."""
    return folder / f"{step:08}.npz"


def _save(plan: Plan, folder: Path, step: int, labels: Labels) -> int:
    """Writes the labels to keep of a step, and returns their number."""
    kept = plan.select_kept(step, jax.device_get(labels))
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
