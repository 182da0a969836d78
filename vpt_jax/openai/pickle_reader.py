"""Safe reader and writer of OpenAI's files: `.model`, a pickle of settings, and `.weights`, PyTorch's zip of tensors.

A pickle is a program: it may import any function of any package and call it. This restricted unpickler executes nothing
from a file. It supports plain containers, numbers and text, which need no import. The only globals it accepts are
`OrderedDict` and, for weights, PyTorch's storages and the function that rebuilds a tensor from one, for which it
substitutes its own. All others are refused before anything is called.
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
from vpt_jax.system.errors import MissingFileError, UserError
from vpt_jax.system.printable import printable

_MAX_PICKLE_BYTES = 1 << 20  # OpenAI's files have a twentieth of it
_MAX_SIZE = 1 << 40  # of dimensions, strides, offsets and storages that a file declares
_MAX_EXPANSION = 4  # tensors may take this many times the file's size, since they may share a storage
_MAX_SETTINGS, _MAX_SETTING_DEPTH = 10_000, 20  # OpenAI's are about 50, three deep
_DTYPES = {
    "torch.FloatStorage": "float32", "torch.DoubleStorage": "float64", "torch.HalfStorage": "float16",
    "torch.LongStorage": "int64", "torch.IntStorage": "int32", "torch.BoolStorage": "bool",
}  # fmt: skip
_STORAGES = {dtype: storage.removeprefix("torch.") for storage, dtype in _DTYPES.items()}
_CONTAINER, _TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
_LEGACY_PYTORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files before the zip format
# Opcodes for numbers, text, lists, tuples and dictionaries. The other opcodes create sets, objects, and bytes and
# numbers of any size.
_SAFE_OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT,
    pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_DICT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET,
    pickle.LONG_BINGET, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID,
)  # fmt: skip


class WeightsFileError(UserError, ValueError):
    """A damaged or unexpected file, or a pickle with more than data; the message names the file and the problem."""


# Exceptions of `zipfile` for damaged files: unknown versions and methods, undecodable names, impossible offsets, sizes.
_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, OverflowError, LookupError,
    TypeError, zlib.error, struct.error,
)  # fmt: skip
_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Restricted unpickler that loads data only: its stack never holds a function, only names of functions, as strings.

    It derives from the pure Python implementation, whose table of opcodes can be replaced.
    """

    def __init__(self, data: bytes, path: Path, names: tuple[str, ...], builders: "_Builders"):
        """`names`: globals that the pickle may refer to; `builders`: substitutes for PyTorch's storages and tensors."""
        super().__init__(io.BytesIO(data))
        self._path, self._names, self._builders = path, names, builders

    def find_class(self, module: str, name: str) -> str:
        """Return the name itself, if it is allowed; nothing is imported."""
        if type(module) is not str or type(name) is not str:
            raise WeightsFileError(f"{self._path} tries to import a name that is not text: nothing was loaded")
        if (full_name := f"{module}.{name}") not in self._names:
            raise WeightsFileError(
                f"{self._path} tries to import {printable(full_name, length=200)}, which is neither a container nor a "
                "tensor: nothing was loaded. Is the file from OpenAI?"
            )
        return full_name

    def persistent_load(self, pid: Any) -> Any:
        """Resolve a reference to a storage: a tensor's numbers, which are not in the pickle."""
        return self._builders.storage(pid)

    def _reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(arguments) is not tuple:  # comparing anything else may never end
            raise WeightsFileError(f"{self._path} calls something with unusual arguments: nothing was loaded")
        if name == _CONTAINER and not arguments:
            self.stack.append(OrderedDict())
        elif name == _TENSOR:
            self.stack.append(self._builders.tensor(*arguments))
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
        self.stack.pop()  # version numbers of PyTorch

    dispatch: ClassVar[dict[int, Any]] = {
        **{code[0]: _PythonUnpickler.dispatch[code[0]] for code in _SAFE_OPCODES},
        pickle.REDUCE[0]: _reduce,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
        pickle.BUILD[0]: _build,
    }


class _Builders(NamedTuple):
    """Substitutes for PyTorch's functions that a pickle of tensors refers to."""

    storage: Callable[[Any], Any]
    tensor: Callable[..., Any]


def _unpickle(data: bytes, path: Path, names: tuple[str, ...], builders: _Builders) -> Any:
    try:
        return _Unpickler(data, path, (_CONTAINER, *names), builders).load()
    except WeightsFileError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise WeightsFileError(f"{path} is damaged, or not what its name says ({type(error).__name__})") from error


