"""No arbitrary code execution: every loader of data and models is given folders that name a module."""

import json
import shutil
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import optax
import pytest

from configs import data as data_config
from configs import foundation, idm
from vpt_jax.curation.validation import diff, show, summarize, validate
from vpt_jax.data import dataset
from vpt_jax.data.embeddings import EmbeddedStream, Encoder, write_embeddings
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.metadata import _MAX_FEATURES_BYTES
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream
from vpt_jax.openai import convert
from vpt_jax.openai.pickle_reader import WeightsFile, WeightsFileError, read_model
from vpt_jax.training.checkpoints import Checkpoints, load_idm, load_policy
from vpt_jax.training.state import initial_state

from .tiny import edit_json, write_dataset

MODULE = "vpt_payload"  # in the folder itself, which is on sys.path


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("clean") / "data", [7, 8])


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that appears when the payload of `arm` is imported."""
    yield tmp_path / "executed"
    assert MODULE not in sys.modules
    assert not (tmp_path / "executed").exists()


def arm(folder, marker, monkeypatch):
    """Puts a module in a folder, and the folder on the path."""
    (folder / f"{MODULE}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)


CLASS = f"{MODULE}.Payload"


def all_classes(features):
    """Every class in features.json is the payload's."""
    features["pythonClassName"] = CLASS
    for feature in features["featuresDict"]["features"].values():
        feature["pythonClassName"] = CLASS


def one_feature(**feature):
    return lambda features: features["featuresDict"]["features"].update(camera=feature)


FEATURES = {
    "all classes": all_classes,
    "one class": lambda f: f["featuresDict"]["features"]["frames"].update(pythonClassName=CLASS),
    "another feature": lambda f: f["featuresDict"]["features"].update(more={"pythonClassName": CLASS}),
    "an installed module": lambda f: f.update(pythonClassName="antigravity.X"),
    "the old form": lambda f: f.update(type=CLASS, content={}),
    "the old form alone": lambda f: (f.clear(), f.update(type=CLASS, content={})),
    "a proto": lambda f: f.update(type="x.y", content={}, proto_cls=CLASS),
    "another type": one_feature(pythonClassName="tensorflow_datasets.core.features.image_feature.Image", image={}),
    "another shape": lambda f: f["featuresDict"]["features"]["buttons"]["tensor"].pop("shape"),
    "a feature less": lambda f: f["featuresDict"]["features"].pop("labels"),
}
FILES = {
    "deep": ("features.json", b"[" * 60_000),
    "deep object": ("features.json", b'{"a":' * 10_000),
    "large": ("features.json", b" " * _MAX_FEATURES_BYTES + b"{}"),
    "empty": ("features.json", b""),
    "no text": ("features.json", b"\xff\xfe{}"),
    "a long number": ("features.json", b"1" * 9_000),
    "null": ("features.json", b"null"),
    "deep info": ("dataset_info.json", b"[" * 60_000),
    "empty info": ("dataset_info.json", b""),
    "a list": ("dataset_info.json", b"[1]"),
}
INFO = {
    "a module": lambda info: info.update(moduleName=MODULE),
    "another format": lambda info: info.update(fileFormat=CLASS),
    "more formats": lambda info: info.update(alternativeFileFormats=["riegeli"]),
    "another name": lambda info: info.update(name="../vpt"),
    "another version": lambda info: info.update(version="1.0.0"),
    "another place": lambda info: info["splits"][0].update(filepathTemplate="/etc/{DATASET}-{SPLIT}.{SHARD_X_OF_Y}"),
    "a field of a split": lambda info: info["splits"][0].update(filename=CLASS),
    "no number": lambda info: info["splits"][0].update(shardLengths=["0x4"]),
    "a negative number": lambda info: info["splits"][0].update(shardLengths=["-4"]),
    "a large number": lambda info: info["splits"][0].update(shardLengths=["9" * 400]),
    "no text for a number": lambda info: info["splits"][0].update(shardLengths=[True]),
    "no list": lambda info: info.update(splits="train"),
    "a split that is none": lambda info: info.update(splits=["train"]),
    "no name": lambda info: info["splits"][0].pop("name"),
}


def hostile(clean, folder, case):
    """A copy of a dataset with one of its files changed; `case` is "features", "file" or "info", and a kind of it."""
    copy, (what, kind) = shutil.copytree(clean, folder), case
    if what == "features":
        edit_json(copy / "features.json", FEATURES[kind])
    elif what == "info":
        edit_json(copy / "dataset_info.json", INFO[kind])
    else:
        (copy / FILES[kind][0]).write_bytes(FILES[kind][1])
    return copy


CASES = [(what, kind) for what, kinds in {"features": FEATURES, "info": INFO, "file": FILES}.items() for kind in kinds]


@pytest.mark.parametrize("case", CASES, ids=": ".join)
def test_foreign_metadata_is_refused(clean, tmp_path, marker, monkeypatch, case):
    """Rejected before TFDS reads it, which imports what features.json names (attack H1)."""
    data = hostile(clean, tmp_path / "data", case)
    arm(data, marker, monkeypatch)
    file = {"features": "features.json", "info": "dataset_info.json"}.get(case[0]) or FILES[case[1]][0]
    with pytest.raises(DatasetDamagedError, match=file.replace(".", r"\.")):
        dataset.open_records(data, "train")


