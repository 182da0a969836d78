"""The dataset on disk: a TFDS dataset in ArrayRecord files, and beside it an index of all actions.

    DIR/dataset_info.json, features.json                 any program reads it: tfds.builder_from_directory(DIR)
    DIR/vpt-train.array_record-00000-of-00003 ...        one record = one chunk of consecutive frames
    DIR/index/train/{names,lengths,buttons,camera,confidence,labels,chunk_frames}.npy
    DIR/report.json                                      what it was made of, and what was left out and why

Every frame of every episode is stored, with its raw action; the records of an episode lie one after another, in order.
Actions were recorded, or predicted by an inverse dynamics model: `labels` tells which, `confidence` how sure it was.
The index holds the actions once more, so that a stream plans what to read without touching a frame.
TFDS needs no TensorFlow for any of this.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float32, Int64, UInt8
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vpt_jax.data.errors import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.index_arrays import REMEDY, check_actions, map_arrays
from vpt_jax.data.metadata import SplitFiles, check_features, read_splits
from vpt_jax.data.shards import RecordSource, open_reader
from vpt_jax.system.atomic_files import publish
from vpt_jax.system.paths import local_path
from vpt_jax.system.workers import unique_name

NAME = "vpt"
VERSION = "2.0.0"  # of the layout; raise it when what is stored changes
FEATURES = tfds.features.FeaturesDict(
    {
        "frames": tfds.features.Scalar(np.object_),  # bytes: the frames' JPEGs back to back, see codecs.py
        "frame_ends": tfds.features.Tensor(shape=(None,), dtype=np.int32),  # where each JPEG ends in `frames`
        "buttons": tfds.features.Tensor(shape=(None, 20), dtype=np.uint8),
        "camera": tfds.features.Tensor(shape=(None, 2), dtype=np.float32),  # pitch, yaw in degrees per step
        "confidence": tfds.features.Tensor(shape=(None,), dtype=np.float32),  # probability of the label; 1 if recorded
        "labels": tfds.features.Text(),  # one of LABELS in index_arrays.py
        "episode": tfds.features.Text(),
        "chunk": tfds.features.Scalar(np.int32),  # position of this record in its episode
        "first_frame": tfds.features.Scalar(np.int32),  # position in the episode of the record's first frame
        "num_frames": tfds.features.Scalar(np.int32),  # of the whole episode
    }
)
SHARD_BYTES = 2**30  # large, since only so many shards are kept open (shards.py)
_SERIALIZER = ExampleSerializer(FEATURES.get_serialized_info())


@dataclass(frozen=True)
class EpisodeIndex:
    """The episodes of a split, in the order of their records, and the actions of all their frames end to end.

    `buttons` and `camera` are mapped from disk: open the index in each process that needs it, as sending it to
    another process would copy them.
    """

    names: tuple[str, ...]
    lengths: Int64[np.ndarray, " episodes"]  # frames
    buttons: UInt8[np.ndarray, "frames 20"]
    camera: Float32[np.ndarray, "frames 2"]  # degrees
    confidence: Float32[np.ndarray, " frames"]  # the probability of each label; 1 if recorded
    labels: str  # one of LABELS in index_arrays.py
    chunk_frames: int  # frames per record; an episode's last record may hold fewer

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
        """Position of each episode's first frame in its records: 0, but for a part of one (segments.py)."""
        return np.zeros_like(self.lengths)


def load_index(dataset_dir: Path, split: str) -> EpisodeIndex:
    """The index of a split.

    Raises:
        DatasetMissingError: there is no such split.
        DatasetDamagedError: an array is damaged, or holds what cannot be.
    """
    return _load_index(dataset_dir, split, checked=True)


def load_damaged_index(dataset_dir: Path, split: str) -> EpisodeIndex:
    """The same for who looks for damage: whether there is a credible action for every frame is not checked."""
    return _load_index(dataset_dir, split, checked=False)


