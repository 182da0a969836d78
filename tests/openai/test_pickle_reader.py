"""Reading of PyTorch's files, bit by bit; refusal of pickles that contain more than data, before anything is called."""

import os
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.openai.pickle_reader import (
    ModelSettings,
    WeightsFile,
    WeightsFileError,
    _number,
    _pickle_tensors,
    _tuple,
    read_model,
    write_model,
    write_weights,
)

BY_TORCH = Path(__file__).parents[1] / "golden" / "torch_state_dict.weights"  # made by PyTorch 2.14
TENSORS = {
    "steps": np.array(7, np.int64),
    "none": np.zeros((10, 0), np.float32),
    "turned": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "part": np.array([[5, 6], [9, 10]], np.float32),
    "half": np.array([1.5, -2], np.float16),
    "layer.bias": np.array([-0.011439144611358643, 0.45777493715286255], np.float32),
}
SETTINGS = ModelSettings({"hidsize": 8, "img_shape": [16, 16, 3]}, {"temperature": 2.0})


class Malicious:
    """Object whose pickle is a call of a function."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def test_files_saved_by_torch_are_read_bit_exactly():
    count, weights = [], WeightsFile(BY_TORCH)
    weights.on_read = count.append
    assert set(weights) == {*TENSORS, "layer.weight"}
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(weights[name], expected, strict=True)
    assert weights["layer.weight"].shape == (2, 3)
    assert sum(count) == weights.nbytes


def test_written_files_are_read_back_and_are_deterministic(tmp_path):
    for name in ("one", "two"):
        write_weights(tmp_path / name, TENSORS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    weights = WeightsFile(tmp_path / "one")
    assert list(weights) == list(TENSORS)
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(weights[name], expected, strict=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_torch_reads_written_files(tmp_path):
    torch = pytest.importorskip("torch")
    write_weights(tmp_path / "file", TENSORS)
    read = torch.load(tmp_path / "file", weights_only=True)
    assert list(read) == list(TENSORS)
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(read[name].numpy(), expected, strict=True)


def test_settings_are_read_back(tmp_path):
    write_model(tmp_path / "file", SETTINGS)
    assert read_model(tmp_path / "file") == SETTINGS
    whole = pickle.loads((tmp_path / "file").read_bytes())  # noqa: S301 - as OpenAI's code reads it
    assert whole["model"]["args"]["net"]["args"] == SETTINGS.net


def test_settings_that_call_functions_are_refused(tmp_path):
    target = tmp_path / "written"
    calls = {
        "posix.system": Malicious(os.system, f"touch {target}"),
        "builtins.eval": Malicious(eval, f"open({str(target)!r}, 'w')"),
        r"pathlib[.\w]*": Malicious(Path, "/"),
        "tests.openai.test_pickle_reader.Malicious": Malicious,
    }
    for name, call in calls.items():
        (tmp_path / "evil.model").write_bytes(pickle.dumps({"model": {"args": {"net": {"args": call}}}}))
        with pytest.raises(WeightsFileError, match=rf"evil.model tries to import {name}, .*nothing was loaded"):
            read_model(tmp_path / "evil.model")
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged, or not what its name says"),
        (pickle.dumps({"model": 1})[:-3], "is damaged, or not what its name says"),
        (pickle.dumps({"model": 1}), "has no model.args.net.args and pi_head_opts"),
        (pickle.dumps([1, 2]), "has no model.args.net.args"),
        (b"\x80\x05" + pickle.BYTEARRAY8 + (1 << 31).to_bytes(8, "little") + b".", "is damaged"),  # 2 GB
        (b"\x80\x02" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.", "is damaged"),  # a memo of 16 GB, were it a list
        (b"\x80\x04" + pickle.EMPTY_SET * 1000 + b".", "is damaged"),
        (b"\x80\x04}" + b")" + pickle.MEMOIZE + b"h\x00h\x00\x86" + pickle.MEMOIZE + b"K\x01s.", "keys are not names"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "holds tensors"),
        (b" " * ((1 << 20) + 1), "1,048,577 bytes, too many for settings"),
    ],
)
def test_broken_settings_are_named(tmp_path, data, message):
    (tmp_path / "a.model").write_bytes(data)
    with pytest.raises(WeightsFileError, match=rf"a\.model.*{message}|a\.model {message}"):
        read_model(tmp_path / "a.model")


TWO = _pickle_tensors({"a": np.ones(2, np.float32)})


def write_zip(path, data=TWO, how=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", data)
        for name, content in ({"archive/data/0": bytes(8)} | members).items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"archive/../../etc/passwd": b""}, "points outside the file"),
        ({"/etc/passwd": b""}, "points outside the file"),
        ({"archive\\..\\x": b""}, "points outside the file"),
        ({"how": zipfile.ZIP_DEFLATED}, "is compressed"),
        ({"other/data.pkl": b""}, "it has 2 members data.pkl"),
        ({"archive/data/0": bytes(7)}, "storage 0 has 7 bytes, not 2 of float32"),
        ({"data": _pickle_tensors({"a": np.ones((), np.float32), "b": np.ones(2, np.float32)})}, "storage"),
        ({"data": pickle.dumps({"a": 1}, 2)}, "something other than tensors by name"),
        ({"data": pickle.dumps(Malicious(os.getcwd), 2)}, "tries to import posix.getcwd"),
        ({"data": pickle.dumps(OrderedDict(a=Malicious(os.system, "touch x")), 2)}, "tries to import posix.system"),
    ],
)
def test_weights_with_other_content_are_refused(tmp_path, options, message):
    write_zip(tmp_path / "a.weights", **options)
    with pytest.raises(WeightsFileError, match=rf"a\.weights.*{message}"):
        WeightsFile(tmp_path / "a.weights")
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights"]


@pytest.mark.parametrize(
    ("shape", "strides"), [([3], [1]), ([2], [2]), ([1 << 30] * 2, [0, 0]), ([2], [1, 1]), ([-1], [1])]
)
def test_tensors_larger_than_their_storage_are_refused(tmp_path, shape, strides):
    sizes = [_tuple(map(_number, numbers)) for numbers in ([2], [1], shape, strides)]
    assert TWO.count(sizes[0] + sizes[1]) == 1
    write_zip(tmp_path / "a.weights", TWO.replace(sizes[0] + sizes[1], sizes[2] + sizes[3]))
    with pytest.raises(WeightsFileError, match=r"larger than its storage|an impossible shape"):
        WeightsFile(tmp_path / "a.weights")


def test_a_member_that_claims_more_than_it_holds_is_refused(tmp_path):
    write_zip(tmp_path / "a.weights", _pickle_tensors({"a": np.ones(1000, np.float32)}))
    whole = bytearray((tmp_path / "a.weights").read_bytes())
    entry = whole.rindex(b"archive/data/0") - 46  # in the directory at the end
    whole[entry + 24 : entry + 28] = (4000).to_bytes(4, "little")
    (tmp_path / "a.weights").write_bytes(whole)
    with pytest.raises(WeightsFileError, match=r"a\.weights: member 'archive/data/0' is compressed"):
        WeightsFile(tmp_path / "a.weights")


def test_damage_is_detected(tmp_path):
    whole = BY_TORCH.read_bytes()
    (tmp_path / "short.weights").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsFileError, match=r"short\.weights is truncated, or not a file of PyTorch"):
        WeightsFile(tmp_path / "short.weights")
    place = whole.index(TENSORS["layer.bias"].tobytes())
    (tmp_path / "bad.weights").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(WeightsFileError, match=r"bad\.weights is damaged at torch_state_dict/data/\d"):
        _ = WeightsFile(tmp_path / "bad.weights")["layer.bias"]
    (tmp_path / "old.weights").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2))
    with pytest.raises(WeightsFileError, match=r"of PyTorch before 1\.6: load and save it once"):
        WeightsFile(tmp_path / "old.weights")
    with pytest.raises(FileNotFoundError):
        WeightsFile(tmp_path / "none.weights")


def text(word):
    return pickle.SHORT_BINUNICODE + bytes([len(word)]) + word.encode()


def dictionary(**values):
    return b"}" + b"".join(text(name) + value + b"s" for name, value in values.items())


STORAGE, KEY, SIZES = text("storage"), text("0"), dictionary(hidsize=b"K\x08")


def reference(kind=STORAGE, name=b"ctorch\nFloatStorage\n", key=KEY, count=b"K\x02", more=b""):
    """A pickle's instructions for a reference to the storage of a tensor."""
    return b"(" + kind + name + key + text("cpu") + count + more + b"tQ"