class ModelSettings(NamedTuple):
    """Settings of a network in a `.model` file."""

    net: dict[str, Any]  # architecture and sizes, such as `hidsize`
    head: dict[str, Any]  # of the action head, such as `temperature`


def read_model(path: str | Path) -> ModelSettings:
    """Read the settings in a `.model` file.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFileError: it is damaged, refers to more than plain containers, or has other contents.
    """
    path = Path(path)
    _require_regular_file(path)
    if path.stat().st_size > _MAX_PICKLE_BYTES:
        raise WeightsFileError(f"{path} has {path.stat().st_size:,} bytes, too many for settings: is it the .weights?")

    def refuse(*_: Any) -> Any:
        raise WeightsFileError(f"{path} holds tensors: is it the .weights?")

    content = _unpickle(path.read_bytes(), path, (), _Builders(refuse, refuse))
    net, head = (
        _nested_dict(content, *names) for names in (("model", "args", "net", "args"), ("model", "args", "pi_head_opts"))
    )
    if net is None or head is None:
        raise WeightsFileError(f"{path} has no model.args.net.args and pi_head_opts, as OpenAI's files have")
    if not _is_bounded(net) or not _is_bounded(head):
        raise WeightsFileError(f"{path} has too many settings, or too deeply nested ones: nothing was loaded")
    return ModelSettings(dict(net), dict(head))


def _nested_dict(content: Any, *names: str) -> dict[str, Any] | None:
    """Look up a nested dictionary by a path of names; None if there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def _is_bounded(settings: Any) -> bool:
    """Return True if a value has a bounded depth and size: it can be compared, hashed, printed and freed safely.

    A pickle may refer to an object several times: 60 tuples, each with the one before twice, are 2^60 items to visit.
    """
    remaining = _MAX_SETTINGS

    def visit(item: Any, depth: int) -> bool:
        nonlocal remaining
        remaining -= 1
        if remaining < 0 or depth > _MAX_SETTING_DEPTH:
            return False
        if isinstance(item, dict):
            return all(visit(value, depth + 1) for value in item.values())
        return not isinstance(item, list | tuple) or all(visit(value, depth + 1) for value in item)

    return visit(settings, 0)


def write_model(path: str | Path, settings: ModelSettings) -> None:
    """Write a `.model` file that `read_model` and OpenAI's code read, with an atomic write."""
    content = {"model": {"args": {"net": {"args": settings.net}, "pi_head_opts": settings.head}}}
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(pickle.dumps(content, protocol=2))


class _Storage(NamedTuple):
    """Member of the zip with the numbers of one or several tensors."""

    member: str  # of the zip
    dtype: str
    size: int


