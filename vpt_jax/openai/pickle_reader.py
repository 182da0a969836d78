"""OpenAI's files: `.model`, a pickle of settings, and `.weights`, PyTorch's zip of tensors. Nothing in them is run.

A pickle is a program: it may name any function of any package and call it. The reader here knows plain containers,
numbers and text, which need no name; of names it knows `OrderedDict` and, for weights, PyTorch's storages and the
function that makes a tensor of one, in whose place it puts its own. All others are refused before anything is called.
"""

import io
import math
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.printable import printable

_LARGEST_PICKLE = 1 << 20  # bytes; OpenAI's have a twentieth of it
_LARGEST_NUMBER = 1 << 40  # of what a file says of tensors
_MOST_SHARED = 4  # times the file's size that its tensors may take; more than once where they share a storage
_MOST_SETTINGS, _DEEPEST_SETTING = 10_000, 20  # OpenAI's are about 50, three deep
_DTYPES = {
    "torch.FloatStorage": "float32", "torch.DoubleStorage": "float64", "torch.HalfStorage": "float16",
    "torch.LongStorage": "int64", "torch.IntStorage": "int32", "torch.BoolStorage": "bool",
}  # fmt: skip
_STORAGES = {dtype: storage.removeprefix("torch.") for storage, dtype in _DTYPES.items()}
_CONTAINER, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files begin that are no zip
# Instructions for numbers, texts, lists, tuples and dictionaries. What else there is makes sets, objects, and bytes and
# numbers of any size.
_HARMLESS = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_DICT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET,
    pickle.LONG_BINGET, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
)  # fmt: skip


class WeightsFileError(ValueError):
    """A file that is not what it should be, or asks for more than data; the message names both."""