def settings(data):
    return StreamSettings(str(data), "train", batch=1, length=4, nulls="keep")


def inspect(data, **changes):
    config = data_config.get_config()
    config.update(data=str(data), out=str(data.parent / "out"), workers=1, **changes)
    return config


def embedded(data):
    folder = data.parent / "embeddings"
    folder.mkdir()
    np.save(folder / "train.npy", np.zeros((15, 2), np.float32))
    EmbeddedStream(settings(data), folder, "").read(0, [0])


LOADERS = {
    "records": lambda data: dataset.open_records(data, "train")[0],
    "records without checks": lambda data: dataset.open_records_unchecked(data, "train")[0],
    "a stream": lambda data: Stream(settings(data)).read(0, [0]),
    "windows": lambda data: WindowStream(settings(data)).read(0, [0]),
    "embeddings": embedded,
    "embedding": lambda data: write_embeddings(settings(data), Encoder(len, "", 2), data.parent / "made"),
    "joining": lambda data: dataset.join_datasets(data.parent / "joined", [data], "train"),
    "checking": dataset.check_dataset,
    "validate": lambda data: validate.validate(inspect(data)),
    "show": lambda data: show.show(inspect(data)),
    "diff": lambda data: diff.diff(inspect(data, other=str(data))),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_of_data_executes_anything(clean, tmp_path, marker, monkeypatch, loader):
    """All of them refuse the folder (attack H1)."""
    data = hostile(clean, tmp_path / "data", ("features", "all classes"))
    arm(data, marker, monkeypatch)
    with pytest.raises(DatasetDamagedError, match=r"features\.json"):
        LOADERS[loader](data)


def test_readers_of_the_index_alone_execute_nothing(clean, tmp_path, marker, monkeypatch):
    """Labels and statistics come from arrays and need no metadata (attack H1)."""
    data = hostile(clean, tmp_path / "data", ("features", "all classes"))
    arm(data, marker, monkeypatch)
    assert len(dataset.load_index(data, "train").buttons) == 15
    assert summarize.summarize(inspect(data))["splits"]["train"]["frames"] == 15


def renamed(value):
    """The JSON value with every string that could name code replaced by the payload's name."""
    if isinstance(value, Mapping):
        return {name: renamed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner) for inner in value]
    return CLASS if isinstance(value, str) and ("." in value or value.isidentifier()) else value


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Work directories of a policy and of an inverse dynamics model, with one parameter each."""
    folders = []
    for config in (foundation.get_config("demo"), idm.get_config("demo")):
        config.model.preset = "nano"
        folder = tmp_path_factory.mktemp("run")
        metadata = {"stream": {"frame_shape": [8, 8, 3], "length": 4}, "model": {}, "optimizer": {}}
        metadata["config"] = json.loads(config.to_json())
        checkpoints = Checkpoints(folder / "checkpoints", keep_last=1, keep_every_hours=0.0, metadata=metadata)
        checkpoints.save(initial_state({"w": np.ones(2, np.float32)}, optax.sgd(0.1), (), np.zeros(2, np.uint32)), 1)
        checkpoints.close()
        folders.append(folder)
    return folders


def export(workdir):
    convert.export_weights(workdir, workdir / "out.weights")


@pytest.mark.parametrize("load", [load_policy, load_idm, export])
def test_no_loader_of_models_executes_anything(workdirs, tmp_path, marker, monkeypatch, load):
    """All JSON files of a checkpoint name the payload, or one of them at a time (attack H1)."""
    for number, workdir in enumerate(workdirs[load is load_idm :][:1]):
        files = [path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file() and is_json(path)]
        assert len(files) > 3
        for chosen in (files, *([file] for file in files if load is not export)):
            copy = shutil.copytree(workdir, tmp_path / f"run{number}")
            for file in chosen:
                (copy / file).write_text(json.dumps(renamed(json.loads((copy / file).read_text()))))
            arm(copy, marker, monkeypatch)
            with suppress(Exception):  # the result does not matter here
                load(copy)
            assert not marker.exists()
            shutil.rmtree(copy)


def test_no_import_of_weights_executes_anything(tmp_path, marker, monkeypatch):
    """Pickles that name the payload as a class, and call it (attack H1)."""
    for code in (b"c%s\nPayload\n." % MODULE.encode(), b"\x80\x02c%s\nPayload\n)R." % MODULE.encode()):
        (tmp_path / "x.model").write_bytes(code)
        with zipfile.ZipFile(tmp_path / "x.weights", "w") as archive:
            archive.writestr("archive/data.pkl", code)
        arm(tmp_path, marker, monkeypatch)
        with pytest.raises(WeightsFileError):
            read_model(tmp_path / "x.model")
        with pytest.raises(WeightsFileError):
            WeightsFile(tmp_path / "x.weights")
        with pytest.raises(WeightsFileError):
            convert.import_weights(tmp_path / "x.model", tmp_path / "x.weights", tmp_path / "run")


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True