def _load_index(dataset_dir: Path, split: str, checked: bool) -> EpisodeIndex:
    folder = _require_split(dataset_dir, split)
    if not (folder / "labels.npy").exists():
        raise DatasetMissingError(f"{dataset_dir} was made by an older version of this library: make it again")
    arrays = map_arrays(folder)
    if checked:
        check_actions(folder, arrays)
    return EpisodeIndex(
        names=tuple(arrays["names"].tolist()),
        lengths=np.array(arrays["lengths"]),
        buttons=arrays["buttons"],
        camera=arrays["camera"],
        confidence=arrays["confidence"],
        labels=str(arrays["labels"]),
        chunk_frames=int(arrays["chunk_frames"]),
    )


def open_records(dataset_dir: Path, split: str) -> RecordSource:
    """All records of a split as a random access source, for Grain or plain indexing: `source[i]["frames"]`.

    It pickles in a few kilobytes, and opens its files when first read from, in whichever process that is.

    Raises:
        DatasetMissingError: there is no such split.
        DatasetDamagedError: metadata, index and shards do not agree; `features.json` describes other features.
    """
    source, files = _open_records(dataset_dir, split)
    there = f"{dataset_dir}, split {split!r}: there are"
    index = load_damaged_index(dataset_dir, split)
    if len(source) != (expected := int((-(-index.lengths // index.chunk_frames)).sum())):
        raise DatasetDamagedError(f"{there} {len(source)} records, and the index speaks of {expected}. {REMEDY}")
    if (stored := sum(map(_size, source.shards))) != files.num_bytes:
        raise DatasetDamagedError(f"{there} {stored} bytes in shards, and {files.num_bytes} were written. {REMEDY}")
    return source


def open_damaged_records(dataset_dir: Path, split: str) -> RecordSource:
    """The same for who looks for damage: that index and shards agree is not checked."""
    return _open_records(dataset_dir, split)[0]


def _open_records(dataset_dir: Path, split: str) -> tuple[RecordSource, SplitFiles]:
    dataset_dir = _require_split(dataset_dir, split).parents[1]
    check_features(dataset_dir, FEATURES)
    splits = read_splits(dataset_dir, NAME, VERSION)
    if split not in splits:
        raise DatasetDamagedError(f"{dataset_dir / 'dataset_info.json'} knows no split {split!r}. {REMEDY}")
    lengths = splits[split].shard_lengths
    shards = [shard_path(dataset_dir, split, i, len(lengths)) for i in range(len(lengths))]
    return RecordSource(shards, lengths, FEATURES), splits[split]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        raise DatasetDamagedError(f"{file} is missing. {REMEDY}") from None


def check_dataset(dataset_dir: Path) -> None:
    """Checks that all splits can be read: metadata, index, and as many records as there should be in every shard.

    Raises:
        DatasetMissingError, DatasetDamagedError, OpenFilesError: of what is wrong.
    """
    folder = Path(dataset_dir) / "index"
    for split in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ["train"]:
        load_index(dataset_dir, split)
        open_records(dataset_dir, split).check_shards()


def check_place(index: EpisodeIndex, number: int, values: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a record is not the one that the index has at this number, but another episode's."""
    episode = int(np.searchsorted(index.first_record, number, side="right")) - 1
    chunk = number - int(index.first_record[episode])
    place = index.names[episode].encode(), chunk, chunk * index.chunk_frames, int(index.lengths[episode])
    there = tuple(values[name] for name in ("episode", "chunk", "first_frame", "num_frames"))
    if there != place:
        raise ValueError(
            f"it is chunk {there[1]} of episode {there[0]!r}, where the index has {place[1]} of {place[0]!r}"
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


def serialize_chunk(values: Mapping[str, Any]) -> bytes:
    """A record's bytes from one value per name of `FEATURES`; the same values always give the same bytes."""
    example = _SERIALIZER.get_tf_example(FEATURES.encode_example(dict(values)))
    return example.SerializeToString(deterministic=True)  # TFDS's own call orders the fields at random


def parse_chunk(record: bytes) -> dict[str, Any]:
    """What `serialize_chunk` was given."""
    return FEATURES.deserialize_example_np(record)


def write_records(path: Path, records: Iterable[bytes]) -> int:
    """Writes an ArrayRecord file, ready for random access, and returns how many records it holds."""
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")  # JPEGs do not get smaller
    count = 0
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    return count


def read_records(path: Path) -> Iterator[bytes]:
    """All records of an ArrayRecord file, in order. Raises `DatasetDamagedError` where one cannot be read."""
    reader = open_reader(path)
    for number in range(reader.num_records()):
        try:
            yield reader.read([number])[0]
        except (RuntimeError, IndexError) as error:
            raise DatasetDamagedError(f"{path}, record {number}: {error}") from error


def count_records(path: Path) -> int:
    """The number of records in an ArrayRecord file. Raises `DatasetDamagedError` if it is no such file."""
    return open_reader(path).num_records()


def read_episode(path: Path, frames: int, chunk_frames: int, name: str = "") -> Iterator[bytes]:
    """The records of a file that holds one episode, after `check_episode`."""
    check_episode(path, frames, chunk_frames, name)
    return read_records(path)


def check_episode(path: Path, frames: int, chunk_frames: int, name: str = "") -> None:
    """Raises `DatasetDamagedError` if a file does not hold the records of one episode of this name and length.

    Looks at the number of records and at the last one; ArrayRecord's checksums are looked at by whoever reads a record.
    """
    reader, expected = open_reader(path), -(-frames // chunk_frames)
    if (there := reader.num_records()) != expected:
        raise DatasetDamagedError(f"{path} holds {there} records, and {frames} frames have {expected}")
    last = RecordSource([path], [there], FEATURES)[there - 1]
    if len(last["frame_ends"]) != (left := frames - (expected - 1) * chunk_frames):
        raise DatasetDamagedError(f"{path}: the last record holds {len(last['frame_ends'])} frames, not {left}")
    if last["episode"].decode(errors="replace") != name:
        raise DatasetDamagedError(f"{path} holds episode {last['episode']!r}, not {name!r}")


def join_records(path: Path, sources: Sequence[Path], lengths: Mapping[str, int], chunk_frames: int) -> None:
    """Writes one ArrayRecord file, which appears whole, of the records of some episodes.

    Sources that are damaged, or do not hold their episode, are removed; then there is no such file.

    Args:
        path: of the joined file.
        sources: a file for each episode.
        lengths: frames of the episodes, by name, in the same order.
        chunk_frames: of a record.
    """
    damaged = []

    def records() -> Iterator[bytes]:
        for source, (name, frames) in zip(sources, lengths.items(), strict=True):
            try:
                yield from read_episode(source, frames, chunk_frames, name)
            except DatasetDamagedError:
                damaged.append(source)

    writing = unique_name(path)
    write_records(writing, records())
    for file in (writing, path, *damaged) if damaged else ():
        file.unlink(missing_ok=True)
    if not damaged:
        publish(writing, path)


def join_datasets(dataset_dir: Path, sources: Sequence[Path], split: str) -> None:
    """Makes one dataset of a split of several, which have labels of one kind; their shards are copied."""
    dataset_dir.mkdir()
    indexes = [load_index(source, split) for source in sources]
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
    write_metadata(dataset_dir, {split: [n for source in opened for n in source.lengths]})


def group_by_size(files: Sequence[Path], limit: int) -> Iterator[list[Path]]:
    """Consecutive files in groups of at most `limit` bytes, or of one file."""
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
    """Where TFDS looks for a shard."""
    return dataset_dir / f"{NAME}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"


def write_metadata(dataset_dir: Path, shard_lengths: Mapping[str, Sequence[int]]) -> None:
    """Makes the shards in `dataset_dir` a TFDS dataset; `shard_lengths` says how many records each holds, by split."""
    splits = [_split_info(dataset_dir, split, lengths) for split, lengths in shard_lengths.items()]
    tfds.folder_dataset.write_metadata(
        data_dir=dataset_dir,
        features=FEATURES,
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
    buttons: Iterable[UInt8[np.ndarray, "_n 20"]],
    camera: Iterable[Float32[np.ndarray, "_n 2"]],
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
    """Saves the parts end to end as one array, holding one of them in memory at a time."""
    parts = iter(parts)
    first = next(parts)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (rows, *first.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in chain([first], parts):
            file.write(part.tobytes())