# What `zipfile` raises for damage: of other versions and methods, names in no encoding, impossible places and sizes.
_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, OverflowError, LookupError,
    TypeError, zlib.error, struct.error,
)  # fmt: skip
_PurePython: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PurePython):  # type: ignore[misc]
    """Loads data and nothing else: no function is ever on its stack, only names, in the form of texts.

    It is made of the one that is written in Python, since its instructions can be chosen.
    """

    def __init__(self, data: bytes, path: Path, names: tuple[str, ...], make: "_Make"):
        """`names` may be asked for; `make` stands for what would be made of a tensor's parts, and of its numbers."""
        super().__init__(io.BytesIO(data))
        self._path, self._names, self._make = path, names, make

    def find_class(self, module: str, name: str) -> str:
        """The name itself, if it is known."""
        if type(module) is not str or type(name) is not str:
            raise WeightsFileError(f"{self._path} asks for a name that is no text: nothing was loaded")
        if (whole := f"{module}.{name}") not in self._names:
            raise WeightsFileError(
                f"{self._path} asks for {printable(whole, length=200)}, which is neither a container nor a tensor: "
                "nothing was loaded. Is the file from OpenAI?"
            )
        return whole

    def persistent_load(self, pid: Any) -> Any:
        """What stands for a tensor's numbers, which are not in the pickle."""
        return self._make.storage(pid)

    def _reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(arguments) is not tuple:  # comparing anything else may take for ever
            raise WeightsFileError(f"{self._path} calls something with unusual arguments: nothing was loaded")
        if name == _CONTAINER and not arguments:
            self.stack.append(OrderedDict())
        elif name == _TENSOR:
            self.stack.append(self._make.tensor(*arguments))
        else:
            raise WeightsFileError(f"{self._path} calls something with unusual arguments: nothing was loaded")

    def _set_items(self) -> None:
        self._store(self.pop_mark())

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._store([key, value])

    def _store(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or any(type(key) is not str for key in items[::2]):
            raise WeightsFileError(f"{self._path} has a dictionary whose keys are not names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _build(self) -> None:
        self.stack.pop()  # PyTorch notes versions there

    dispatch: ClassVar[dict[int, Any]] = {
        **{code[0]: _PurePython.dispatch[code[0]] for code in _HARMLESS},
        pickle.REDUCE[0]: _reduce,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
        pickle.BUILD[0]: _build,
    }


class _Make(NamedTuple):
    storage: Callable[[Any], Any]
    tensor: Callable[..., Any]


def _unpickle(data: bytes, path: Path, names: tuple[str, ...], make: _Make) -> Any:
    try:
        return _Unpickler(data, path, (_CONTAINER, *names), make).load()
    except WeightsFileError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise WeightsFileError(f"{path} is damaged, or not what its name says ({type(error).__name__})") from error


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
    _demand_file(path)
    if path.stat().st_size > _LARGEST_PICKLE:
        raise WeightsFileError(f"{path} has {path.stat().st_size:,} bytes, too many for settings: is it the .weights?")

    def refuse(*_: Any) -> Any:
        raise WeightsFileError(f"{path} holds tensors: is it the .weights?")

    whole = _unpickle(path.read_bytes(), path, (), _Make(refuse, refuse))
    net, head = (
        _inner(whole, *names) for names in (("model", "args", "net", "args"), ("model", "args", "pi_head_opts"))
    )
    if net is None or head is None:
        raise WeightsFileError(f"{path} has no model.args.net.args and pi_head_opts, as OpenAI's have")
    if not _is_shallow(net) or not _is_shallow(head):
        raise WeightsFileError(f"{path} has settings inside of settings that no model has: nothing was loaded")
    return ModelSettings(dict(net), dict(head))


def _inner(whole: Any, *names: str) -> dict[str, Any] | None:
    """The dictionary in dictionaries by these names; None if there is none."""
    for name in names:
        whole = whole.get(name) if isinstance(whole, dict) else None
    return whole if isinstance(whole, dict) else None


def _is_shallow(settings: Any) -> bool:
    """True if a value has a bounded depth and size, so that it can be compared, hashed, printed and freed safely.

    A pickle may hold one object many times: 60 tuples that each hold the one before twice would be 2^60 items to visit.
    """
    left = _MOST_SETTINGS

    def visit(item: Any, depth: int) -> bool:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST_SETTING:
            return False
        if isinstance(item, dict):
            return all(visit(value, depth + 1) for value in item.values())
        return not isinstance(item, list | tuple) or all(visit(value, depth + 1) for value in item)

    return visit(settings, 0)


def write_model(path: str | Path, settings: ModelSettings) -> None:
    """Writes a `.model` file that `read_model` and OpenAI's code read; it exists under its name only when whole."""
    whole = {"model": {"args": {"net": {"args": settings.net}, "pi_head_opts": settings.head}}}
    with atomic_write(Path(path)) as writing:
        writing.write_bytes(pickle.dumps(whole, protocol=2))


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
    """The tensors of a `.weights` file by name, each read when it is asked for; a context manager.

    Raises:
        FileNotFoundError: there is none.
        WeightsFileError: it is cut short, damaged, in PyTorch's old format, compressed, or has other contents than
            named tensors: nothing is written, unpacked or called.
    """

    def __init__(self, path: str | Path):
        self._path, self._told = Path(path), set[str]()
        self._kept: dict[str, bytes] = {}  # storages that several tensors share, once they have been read
        self.on_read: Callable[[int], object] = lambda count: None  # is told how many bytes, of each storage once
        _demand_file(self._path)
        with self._path.open("rb") as file:
            if file.read(len(_OLD_PYTORCH)) == _OLD_PYTORCH:
                raise WeightsFileError(f"{path} is of PyTorch before 1.6: load and save it once with a newer one")
        try:
            self._zip = zipfile.ZipFile(self._path)
        except _ZIP_ERRORS as error:
            raise WeightsFileError(f"{path} is cut short, or no file of PyTorch: {printable(error)}") from error
        try:
            self._sizes = {member.filename: member.file_size for member in self._zip.infolist()}
            self._root = self._check_members()
            self._tensors = self._read_names()
            self._check_size()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        member = tensor.storage.member
        data = self._kept.get(member) or self._read(member)
        if member in self._shared:
            self._kept[member] = data
        if len(data) != self._sizes[member]:
            raise WeightsFileError(f"{self._path} is damaged at {printable(member)}")
        storage = np.frombuffer(data, tensor.storage.dtype)
        self.on_read(0 if member in self._told else storage.nbytes)
        self._told.add(member)
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
        """Bytes that reading all tensors takes: each storage once."""
        return sum(self._sizes[member] for member in {tensor.storage.member for tensor in self._tensors.values()})

    def _check_size(self) -> None:
        """Refuses tensors, or members of the zip, that are many times as large as the file: they share its bytes."""
        uses = Counter(tensor.storage.member for tensor in self._tensors.values())
        self._shared = {member for member, count in uses.items() if count > 1}
        limit = _MOST_SHARED * self._path.stat().st_size
        size = sum(math.prod(t.shape) * np.dtype(t.storage.dtype).itemsize for t in self._tensors.values())
        if max(size, sum(self._sizes.values())) > limit:
            raise WeightsFileError(f"{self._path}: its tensors share their numbers, and would take {size:,} bytes")

    def _check_members(self) -> str:
        """The folder in the zip that everything is in."""
        members = self._zip.infolist()
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                raise WeightsFileError(f"{self._path} has a member {member.filename!r}, which leads out of it")
            stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
            if not stored or member.flag_bits & 1:
                raise WeightsFileError(f"{self._path}: member {member.filename!r} is packed, which PyTorch never does")
        pickles = [name for name in self._sizes if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1 or len(self._sizes) < len(members):
            raise WeightsFileError(f"{self._path} is no file of PyTorch: it has {len(pickles)} members data.pkl")
        return str(PurePosixPath(pickles[0]).parent)

    def _read_names(self) -> dict[str, _Tensor]:
        if self._sizes[f"{self._root}/data.pkl"] > _LARGEST_PICKLE:
            raise WeightsFileError(f"{self._path}: its data.pkl is larger than the names of any model")
        make = _Make(self._storage, self._tensor)
        tensors = _unpickle(self._read(f"{self._root}/data.pkl"), self._path, (_TENSOR, *_DTYPES), make)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
            raise WeightsFileError(f"{self._path} holds something else than tensors by name")
        return dict(tensors)

    def _storage(self, reference: Any) -> _Storage:
        kind, name, key, count = _parts_of(reference)
        if kind != "storage" or name not in _DTYPES or not re.fullmatch(r"\w{1,40}", key):
            raise WeightsFileError(f"{self._path} refers to numbers in a way that PyTorch does not")
        member, dtype = f"{self._root}/data/{key}", _DTYPES[name]
        if self._sizes.get(member) is None or not _is_number(count):
            raise WeightsFileError(f"{self._path} has no storage {key}")
        if self._sizes[member] != count * np.dtype(dtype).itemsize:
            raise WeightsFileError(
                f"{self._path}: storage {key} has {self._sizes[member]:,} bytes, not {count} of {dtype}"
            )
        return _Storage(member, dtype, count)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        whole = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
        if not whole or not len(shape) == len(strides) <= 8 or not all(map(_is_number, (offset, *shape, *strides))):
            raise WeightsFileError(f"{self._path} has a tensor of no possible shape")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (math.prod(shape) and last >= storage.size) or math.prod(shape) > storage.size or offset > storage.size:
            raise WeightsFileError(f"{self._path} has a tensor that is larger than its storage")
        return _Tensor(storage, offset, shape, strides)

    def _read(self, member: str) -> bytes:
        try:
            return self._zip.read(member)
        except _ZIP_ERRORS as error:
            raise WeightsFileError(f"{self._path} is damaged at {printable(member)}: {printable(error)}") from error


def _parts_of(reference: Any) -> tuple[str, str, str, Any]:
    """Kind, type, key and count of a reference to numbers; texts are empty where they are none.

    Nothing else is hashed or compared: that of a tuple nested a million deep ends the process, without an error.
    """
    if type(reference) is not tuple or len(reference) != 5:
        return "", "", "", None
    kind, name, key, _, count = reference
    texts = [text if type(text) is str else "" for text in (kind, name, key)]
    return texts[0], texts[1], texts[2], count


def _demand_file(path: Path) -> None:
    """A pipe would be waited for, and a device may have no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise WeightsFileError(f"{path} is no file but a folder, a pipe or a device")


def _is_number(number: Any) -> bool:
    return type(number) is int and 0 <= number < _LARGEST_NUMBER


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a `.weights` file, in the form of `torch.save` of a `state_dict`; equal tensors give equal bytes.

    The file exists under its name only when it is whole.
    """
    with atomic_write(Path(path)) as writing, zipfile.ZipFile(writing, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes | memoryview) -> None:
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=False) as member:
                member.write(data)

        add("data.pkl", _pickle_tensors(tensors))
        add("byteorder", b"little")
        for i, tensor in enumerate(tensors.values()):
            add(f"data/{i}", np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
        add("version", b"3\n")


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
