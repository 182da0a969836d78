"""Dataset format on disk: a TFDS dataset in ArrayRecord files, and an index of all actions as NumPy arrays.

    DIR/dataset_info.json, features.json                 readable with tfds.builder_from_directory(DIR)
    DIR/vpt-train.array_record-00000-of-00003 ...        one record = one chunk of consecutive frames
    DIR/index/train/{names,lengths,buttons,camera,confidence,labels,chunk_frames}.npy
    DIR/index/train/captions.parquet                     text of the frames, if there is any (captions.py)
    DIR/action_space.json                                keys and axes of the actions; absent: MineRL's
    DIR/report.json                                      sources of the dataset; skipped recordings with reasons

Every frame of every episode is stored with its raw action; the records of an episode are consecutive and in order.
Actions were recorded, or predicted by an inverse dynamics model: `labels` holds which, `confidence` the probability.
The index duplicates the actions, so that a stream plans its reads without decoding frames.
TFDS needs no TensorFlow for any of this.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32, Int64, UInt8
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.captions import read_captions, write_captions
from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.index_arrays import REMEDY, check_actions, memmap_arrays
from vpt_jax.data.metadata import SplitFiles, check_features, read_splits, read_version
from vpt_jax.data.shards import RecordSource, open_reader
from vpt_jax.system.atomic_files import publish, read_json
from vpt_jax.system.errors import UserError
from vpt_jax.system.mount_points import is_free
from vpt_jax.system.paths import local_path
from vpt_jax.system.resumable_folder import in_use_message
from vpt_jax.system.workers import temporary_path

NAME = "vpt"
VERSION = "2.1.0"  # of the layout; increase it when the stored content changes
_WITHOUT_SPACE = "2.0.0"  # the layout before action spaces were stored
SHARD_BYTES = 2**30  # large, because the number of open shards is limited (shards.py)
SPACE_FILE = "action_space.json"
_MAX_SPACE_BYTES = 2**20


@lru_cache(maxsize=16)
def features(space: ActionSpace = MINERL) -> tfds.features.FeaturesDict:
    """TFDS features of a record, of actions of this space; without axes there is no `camera`."""
    rows = tfds.features.Tensor
    camera = {"camera": rows(shape=(None, len(space.axes)), dtype=np.float32)} if space.axes else {}
    return tfds.features.FeaturesDict(
        {
            "frames": tfds.features.Scalar(np.object_),  # bytes: concatenated JPEGs of the frames, see codecs.py
            "frame_ends": rows(shape=(None,), dtype=np.int32),  # where each JPEG ends in `frames`
            "buttons": rows(shape=(None, len(space.keys)), dtype=np.uint8),
            **camera,  # movement per step, in the axes' units
            "confidence": rows(shape=(None,), dtype=np.float32),  # probability of the label; 1 if recorded
            "labels": tfds.features.Text(),  # one of LABELS in index_arrays.py
            "episode": tfds.features.Text(),
            "chunk": tfds.features.Scalar(np.int32),  # position of this record in its episode
            "first_frame": tfds.features.Scalar(np.int32),  # position in the episode of the record's first frame
            "num_frames": tfds.features.Scalar(np.int32),  # of the whole episode
        }
    )


@lru_cache(maxsize=16)
def _serializer(space: ActionSpace) -> ExampleSerializer:
    return ExampleSerializer(features(space).get_serialized_info())


def read_space(dataset_dir: Path) -> ActionSpace:
    """Action space of a dataset; MineRL's, if the dataset states none (those made before spaces were stored).

    Raises:
        DatasetDamagedError: its file is not an action space.
    """
    if not (file := dataset_dir / SPACE_FILE).exists():
        if read_version(dataset_dir) != _WITHOUT_SPACE:
            raise DatasetDamagedError(f"{file} is missing. {REMEDY}")
        return MINERL
    try:
        if not file.is_file() or file.stat().st_size > _MAX_SPACE_BYTES:
            raise ValueError(f"it is not a file of at most {_MAX_SPACE_BYTES:,} bytes")
        return ActionSpace.from_dict(json.loads(file.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise DatasetDamagedError(f"{file} is damaged: {error}. {REMEDY}") from error


def write_space(dataset_dir: Path, space: ActionSpace) -> None:
    """Writes the action space of a new dataset."""
    (dataset_dir / SPACE_FILE).write_text(json.dumps(space.to_dict(), indent=1) + "\n")


@dataclass(frozen=True)
class EpisodeIndex:
    """Index of a split: its episodes in record order, and the concatenated actions of all their frames.

    `buttons` and `camera` are memory-mapped: open the index in each process that needs it, since pickling it copies
    them.
    """

    names: tuple[str, ...]
    lengths: Int64[np.ndarray, " episodes"]  # frames
    buttons: UInt8[np.ndarray, "frames keys"]
    camera: Float32[np.ndarray, "frames axes"]  # movement per step, in the axes' units
    confidence: Float32[np.ndarray, " frames"]  # the probability of each label; 1 if recorded
    labels: str  # one of LABELS in index_arrays.py
    chunk_frames: int  # frames per record; an episode's last record may hold fewer
    space: ActionSpace = MINERL  # of the actions

    @cached_property
    def starts(self) -> Int64[np.ndarray, " episodes"]:
        """Row in `buttons` and `camera` of each episode's first frame."""
        return np.cumsum(self.lengths) - self.lengths

    def rows(self, episode: int) -> slice:
        """Rows in `buttons` and `camera` of an episode."""
        start = int(self.starts[episode])
        return slice(start, start + int(self.lengths[episode]))

    @cached_property
    def first_record(self) -> Int64[np.ndarray, " episodes"]:
        """Record number of each episode's first chunk."""
        records = -(-self.lengths // self.chunk_frames)
        return np.cumsum(records) - records

    @property
    def first_frame(self) -> Int64[np.ndarray, " episodes"]:
        """Position of each episode's first frame in its records: 0, except for segments of episodes (segments.py)."""
        return np.zeros_like(self.lengths)


def load_index(dataset_dir: Path, split: str) -> EpisodeIndex:
    """Loads and validates the index of a split.

    Raises:
        DatasetMissingError: there is no such split.
        DatasetDamagedError: an array is damaged, or holds impossible values.
    """
    return _load_index(dataset_dir, split, checked=True)


def load_index_unchecked(dataset_dir: Path, split: str) -> EpisodeIndex:
    """Loads an index for validation tools: skips the check that every frame has an action with plausible values."""
    return _load_index(dataset_dir, split, checked=False)


def _load_index(dataset_dir: Path, split: str, checked: bool) -> EpisodeIndex:
    folder = _require_split(dataset_dir, split)
    if not (folder / "labels.npy").exists():
        raise DatasetMissingError(f"{dataset_dir} was made by an older version of this library: prepare it again")
    space = read_space(folder.parents[1])
    arrays = memmap_arrays(folder, space)
    if checked:
        check_actions(folder, arrays, space)
    return EpisodeIndex(
        names=tuple(arrays["names"].tolist()),
        lengths=np.array(arrays["lengths"]),
        buttons=arrays["buttons"],
        camera=arrays["camera"],
        confidence=arrays["confidence"],
        labels=str(arrays["labels"]),
        chunk_frames=int(arrays["chunk_frames"]),
        space=space,
    )


def open_records(dataset_dir: Path, split: str) -> RecordSource:
    """Opens the records of a split as a random access source, for Grain or plain indexing: `source[i]["frames"]`.

    It pickles to a few kilobytes, and opens its files at the first read, in whichever process reads.

    Raises:
        DatasetMissingError: there is no such split.
        DatasetDamagedError: metadata, index and shards are inconsistent; `features.json` describes other features.
    """
    source, files = _open_records(dataset_dir, split)
    prefix = f"{dataset_dir}, split {split!r}: there are"
    index = load_index_unchecked(dataset_dir, split)
    if len(source) != (expected := int((-(-index.lengths // index.chunk_frames)).sum())):
        raise DatasetDamagedError(f"{prefix} {len(source)} records, and the index expects {expected}. {REMEDY}")
    if (stored := sum(map(_file_size, source.shards))) != files.num_bytes:
        raise DatasetDamagedError(f"{prefix} {stored} bytes in shards, and {files.num_bytes} were written. {REMEDY}")
    return source


def open_records_unchecked(dataset_dir: Path, split: str) -> RecordSource:
    """Opens records for validation tools: skips the check that index and shards are consistent."""
    return _open_records(dataset_dir, split)[0]


def _open_records(dataset_dir: Path, split: str) -> tuple[RecordSource, SplitFiles]:
    dataset_dir = _require_split(dataset_dir, split).parents[1]
    record_features = features(read_space(dataset_dir))
    check_features(dataset_dir, record_features)
    splits = read_splits(dataset_dir, NAME, (VERSION, _WITHOUT_SPACE))
    if split not in splits:
        raise DatasetDamagedError(f"{dataset_dir / 'dataset_info.json'} lists no split {split!r}. {REMEDY}")
    lengths = splits[split].shard_lengths
    shards = [shard_path(dataset_dir, split, i, len(lengths)) for i in range(len(lengths))]
    return RecordSource(shards, lengths, record_features), splits[split]


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        raise DatasetDamagedError(f"{file} is missing. {REMEDY}") from None


def check_dataset(dataset_dir: Path) -> None:
    """Validates all splits: metadata, index, and the number of records in every shard.

    Raises:
        DatasetMissingError, DatasetDamagedError, OpenFilesError: what is wrong, and the remedy.
    """
    folder = Path(dataset_dir) / "index"
    for split in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ["train"]:
        read_captions(folder / split, load_index(dataset_dir, split).lengths)
        open_records(dataset_dir, split).check_shards()


def finished_report(out: Path, field: str, error_class: type[UserError]) -> dict[str, Any] | None:
    """Reads the report of the finished dataset in an output folder, which `require_undamaged` checks.

    Args:
        out: the output folder.
        field: of the report, which holds the dataset's settings.
        error_class: of the errors.

    Returns:
        The report; None if the folder is missing or empty.

    Raises:
        UserError: of `error_class`: the folder holds anything else, or the report is damaged.
    """
    if out.is_file():
        raise error_class(f"{out} is a file, and config.out must be a folder: choose another --config.out")
    if is_free(out):
        return None
    if not (file := out / "report.json").is_file():
        raise error_class(in_use_message(out))
    if not (isinstance(report := read_json(file), dict) and isinstance(report.get(field), dict)):
        raise error_class(f"{file} is damaged: remove {out}, or choose another --config.out")
    return report


def require_undamaged(out: Path, error_class: type[UserError]) -> None:
    """Raises an error of `error_class`, with the remedy, if `check_dataset` finds the dataset damaged."""
    try:
        check_dataset(out)
    except (DatasetDamagedError, DatasetMissingError) as error:
        raise error_class(f"{out} is damaged: remove it, or choose another --config.out. {error}") from error


def check_record_position(index: EpisodeIndex, number: int, values: Mapping[str, Any]) -> None:
    """Raises `ValueError` if record `number` is not the chunk of the episode that the index lists at this number."""
    episode = int(np.searchsorted(index.first_record, number, side="right")) - 1
    chunk = number - int(index.first_record[episode])
    expected = index.names[episode].encode(), chunk, chunk * index.chunk_frames, int(index.lengths[episode])
    found = tuple(values[name] for name in ("episode", "chunk", "first_frame", "num_frames"))
    if found != expected:
        raise ValueError(
            f"it is chunk {found[1]} of episode {found[0]!r}, where the index has {expected[1]} of {expected[0]!r}"
        )


def _require_split(dataset_dir: Path, split: str) -> Path:
    index = local_path(dataset_dir, "the dataset") / "index"
    if not (index.parent / "dataset_info.json").is_file():
        raise DatasetMissingError(
            f"there is no dataset at {dataset_dir}. Make it from a folder of recordings (NAME.mp4 + NAME.jsonl):\n"
            f"  python launch/prepare.py --config.recordings=RECORDINGS --config.out={dataset_dir}"
        )
    if not (index / split).is_dir():
        splits = ", ".join(sorted(folder.name for folder in index.iterdir()))
        raise DatasetMissingError(
            f"the dataset at {dataset_dir} has no split {split!r}, only: {splits}. A split is a folder of recordings, "
            f"RECORDINGS/{split}, of which at least one is intact (see {index.parent / 'report.json'}), or is held "
            "out of contractors' recordings by --config.valid.fraction:\n"
            f"  python launch/prepare.py --config.recordings=RECORDINGS --config.out=ANOTHER_DIR"
        )
    return index / split


def serialize_chunk(values: Mapping[str, Any], space: ActionSpace = MINERL) -> bytes:
    """Serializes a record from one value per name of `features`; deterministic: equal values give equal bytes."""
    stored = {name: value for name, value in values.items() if name in features(space)}
    example = _serializer(space).get_tf_example(features(space).encode_example(stored))
    return example.SerializeToString(deterministic=True)  # TFDS's own call does not fix the order of the fields


def parse_chunk(record: bytes, space: ActionSpace = MINERL) -> dict[str, Any]:
    """Deserializes a record; the inverse of `serialize_chunk`."""
    values = features(space).deserialize_example_np(record)
    return values if space.axes else values | {"camera": np.zeros((len(values["buttons"]), 0), np.float32)}


def write_records(path: Path, records: Iterable[bytes]) -> int:
    """Writes an ArrayRecord file for random access, and returns its number of records."""
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")  # JPEGs do not compress further
    count = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    return count


def read_records(path: Path) -> Iterator[bytes]:
    """Iterates over the records of an ArrayRecord file. Raises `DatasetDamagedError` where one cannot be read."""
    reader = open_reader(path)
    for number in range(reader.num_records()):
        try:
            yield reader.read([number])[0]
        except (RuntimeError, IndexError) as error:
            raise DatasetDamagedError(f"{path}, record {number}: {error}") from error


def count_records(path: Path) -> int:
    """Number of records in an ArrayRecord file. Raises `DatasetDamagedError` if it is not one."""
    return open_reader(path).num_records()


def read_episode(
    path: Path, frames: int, chunk_frames: int, name: str = "", space: ActionSpace = MINERL
) -> Iterator[bytes]:
    """Iterates over the records of a file that holds one episode, after `check_episode`."""
    check_episode(path, frames, chunk_frames, name, space)
    return read_records(path)


def check_episode(path: Path, frames: int, chunk_frames: int, name: str = "", space: ActionSpace = MINERL) -> None:
    """Raises `DatasetDamagedError` if a file does not hold the records of one episode of this name and length.

    Checks the number of records and the last one; ArrayRecord verifies checksums whenever a record is read.
    """
    reader, expected = open_reader(path), -(-frames // chunk_frames)
    if (found := reader.num_records()) != expected:
        raise DatasetDamagedError(f"{path} holds {found} records, and {frames} frames have {expected}")
    last = RecordSource([path], [found], features(space))[found - 1]
    if len(last["frame_ends"]) != (remainder := frames - (expected - 1) * chunk_frames):
        raise DatasetDamagedError(f"{path}: the last record holds {len(last['frame_ends'])} frames, not {remainder}")
    if last["episode"].decode(errors="replace") != name:
        raise DatasetDamagedError(f"{path} holds episode {last['episode']!r}, not {name!r}")


def join_records(
    path: Path, sources: Sequence[Path], lengths: Mapping[str, int], chunk_frames: int, space: ActionSpace = MINERL
) -> None:
    """Concatenates the records of some episodes into one ArrayRecord file, renamed into place atomically.

    Sources that are damaged, or do not hold their episode, are removed; then no joined file is written.

    Args:
        path: the joined file.
        sources: one file per episode.
        lengths: frames of the episodes, by name, in the same order.
        chunk_frames: frames of a record.
        space: of the actions.
    """
    damaged = []

    def records() -> Iterator[bytes]:
        for source, (name, frames) in zip(sources, lengths.items(), strict=True):
            try:
                yield from read_episode(source, frames, chunk_frames, name, space)
            except DatasetDamagedError:
                damaged.append(source)

    writing = temporary_path(path)
    write_records(writing, records())
    for file in (writing, path, *damaged) if damaged else ():
        file.unlink(missing_ok=True)
    if not damaged:
        publish(writing, path)


def join_datasets(dataset_dir: Path, sources: Sequence[Path], split: str) -> None:
    """Concatenates a split of several datasets into a new dataset; their shards are copied.

    `labels` and the action space must be equal in all.
    """
    dataset_dir.mkdir()
    indexes = [load_index(source, split) for source in sources]
    for source, index in zip(sources, indexes, strict=True):
        indexes[0].space.require_equal(index.space, str(sources[0]), str(source))
    opened = [open_records(source, split) for source in sources]
    shards = [shard for source in opened for shard in source.shards]
    for i, shard in enumerate(shards):
        shutil.copy2(shard, shard_path(dataset_dir, split, i, len(shards)))
    write_index(
        dataset_dir / "index" / split,
        {name: int(n) for index in indexes for name, n in zip(index.names, index.lengths, strict=True)},
        (index.buttons for index in indexes),
        (index.camera for index in indexes),
        (index.confidence for index in indexes),
        indexes[0].labels,
        indexes[0].chunk_frames,
    )
    captions = [
        read_captions(source / "index" / split, index.lengths) for source, index in zip(sources, indexes, strict=True)
    ]
    write_captions(dataset_dir / "index" / split, list(chain.from_iterable(captions)))
    write_metadata(dataset_dir, {split: [n for source in opened for n in source.lengths]}, indexes[0].space)


def group_by_size(files: Sequence[Path], limit: int) -> Iterator[list[Path]]:
    """Groups consecutive files so that each group has at most `limit` bytes, or a single file."""
    group: list[Path] = []
    size = 0
    for file in files:
        size += file.stat().st_size
        if group and size > limit:
            yield group
            group, size = [], file.stat().st_size
        group.append(file)
    yield group


def shard_path(dataset_dir: Path, split: str, shard: int, num_shards: int) -> Path:
    """Path of a shard, as TFDS expects it."""
    return dataset_dir / f"{NAME}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def write_metadata(dataset_dir: Path, shard_lengths: Mapping[str, Sequence[int]], space: ActionSpace = MINERL) -> None:
    """Writes TFDS metadata for the shards in `dataset_dir`, and the action space.

    Args:
        dataset_dir: the dataset.
        shard_lengths: number of records of each shard, by split.
        space: of the actions.
    """
    write_space(dataset_dir, space)
    splits = [_split_info(dataset_dir, split, lengths) for split, lengths in shard_lengths.items()]
    tfds.folder_dataset.write_metadata(
        data_dir=dataset_dir,
        features=features(space),
        split_infos=splits,
        version=VERSION,
        check_data=False,  # would read the first record through TensorFlow
        disable_shuffling=True,
        description="Recorded play: chunks of consecutive frames with the keys and mouse movement of every frame.",
    )


def _split_info(dataset_dir: Path, split: str, lengths: Sequence[int]) -> tfds.core.SplitInfo:
    template = tfds.core.ShardedFileTemplate(
        data_dir=dataset_dir, dataset_name=NAME, split=split, filetype_suffix="array_record"
    )
    shards = [shard_path(dataset_dir, split, i, len(lengths)) for i in range(len(lengths))]
    size = sum(shard.stat().st_size for shard in shards)
    return tfds.core.SplitInfo(name=split, shard_lengths=list(lengths), num_bytes=size, filename_template=template)


def write_index(
    folder: Path,
    lengths: Mapping[str, int],
    buttons: Iterable[UInt8[np.ndarray, "_n keys"]],
    camera: Iterable[Float32[np.ndarray, "_n axes"]],
    confidence: Iterable[Float32[np.ndarray, " _n"]],
    labels: str,
    chunk_frames: int,
) -> None:
    """Writes the index of one split to `folder`: each episode's name and length and, in that order, its actions."""
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.array(labels))
    np.save(folder / "names.npy", np.array(list(lengths), np.str_))
    np.save(folder / "lengths.npy", np.array(list(lengths.values()), np.int64))
    np.save(folder / "chunk_frames.npy", np.int64(chunk_frames))
    _save_rows(folder / "buttons.npy", buttons, sum(lengths.values()))
    _save_rows(folder / "camera.npy", camera, sum(lengths.values()))
    _save_rows(folder / "confidence.npy", confidence, sum(lengths.values()))


def _save_rows(path: Path, parts: Iterable[np.ndarray], rows: int) -> None:
    """Saves the concatenated parts as one array, holding one part in memory at a time."""
    parts = iter(parts)
    first = next(parts)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (rows, *first.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in chain([first], parts):
            file.write(part.tobytes())
