"""Lists of datasets in a config: texts and objects, and the errors of what is neither."""

import pytest

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.data.entries import MIXTURE_OPTIONS, VALID_OPTIONS, DatasetEntry, read_entries, read_mapping
from vpt_jax.system.errors import ConfigError


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


def test_a_mapping_is_read_from_its_file(tmp_path):
    file = tmp_path / "mapping.json"
    file.write_text('{"keys": {"w": "forward"}, "axes": {"x": {"to": "yaw", "factor": 0.5}}}')
    assert read_mapping(file) == ActionMapping((("w", "forward"),), (("x", "yaw", 0.5),))


@pytest.mark.parametrize("text", ['{"keys": 3}', "{", "[" * 100_000, "\xff", " " * (2**20 + 1)])
def test_a_damaged_mapping_is_named(tmp_path, text):
    file = tmp_path / "mapping.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"mapping\.json is not an action mapping"):
        read_mapping(file)


def test_a_missing_mapping_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no action mapping .*none\.json"):
        read_mapping(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is not an action mapping: it is not a file"):
        read_mapping(tmp_path)
