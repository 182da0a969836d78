"""OpenAI's files: `.model`, a pickle of settings, and `.weights`, PyTorch's zip of tensors. Nothing in them is run.

A pickle is a program: it may name any function of any package and call it. The reader here knows plain containers,
numbers and text, which need no name; of names it knows `OrderedDict` and, for weights, PyTorch's storages and the
function that makes a tensor of one, in whose place it puts its own. All others are refused before anything is called.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

_LARGEST_PICKLE = 1 << 24  # bytes; OpenAI's have a hundredth of it
_DTYPES = {  # PyTorch's storages; kept as names, for nothing can be done to a text
    "torch.FloatStorage": "float32", "torch.DoubleStorage": "float64", "torch.HalfStorage": "float16",
    "torch.LongStorage": "int64", "torch.IntStorage": "int32", "torch.BoolStorage": "bool",
}  # fmt: skip
_STORAGES = {dtype: storage.removeprefix("torch.") for storage, dtype in _DTYPES.items()}
_OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files begin that are no zip


class WeightsFileError(ValueError):
    """A file that is not what it should be, or asks for more than data; the message names both."""


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Loads data and nothing else. The one written in Python: the other can be made to fill the memory."""

    def __init__(self, data: bytes, path: Path, known: Mapping[str, Any], load_storage: Callable[[Any], Any]):
        super().__init__(io.BytesIO(data))
        self._path, self._known, self._load_storage = path, known, load_storage

    def persistent_load(self, pid: Any) -> Any:
        """What stands for a tensor's numbers, which are not in the pickle."""
        return self._load_storage(pid)

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file."""
        if (whole := f"{module}.{name}") not in self._known:
            raise WeightsFileError(
                f"{self._path} asks for {whole}, which is neither a container nor a tensor: nothing was loaded. Is the "
                "file from OpenAI?"
            )
        return self._known[whole]


def _unpickle(data: bytes, path: Path, known: Mapping[str, Any], load_storage: Callable[[Any], Any]) -> Any:
    try:
        return _Unpickler(data, path, {"collections.OrderedDict": OrderedDict, **known}, load_storage).load()
    except WeightsFileError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise WeightsFileError(f"{path} is damaged, or not what its name says: {error!r:.200}") from error


class ModelSettings(NamedTuple):
    """What a `.model` file says of a network."""

    net: dict[str, Any]  # size and form, such as `hidsize`
    head: dict[str, Any]  # of the action head, such as `temperature`


def read_model(path: str | Path) -> ModelSettings:
    """The settings in a `.model` file.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: it is damaged, names anything but plain containers, or holds something else.
    """
    path = Path(path)
    if path.stat().st_size > _LARGEST_PICKLE:
        raise WeightsFileError(f"{path} has {path.stat().st_size:,} bytes, too many for settings: is it the .weights?")

    def refuse(_: Any) -> Any:
        raise WeightsFileError(f"{path} holds tensors: is it the .weights?")

    whole = _unpickle(path.read_bytes(), path, {}, refuse)
    try:
        arguments = whole["model"]["args"]
        settings = ModelSettings(dict(arguments["net"]["args"]), dict(arguments["pi_head_opts"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsFileError(f"{path} has no model.args.net.args and pi_head_opts, as OpenAI's have") from error
    return settings


def write_model(path: str | Path, settings: ModelSettings) -> None:
    """Writes a `.model` file that `read_model` and OpenAI's code read."""
    whole = {"model": {"args": {"net": {"args": settings.net}, "pi_head_opts": settings.head}}}
    Path(path).write_bytes(pickle.dumps(whole, protocol=2))


class _Storage(NamedTuple):
    member: str  # of the zip
    dtype: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers


class WeightsFile(Mapping[str, np.ndarray]):
    """The tensors of a `.weights` file by name, each read when it is asked for.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: it is cut short, damaged, in PyTorch's old format, compressed, or has other contents than
            named tensors: nothing is written, unpacked or called.
    """

    def __init__(self, path: str | Path, on_read: Callable[[int], object] = lambda count: None):
        """`on_read` is told how many bytes were read, of each tensor once."""
        self._path, self._on_read, self._told = Path(path), on_read, set[str]()
        with self._path.open("rb") as file:
            if file.read(len(_OLD_PYTORCH)) == _OLD_PYTORCH:
                raise WeightsFileError(f"{path} is of PyTorch before 1.6: load and save it once with a newer one")
        try:
            self._zip = zipfile.ZipFile(self._path)
        except zipfile.BadZipFile as error:
            raise WeightsFileError(f"{path} is cut short, or no file of PyTorch: {error}") from error
        self._root = self._check_members()
        self._tensors = self._read_names()

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        storage = np.frombuffer(self._read(tensor.storage.member), tensor.storage.dtype)
        self._on_read(0 if name in self._told else storage.nbytes)
        self._told.add(name)
        strides = [stride * storage.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    @property
    def nbytes(self) -> int:
        """What reading each tensor once will have read."""
        return sum(np.dtype(t.storage.dtype).itemsize * t.storage.size for t in self._tensors.values())

    def _check_members(self) -> str:
        """The folder in the zip that everything is in."""
        members = self._zip.infolist()
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                raise WeightsFileError(f"{self._path} has a member {member.filename!r}, which leads out of it")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise WeightsFileError(f"{self._path}: member {member.filename!r} is packed, which PyTorch never does")
        names = [member.filename for member in members]
        pickles = [name for name in names if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise WeightsFileError(f"{self._path} is no file of PyTorch: it has {len(pickles)} members data.pkl")
        return str(PurePosixPath(pickles[0]).parent)

    def _read_names(self) -> dict[str, _Tensor]:
        if self._zip.getinfo(f"{self._root}/data.pkl").file_size > _LARGEST_PICKLE:
            raise WeightsFileError(f"{self._path}: its data.pkl is larger than the names of any model")
        known = dict(_DTYPES) | {"torch._utils._rebuild_tensor_v2": self._tensor}
        tensors = _unpickle(self._read(f"{self._root}/data.pkl"), self._path, known, self._storage)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
            raise WeightsFileError(f"{self._path} holds something else than tensors by name")
        if not all(isinstance(name, str) for name in tensors):
            raise WeightsFileError(f"{self._path} holds tensors without a name")
        return dict(tensors)

    def _storage(self, reference: Any) -> _Storage:
        kind, dtype, key, _, count = reference
        member = f"{self._root}/data/{key}"
        if kind != "storage" or dtype not in _STORAGES or member not in self._zip.namelist():
            raise WeightsFileError(f"{self._path} has no storage {key!r:.80}")
        size = self._zip.getinfo(member).file_size
        if size != count * np.dtype(dtype).itemsize:
            raise WeightsFileError(f"{self._path}: storage {key} has {size:,} bytes, not {count!r:.40} of {dtype}")
        return _Storage(member, dtype, count)

    def _tensor(self, storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
        numbers = offset, *shape, *strides
        fits = isinstance(storage, _Storage) and all(type(n) is int and n >= 0 for n in numbers)
        if not fits or len(shape) != len(strides):
            raise WeightsFileError(f"{self._path} has a tensor of no possible shape")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (math.prod(shape) and last >= storage.size) or math.prod(shape) > storage.size or offset > storage.size:
            raise WeightsFileError(f"{self._path} has a tensor that is larger than its storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _read(self, member: str) -> bytes:
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise WeightsFileError(f"{self._path} is damaged at {member}: {error}") from error


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a `.weights` file, in the form of `torch.save` of a `state_dict`; equal tensors give equal bytes.

    The file exists under its name only when it is whole.
    """
    path = Path(path)
    writing = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(writing, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes | memoryview) -> None:
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=False) as member:
                member.write(data)

        add("data.pkl", _pickle_tensors(tensors))
        add("byteorder", b"little")
        for i, tensor in enumerate(tensors.values()):
            add(f"data/{i}", np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
        add("version", b"3\n")
    writing.replace(path)


def _pickle_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of a dictionary of PyTorch tensors, put together by hand: PyTorch need not be there."""
    empty = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO + b"\x02", empty, pickle.MARK]
    for i, (name, tensor) in enumerate(tensors.items()):
        storage = (
            _text("storage"), _name("torch", _STORAGES[tensor.dtype.name]), _text(str(i)), _text("cpu"),
            _number(tensor.size),
        )  # fmt: skip
        strides = (stride // tensor.itemsize for stride in np.empty(tensor.shape, tensor.dtype).strides)
        arguments = (
            _tuple(storage) + pickle.BINPERSID, _number(0), _tuple(map(_number, tensor.shape)),
            _tuple(map(_number, strides)), pickle.NEWFALSE, empty,
        )  # fmt: skip
        parts += [_text(name), _name("torch._utils", "_rebuild_tensor_v2"), _tuple(arguments), pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return pickle.BINUNICODE + len(text.encode()).to_bytes(4, "little") + text.encode()


def _number(number: int) -> bytes:
    return pickle.BININT + number.to_bytes(4, "little", signed=True)


def _tuple(items: Any) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
