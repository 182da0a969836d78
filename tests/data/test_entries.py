"""Lists of datasets in a config: texts and objects, and the errors of what is neither."""

import json

import pytest

from configs import foundation
from tests.data.tiny import write_dataset
from vpt_jax.actions.spaces import DOOM, load_mapping
from vpt_jax.data.entries import MIXTURE_OPTIONS, VALID_OPTIONS, DatasetEntry, read_entries
from vpt_jax.programs.supervised import open_stream
from vpt_jax.system.errors import ConfigError, UserError


def read(*values, options=MIXTURE_OPTIONS):
    return read_entries(values, "config.data.mixture", options)


def test_texts_and_objects_are_read():
    assert read() == ()
    assert read("runs/web/", "hired=/data/a=b: c, d") == (
        DatasetEntry("web", "runs/web/"),
        DatasetEntry("hired", "/data/a=b: c, d"),
    )
    full = {"name": "doom", "dataset": "x=y", "weight": 2, "mapping": "m.json", "segments": "s.parquet", "minutes": 3}
    assert read(full, {"dataset": "data/c"}) == (
        DatasetEntry("doom", "x=y", 2, "m.json", "s.parquet", 3),
        DatasetEntry("c", "data/c", 1.0),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("runs/a", "config.data.mixture is 'runs/a': give a tuple of datasets"),
        (7, "config.data.mixture is 7: give a tuple"),
        (("a", 3), "config.data.mixture, entry 2 is 3: give FOLDER, NAME=FOLDER, or {'dataset': FOLDER, ...}"),
        (("",), "entry 1 is ''"),
        (({},), "entry 1 has no `dataset`"),
        (({"dataset": ""},), "entry 1 has no `dataset`"),
        (({"dataset": 5},), "entry 1: `dataset` is 5, and must be a text"),
        (({"dataset": "a", "wieght": 1},), "entry 1 has the unknown field 'wieght'; known: name, dataset, weight"),
        (({"dataset": "a", "weight": 0},), "entry 1: `weight` is 0, and must be a number of 1e-06 to 1e+06"),
        (({"dataset": "a", "weight": float("nan")},), "`weight` is nan"),
        (({"dataset": "a", "weight": float("inf")},), "`weight` is inf"),
        (({"dataset": "a", "weight": True},), "`weight` is True"),
        (({"dataset": "a", "weight": "3"},), "`weight` is '3'"),
        (({"dataset": "a", "minutes": -1},), "`minutes` is -1"),
        (({"dataset": "a", "mapping": {}},), "`mapping` is {}, and must be a text"),
        (("my data",), "the name 'my data' has characters other than"),
        (("x/web", "y/web"), "config.data.mixture has two entries named 'web': give each a `name` of its own"),
    ],
)
def test_nonsense_is_refused_with_field_and_entry(values, message):
    with pytest.raises(ConfigError) as caught:
        read_entries(values, "config.data.mixture", MIXTURE_OPTIONS)
    assert message in str(caught.value)


def test_a_validation_set_has_no_weight():
    with pytest.raises(ConfigError, match="unknown field 'weight'; known: name, dataset, mapping"):
        read({"dataset": "a", "weight": 2}, options=VALID_OPTIONS)


def test_the_mapping_of_an_entry_is_built_in_or_a_file(tmp_path):
    data = write_dataset(tmp_path / "data", [9])
    config = foundation.get_config("demo")
    config.data.length = 4
    mapping = load_mapping("minerl-to-doom")
    (tmp_path / "mine.json").write_text(json.dumps(mapping.to_dict()))
    for name in ("minerl-to-doom", str(tmp_path / "mine.json")):
        stream = open_stream(config, DatasetEntry("minecraft", str(data), mapping=name), "train", 1, None, DOOM)
        assert (stream.space, stream.settings.mapping) == (DOOM, mapping)
    with pytest.raises(UserError, match="there is no action mapping 'quake': built in are minerl-to-doom"):
        open_stream(config, DatasetEntry("minecraft", str(data), mapping="quake"), "train", 1, None, DOOM)
