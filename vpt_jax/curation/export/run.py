"""Export of a dataset as OWAMcap or LeRobot v3: `launch/data.py export`, in parallel, and resumable.

Each episode (OWAMcap) or pair of shared files (LeRobot) is written atomically by one task; those that exist are
skipped, so that a run after an interruption continues, and a run after the end takes seconds.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.episodes import Episode, find_episodes, read_frames, read_records
from vpt_jax.data.bridges import export_lerobot, export_owamcap
from vpt_jax.data.bridges.bindings import Bindings, make_bindings, parse_bindings
from vpt_jax.data.bridges.export_lerobot_meta import Contents, write_metadata
from vpt_jax.data.bridges.exported import ExportedEpisode, ExportError, file_stem
from vpt_jax.data.bridges.lerobot_layout import INFO
from vpt_jax.data.bridges.mcap_file import require_mcap
from vpt_jax.data.dataset import read_space
from vpt_jax.data.episode_facts import read_episode_facts
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.system.atomic_files import write_text
from vpt_jax.system.resumable_folder import resumable_folder
from vpt_jax.system.workers import process_runner, progress_bar
from vpt_jax.video import FRAME_RATE, Frame

FORMATS = ("owamcap", "lerobot")
_READ = 64  # frames at a time
_Facts = Mapping[str, Mapping[str, Any]]  # by "SPLIT/NAME"


def export(config: ConfigDict) -> Path:
    """Exports the dataset `config.data` to the folder `config.out`, which it returns.

    Raises `ExportError`, `DatasetMissingError`, `DatasetDamagedError` and `FolderInUseError`.
    """
    _check(config)
    data, out = Path(config.data).resolve(), Path(config.out)
    episodes = find_episodes(data)
    facts = read_episode_facts(data, list(map(str, episodes)))
    settings = {"format": config.format, "crf": config.crf, "dataset": _digest(episodes, facts)}
    settings |= {"task": config.task} if config.format == "lerobot" else {}
    if config.format == "owamcap":
        require_mcap()
        bindings = make_bindings(read_space(data), parse_bindings(config.bindings), config.degrees_per_count)
        settings |= {"bindings": config.bindings, "degrees_per_count": config.degrees_per_count}
    with resumable_folder(out, settings, ExportError):
        if config.format == "owamcap":
            _export_owamcap(episodes, facts, out, bindings, config)
        else:
            _export_lerobot(episodes, facts, out, read_space(data), config)
    seconds = sum(episode.frames for episode in episodes) / FRAME_RATE
    print(f"{out}: {len(episodes):,} episodes, {seconds / 3600:.2f} hours, as {config.format}")
    return out


def _check(config: ConfigDict) -> None:
    if config.format not in FORMATS:
        raise ExportError(f"config.format is {config.format!r}; one of {', '.join(FORMATS)} is possible")
    if not config.out:
        raise ExportError("config.out is empty; give the folder of the exported dataset: --config.out=FOLDER")
    if not 0 <= config.crf <= 51:
        raise ExportError(f"config.crf is {config.crf}; 0 (without loss) to 51 are possible")
    if config.degrees_per_count < 0:
        raise ExportError("config.degrees_per_count must not be negative")
    if not config.task:
        raise ExportError("config.task is empty, and LeRobot needs a text for each episode")


def _digest(episodes: Sequence[Episode], facts: _Facts) -> str:
    """Digest of names, facts, actions and first frames, by which a later run knows that it exports the same dataset."""
    digest = hashlib.sha256()
    for episode in episodes:
        index, rows = episode.index, episode.rows
        digest.update(f"{episode}\0{episode.frames}\0".encode())
        digest.update(json.dumps(facts.get(str(episode), {}), sort_keys=True).encode())
        for values in (index.buttons, index.camera, index.confidence):
            digest.update(np.ascontiguousarray(values[rows]).tobytes())
        first = next(read_records(episode))
        if isinstance(first, DatasetDamagedError):
            raise first
        digest.update(first["frames"])
    return digest.hexdigest()[:32]


def _export_owamcap(
    episodes: Sequence[Episode], facts: _Facts, out: Path, bindings: Bindings, config: ConfigDict
) -> None:
    """A folder for each split, as `prepare` reads it, with NAME.json beside episodes that have facts."""
    for split in {episode.split for episode in episodes}:
        (out / split).mkdir(exist_ok=True)
    for episode in episodes:
        if given := facts.get(str(episode)):
            write_text(out / episode.split / f"{file_stem(episode.name)}.json", json.dumps(given, indent=1) + "\n")
    left = [e for e in episodes if not export_owamcap.is_written(out / e.split, e.name)]
    _run(_write_owamcap, [(episode, out, bindings, config.crf) for episode in left], config.workers)


def _write_owamcap(episode: Episode, out: Path, bindings: Bindings, crf: int) -> None:
    export_owamcap.write_owamcap(exported(episode), out / episode.split, bindings, crf)


def _export_lerobot(
    episodes: Sequence[Episode], facts: _Facts, out: Path, space: ActionSpace, config: ConfigDict
) -> None:
    units = export_lerobot.plan_units([episode.frames for episode in episodes])
    left = [unit for unit in units if not export_lerobot.is_written(out, unit)]
    _run(_write_unit, [(unit, out, episodes[unit.first : unit.stop], config.crf) for unit in left], config.workers)
    if not left and (out / INFO).is_file():
        return
    splits: dict[str, tuple[int, int]] = {}
    for number, episode in enumerate(episodes):
        splits[episode.split] = splits.get(episode.split, (number, 0))[0], number + 1
    names = [str(episode) if len(splits) > 1 else episode.name for episode in episodes]
    contents = Contents(
        space=space,
        labels=episodes[0].index.labels,
        names=names,
        lengths=[episode.frames for episode in episodes],
        splits=splits,
        column=_columns(episodes, space),
        task=config.task,
        crf=config.crf,
        facts={name: facts[str(one)] for name, one in zip(names, episodes, strict=True) if str(one) in facts},
    )
    write_metadata(out, contents, units)


def _write_unit(unit: export_lerobot.Unit, out: Path, episodes: Sequence[Episode], crf: int) -> None:
    export_lerobot.write_unit(out, unit, [exported(episode) for episode in episodes], crf)


def _columns(episodes: Sequence[Episode], space: ActionSpace) -> Callable[[int | str], Any]:
    """Values of an element of the action, or of the confidence, in all frames."""
    indices = [next(group).index for _, group in groupby(episodes, lambda episode: episode.split)]

    def column(element: int | str) -> np.ndarray:
        if isinstance(element, str):
            parts = [getattr(index, element) for index in indices]
        elif element < len(space.keys):
            parts = [index.buttons[:, element] for index in indices]
        else:
            parts = [index.camera[:, element - len(space.keys)] for index in indices]
        return np.concatenate(parts)

    return column


def exported(episode: Episode) -> ExportedEpisode:
    """An episode of a dataset as exports get it."""
    index, rows = episode.index, episode.rows
    return ExportedEpisode(
        name=episode.name,
        space=index.space,
        buttons=np.array(index.buttons[rows]),
        camera=np.array(index.camera[rows]),
        confidence=np.array(index.confidence[rows]),
        labels=index.labels,
        frames=lambda: _frames(episode),
    )


def _frames(episode: Episode) -> Iterator[Frame]:
    for start in range(0, episode.frames, _READ):
        yield from read_frames(episode, start, min(start + _READ, episode.frames))


def _run(function: Callable[..., None], tasks: Sequence[tuple], workers: int) -> None:
    """Runs tasks in worker processes; one task, or one worker, in this process."""
    if len(tasks) <= 1 or workers == 1:
        for task in _with_progress(tasks):
            function(*task)
        return
    with process_runner(min(workers, len(tasks)), ExportError) as run, progress_bar(len(tasks)) as bar:
        for _ in run(function, tasks):
            bar.update()


def _with_progress(tasks: Sequence[tuple]) -> Iterator[tuple]:
    """The tasks, with a progress bar."""
    with progress_bar(len(tasks)) as bar:
        for task in tasks:
            yield task
            bar.update()