def settings(net=SIZES, head=b"}"):
    return dictionary(model=dictionary(args=dictionary(net=dictionary(args=net), pi_head_opts=head)))


# Instructions for tuples that overflow C's stack when hashed, or take 2^60 steps to hash, compare or print.
ODD = {
    "nested": b")" + b"\x85" * 150_000,
    "doubling": b")" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "place",
    [
        lambda odd: odd,
        lambda odd: odd + b"Q",
        lambda odd: reference(kind=odd),
        lambda odd: reference(name=odd),
        lambda odd: reference(key=odd),
        lambda odd: reference(count=odd),
        lambda odd: reference(more=odd),
        lambda odd: b"ccollections\nOrderedDict\n" + odd + b"R",
        lambda odd: odd + odd + b"R",
        lambda odd: b"ctorch._utils\n_rebuild_tensor_v2\n" + odd + b"R",
        lambda odd: b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference() + odd * 3 + b"tR",
        lambda odd: b"}" + odd + b"K\x01s",
    ],
)
def test_no_tuple_hangs_or_crashes_the_reader_of_weights(tmp_path, place, odd):
    """(attack M4) Values of a pickle are neither hashed nor compared before their type is known."""
    write_zip(tmp_path / "a.weights", b"\x80\x04" + place(odd) + b".")
    with pytest.raises(WeightsFileError, match=r"a\.weights"):
        WeightsFile(tmp_path / "a.weights")


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "place",
    [
        lambda odd: odd,
        lambda odd: settings(net=odd),
        lambda odd: settings(net=dictionary(hidsize=odd)),
        lambda odd: settings(head=dictionary(temperature=odd)),
        lambda odd: settings(net=b"](" + text("a") + odd + b"\x86e"),
        lambda odd: settings(net=b"](" + odd + text("a") + b"\x86e"),
    ],
)
def test_no_tuple_hangs_or_crashes_the_reader_of_settings(tmp_path, place, odd):
    """(attack M4) Settings are dictionaries of a few small values."""
    (tmp_path / "a.model").write_bytes(b"\x80\x04" + place(odd) + b".")
    with pytest.raises(WeightsFileError, match=r"a\.model"):
        read_model(tmp_path / "a.model")


