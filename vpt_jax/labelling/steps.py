"""The labels of a plan's steps: made step by step, each a file of its own, and read back video by video."""

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
    """Labels what is not labelled yet, step by step; the device works while the step before is written."""
    folder.mkdir(exist_ok=True)
    begin = next(step for step in range(plan.steps + 1) if step == plan.steps or _load(plan, folder, step) is None)
    if step_file(folder, begin).exists():
        print(f"{step_file(folder, begin)} is damaged: it and the labels after it are made anew", flush=True)
    done = sum(map(plan.count_kept, range(begin)))
    mesh = parallel.make_mesh(devices=jax.local_devices())  # parts of a job share no program
    by_rows, on_all = parallel.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    params, rng = jax.device_put((idm.params, jax.random.wrap_key_data(seed_key(config.seed))), on_all)
    run = jax.jit(partial(label_spans, idm.module, idm.window, config.mode, config.choice, mirror=config.mirror))
    before: tuple[int, Labels] | None = None
    total = sum(video.frames for video in plan.videos)
    with (
        progress_bar(total, desc="labelling", unit=" frames", initial=done) as bar,
        closing(batches(plan, range(plan.rows), begin, plan.steps, config.workers or 1)) as spans_of_steps,
    ):
        for step, spans in enumerate(spans_of_steps, begin):
            labels = run(params, rng, jax.device_put(spans, by_rows))
            if before is not None:
                bar.update(_save(plan, folder, *before))
            before = step, labels
        if before is not None:
            bar.update(_save(plan, folder, *before))


def step_file(folder: Path, step: int) -> Path:
    """The file of a step's labels."""
    return folder / f"{step:08}.npz"


def _save(plan: Plan, folder: Path, step: int, labels: Labels) -> int:
    """Writes the labels of a step that count, and returns how many."""
    kept = plan.keep(step, jax.device_get(labels))
    save_labels(step_file(folder, step), kept)
    return len(kept.buttons)


def _load(plan: Plan, folder: Path, step: int) -> Labels | None:
    """The labels of a step, or None if they are not there or damaged."""
    labels = try_labels(step_file(folder, step))
    return labels if labels is not None and len(labels.buttons) == plan.count_kept(step) else None


def read_steps(folder: Path, plan: Plan) -> Iterator[Labels]:
    """The labels of every step, up to the first one that is missing or damaged."""
    for step in range(plan.steps):
        if (labels := _load(plan, folder, step)) is None:
            return
        yield labels


def _load_whole(plan: Plan, folder: Path, step: int) -> Labels:
    labels = _load(plan, folder, step)
    if labels is None:
        raise LabelError(f"{step_file(folder, step)} is damaged: run the same command again, which makes it anew")
    return labels


def read_videos(plan: Plan, folder: Path, names: Sequence[str], kept: Mapping[str, Path]) -> Iterator[Labels]:
    """The labels of every video, in the order of `names`: from its file in `kept`, or from the steps of the plan."""
    planned = plan.by_video(_load_whole(plan, folder, step) for step in range(plan.steps))
    return (load_labels(kept[name]) if name in kept else next(planned) for name in names)


def save_labels(file: Path, labels: Labels) -> None:
    """Writes labels to a file that appears whole."""
    with atomic_write(file) as writing, writing.open("wb") as opened:
        np.savez(opened, **labels._asdict())


def load_labels(file: Path) -> Labels:
    """The labels of a file.

    Raises:
        LabelError: it is missing or damaged; it is then removed, so that they are made anew.
    """
    if (labels := try_labels(file)) is None:
        file.unlink(missing_ok=True)
        raise LabelError(f"{file} is damaged: run the same command again, which makes it anew")
    return labels


def try_labels(file: Path) -> Labels | None:
    """The labels of a file, or None if it is missing or damaged."""
    stored = read_arrays(file)
    if stored is None or stored.keys() != set(Labels._fields):
        return None
    labels = Labels(**stored)
    return labels if len({len(field) for field in labels}) == 1 else None