class _TensorView(NamedTuple):
    """Strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class WeightsFile(Mapping[str, np.ndarray]):
    """Mapping of names to the tensors of a `.weights` file, each read lazily; a context manager.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFileError: it is truncated, damaged, in PyTorch's legacy format, compressed, or has other contents than
            named tensors: nothing is written, unpacked or called.
    """

    def __init__(self, path: str | Path):
        self._path, self._reported = Path(path), set[str]()
        self._storage_cache: dict[str, bytes] = {}  # bytes of storages that several tensors share
        # Callback with the number of bytes read, which counts each storage once.
        self.on_read: Callable[[int], object] = lambda count: None
        _require_regular_file(self._path)
        with self._path.open("rb") as file:
            if file.read(len(_LEGACY_PYTORCH_MAGIC)) == _LEGACY_PYTORCH_MAGIC:
                raise WeightsFileError(f"{path} is of PyTorch before 1.6: load and save it once with a newer version")
        try:
            self._zip = zipfile.ZipFile(self._path)
        except _ZIP_ERRORS as error:
            raise WeightsFileError(f"{path} is truncated, or not a file of PyTorch: {printable(error)}") from error
        try:
            self._sizes = {member.filename: member.file_size for member in self._zip.infolist()}
            self._root = self._check_members()
            self._tensors = self._read_tensor_views()
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
        data = self._storage_cache.get(member) or self._read(member)
        if member in self._shared:
            self._storage_cache[member] = data
        if len(data) != self._sizes[member]:
            raise WeightsFileError(f"{self._path} is damaged at {printable(member)}")
        storage = np.frombuffer(data, tensor.storage.dtype)
        self.on_read(0 if member in self._reported else storage.nbytes)
        self._reported.add(member)
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
        """Bytes to read for all tensors, counting each storage once."""
        return sum(self._sizes[member] for member in {tensor.storage.member for tensor in self._tensors.values()})

    def _check_size(self) -> None:
        """Refuse tensors, or members of the zip, that share bytes and are many times as large as the file."""
        uses = Counter(tensor.storage.member for tensor in self._tensors.values())
        self._shared = {member for member, count in uses.items() if count > 1}
        limit = _MAX_EXPANSION * self._path.stat().st_size
        size = sum(math.prod(t.shape) * np.dtype(t.storage.dtype).itemsize for t in self._tensors.values())
        if max(size, sum(self._sizes.values())) > limit:
            raise WeightsFileError(f"{self._path}: its tensors share storages, and would take {size:,} bytes")

    def _check_members(self) -> str:
        """Check the members of the zip, and return the folder that contains them."""
        members = self._zip.infolist()
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                raise WeightsFileError(f"{self._path} has a member {member.filename!r}, which points outside the file")
            stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
            if not stored or member.flag_bits & 1:
                raise WeightsFileError(
                    f"{self._path}: member {member.filename!r} is compressed, which PyTorch never does"
                )
        pickles = [name for name in self._sizes if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1 or len(self._sizes) < len(members):
            raise WeightsFileError(f"{self._path} is not a file of PyTorch: it has {len(pickles)} members data.pkl")
        return str(PurePosixPath(pickles[0]).parent)

    def _read_tensor_views(self) -> dict[str, _TensorView]:
        if self._sizes[f"{self._root}/data.pkl"] > _MAX_PICKLE_BYTES:
            raise WeightsFileError(f"{self._path}: its data.pkl is too large for the tensors of a model")
        builders = _Builders(self._storage, self._tensor)
        tensors = _unpickle(self._read(f"{self._root}/data.pkl"), self._path, (_TENSOR, *_DTYPES), builders)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, _TensorView) for tensor in tensors.values()):
            raise WeightsFileError(f"{self._path} holds something other than tensors by name")
        return dict(tensors)

    def _storage(self, reference: Any) -> _Storage:
        kind, name, key, count = _reference_fields(reference)
        if kind != "storage" or name not in _DTYPES or not re.fullmatch(r"\w{1,40}", key):
            raise WeightsFileError(f"{self._path} has a reference to a storage that PyTorch does not write")
        member, dtype = f"{self._root}/data/{key}", _DTYPES[name]
        if self._sizes.get(member) is None or not _is_valid_size(count):
            raise WeightsFileError(f"{self._path} has no storage {key}")
        if self._sizes[member] != count * np.dtype(dtype).itemsize:
            raise WeightsFileError(
                f"{self._path}: storage {key} has {self._sizes[member]:,} bytes, not {count} of {dtype}"
            )
        return _Storage(member, dtype, count)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _TensorView:
        typed = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
        if not typed or not len(shape) == len(strides) <= 8 or not all(map(_is_valid_size, (offset, *shape, *strides))):
            raise WeightsFileError(f"{self._path} has a tensor of an impossible shape")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (math.prod(shape) and last >= storage.size) or math.prod(shape) > storage.size or offset > storage.size:
            raise WeightsFileError(f"{self._path} has a tensor that is larger than its storage")
        return _TensorView(storage, offset, shape, strides)

    def _read(self, member: str) -> bytes:
        try:
            return self._zip.read(member)
        except _ZIP_ERRORS as error:
            raise WeightsFileError(f"{self._path} is damaged at {printable(member)}: {printable(error)}") from error


def _reference_fields(reference: Any) -> tuple[str, str, str, Any]:
    """Kind, type, key and count of a reference to a storage; a field that is not a string becomes "".

    Only strings are hashed or compared: for a tuple nested a million deep, either crashes the process.
    """
    if type(reference) is not tuple or len(reference) != 5:
        return "", "", "", None
    kind, name, key, _, count = reference
    texts = [text if type(text) is str else "" for text in (kind, name, key)]
    return texts[0], texts[1], texts[2], count


def _require_regular_file(path: Path) -> None:
    """Refuse anything but a regular file: reading a pipe may block, and a device may have no end."""
    if not path.exists():
        raise MissingFileError(f"there is no file {path}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise WeightsFileError(f"{path} is not a regular file but a folder, a pipe or a device")


def _is_valid_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < _MAX_SIZE


def write_weights(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a `.weights` file in the format of `torch.save` of a `state_dict`; equal tensors give equal bytes.

    It is an atomic write: the file exists under its name only when it is complete.
    """
    with atomic_write(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes | memoryview) -> None:
            with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=False) as member:
                member.write(data)

        add("data.pkl", _pickle_tensors(tensors))
        add("byteorder", b"little")
        for i, tensor in enumerate(tensors.values()):
            add(f"data/{i}", np.ascontiguousarray(tensor).astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes())
        add("version", b"3\n")


def _pickle_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Pickle of a dictionary of PyTorch tensors, assembled from opcodes, so that PyTorch need not be installed."""
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