def test_handwritten_settings_are_read(tmp_path):
    """The handwritten instructions of these tests are valid without their odd tuples."""
    (tmp_path / "a.model").write_bytes(b"\x80\x04" + settings() + b".")
    assert read_model(tmp_path / "a.model") == ModelSettings({"hidsize": 8}, {})


def shared(count, size, shape):
    """The pickle of tensors that all share one storage."""
    one = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference(count=_number(size)) + _number(0)
    one += _tuple(map(_number, shape)) + _tuple(map(_number, [1])) + b"\x89}tR"
    return b"\x80\x04" + dictionary(**{f"t{i}": one for i in range(count)}) + b"."


def test_a_storage_that_tensors_share_is_read_once(tmp_path, monkeypatch):
    """(attack M4) 200 tensors that shared 64 MB once took 13 GB of reading."""
    read, count, size = [], [], 10_000
    write_zip(tmp_path / "a.weights", shared(200, size, [2]), **{"archive/data/0": bytes(4 * size)})
    with WeightsFile(tmp_path / "a.weights") as weights:
        monkeypatch.setattr(
            weights, "_read", lambda member, before=weights._read: read.append(member) or before(member)
        )
        weights.on_read = count.append
        assert [weights[name].shape for name in weights] == [(2,)] * 200
        assert sum(count) == weights.nbytes == 4 * size
    assert read == ["archive/data/0"]


def test_total_size_of_tensors_with_shared_storages_is_limited(tmp_path):
    size = 10_000
    write_zip(tmp_path / "a.weights", shared(200, size, [size]), **{"archive/data/0": bytes(4 * size)})
    with pytest.raises(WeightsFileError, match=r"a\.weights: its tensors share storages, .* 8,000,000 bytes"):
        WeightsFile(tmp_path / "a.weights")


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_is_a_weights_file_error(tmp_path, seed):
    """(attack L4) Other zip versions and methods, and undecodable names, once raised uncaught errors of zipfile."""
    random, whole = np.random.default_rng(seed), BY_TORCH.read_bytes()
    heads = [i for i in range(len(whole)) if whole[i : i + 2] == b"PK"]
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            place = random.choice(heads) + random.integers(46) if seed % 2 else random.integers(len(data))
            data[min(place, len(data) - 1)] = random.integers(256)
        (tmp_path / "a.weights").write_bytes(data)
        with suppress(WeightsFileError), WeightsFile(tmp_path / "a.weights") as weights:
            for name in weights:
                _ = weights[name]


def test_special_files_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_model, WeightsFile):
        for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
            with pytest.raises(WeightsFileError, match="is not a regular file but"):
                read(path)


def test_control_characters_of_names_in_a_pickle_are_escaped(tmp_path):
    """(attack M8) The names are part of an error message."""
    (tmp_path / "a.model").write_bytes(b"\x80\x04c\x1b]0;pwned\x07\nx\n.")
    with pytest.raises(WeightsFileError, match=r"tries to import \\x1b\]0;pwned\\x07\.x, which"):
        read_model(tmp_path / "a.model")
