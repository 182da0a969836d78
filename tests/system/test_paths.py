"""URLs in place of local paths are refused before any file is created: fields, flags, functions (scale 1.2, row 1)."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vpt_jax import PolicyAgent
from vpt_jax.curation.download.contractor import download
from vpt_jax.data.dataset import load_index
from vpt_jax.data.manifest import read_segments
from vpt_jax.openai.convert import export_weights, import_weights
from vpt_jax.system.paths import URL_FIELDS, RemotePathError, local_path, refuse_remote_paths, refuse_remote_settings
from vpt_jax.system.workers import locked
from vpt_jax.training.checkpoints import Checkpoints, load_idm, load_model, load_policy

ROOT = Path(__file__).parents[2]
SHARED = ("base", "rl_base")  # other configs extend them
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py") if path.stem not in SHARED)
BUCKET = "gs://bucket/run"
# Fields that a program opens, and the configs that have them.
PATHS = {
    "data": ("data", "out", "recordings", "idm", "other", "manifest", "titles"),
    "demo": ("workdir", "train_idm", "train_policy", "label", "record"),
    "demo_rl": ("workdir", "policy", "train", "evaluate"),
    "explored": ("workdir", "record", "train_idm", "label", "train_policy", "evaluate", "score"),
    "evaluate": ("policies", "out", "game.python"),
    "follow": ("workdir", "game.python"),
    "filter": ("classifier", "labelled", "videos", "out", "weights"),
    "foundation": (
        "workdir",
        "init_from",
        "profile_dir",
        "data.train",
        "data.valid",
        "data.segments",
        "data.embeddings",
    ),
    "idm": ("workdir", "init_from", "profile_dir", "data.train", "data.valid", "data.segments"),
    "label": ("videos", "idm", "out"),
    "play": ("policy", "out", "game.python"),
    "prepare": ("recordings", "out", "contractor.index"),
    "record": ("out",),
    "rl_doom": ("workdir", "init_from", "profile_dir", "game.python"),
    "web": ("out", "cookies"),
}


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


def text_fields(config, prefix=""):
    """Pairs of the name of a field that can hold a string, and a function from a string to the field's value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from text_fields(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            yield f"{prefix}{name}", lambda text: text
        elif isinstance(value, tuple) and (not value or isinstance(value[0], str)):
            yield f"{prefix}{name}", lambda text: ("first", f"NAME={text}")


def test_every_path_field_exists():
    for name, fields in PATHS.items():
        existing = dict(text_fields(config_of(name)))
        assert set(fields) <= set(existing), name


@pytest.mark.parametrize("name", CONFIGS)
def test_a_url_is_refused_in_every_field_of_every_config(name):
    """New fields as well, unless URL_FIELDS lists them (scale row 1)."""
    refuse_remote_paths(config_of(name))
    fields = dict(text_fields(config_of(name)))
    assert set(PATHS.get(name, ())) <= set(fields)
    for field, value_from in fields.items():
        if field in URL_FIELDS and URL_FIELDS[field] is None:
            continue
        config = config_of(name)
        with config.unlocked():
            config.update_from_flattened_dict({field: value_from(BUCKET)})
        with pytest.raises(
            RemotePathError, match=rf"^config\.{field} is '.*gs://bucket/run', which is not a local path: "
        ):
            refuse_remote_paths(config)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ("prepare", "contractor.index", "https://host/snapshots/all_6xx_Jun_29.json"),
        ("prepare", "contractor.index", "file:///mirror/index.json"),
        ("prepare", "beam.options", ("--temp_location=gs://bucket/temporary",)),
        ("web", "urls", ("https://host/channel/videos",)),
        ("web", "search", "https://host/feed?q={term}"),
        ("rl_doom", "game.cluster", "ray://head:10001"),
        ("label", "videos", "/mnt/bucket/a folder: with colons/x"),
        ("label", "out", r"C:\videos"),
        ("evaluate", "policies", ("gs=runs/one", "runs/two")),
    ],
)
def test_local_paths_and_allowed_urls_are_accepted(config, field, value):
    settings = config_of(config)
    settings.update_from_flattened_dict({field: value})
    refuse_remote_paths(settings)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("gs://bucket/a/run", "gcsfuse bucket FOLDER"),
        ("gs://bucket/a/run", "gcloud storage cp --recursive gs://bucket/a/run FOLDER"),
        ("GS://bucket/a/run", "gcsfuse bucket FOLDER"),
        (Path("gs://bucket/a/run"), "gcloud storage cp --recursive gs://bucket/a/run FOLDER"),
        (Path("gs://bucket/run").absolute(), "gcsfuse bucket FOLDER"),
        ("s3://bucket/a/run", "mount-s3 bucket FOLDER"),
        ("https://host/a.weights", "curl --location --remote-name https://host/a.weights"),
        ("file:///data/run", "without file://"),
        ("hdfs://node:9000/run", "mount it as a folder"),
        ("tape://7/run", "mount it as a folder"),
    ],
)
def test_the_message_is_one_line_with_the_remedy(path, remedy):
    with pytest.raises(RemotePathError) as caught:
        local_path(path)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_library_functions_refuse_urls_and_create_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of("prepare")
    config.recordings, config.contractor.index = BUCKET, "https://host/index.json"
    calls = [
        lambda path: PolicyAgent.load(path),
        lambda path: load_policy(path),
        lambda path: load_idm(path),
        lambda path: load_model(path),
        lambda path: Checkpoints(Path(path), 1, 0.0, {}),
        lambda path: import_weights("a.model", "a.weights", path),
        lambda path: import_weights(path, "a.weights", "run"),
        lambda path: import_weights("a.model", path, "run"),
        lambda path: export_weights("run", path + "/a.weights"),
        lambda path: export_weights(path, "a.weights"),
        lambda path: load_index(Path(path), "train"),
        lambda path: read_segments(Path(path)),
        lambda path: locked(Path(path)).__enter__(),
        lambda path: download(config),
    ]
    for call in calls:
        with pytest.raises(RemotePathError, match="gcsfuse bucket FOLDER"):
            call(BUCKET)
    assert not list(tmp_path.iterdir())


def test_cluster_launchers_check_the_fields_of_the_program():
    """URLs are refused where the job is submitted, and not by every restart on the cluster."""
    refuse_remote_settings(["launch/prepare.py", "--config.contractor.index=https://host/i.json", "--name=docker://x"])
    with pytest.raises(RemotePathError, match=r"^config\.data\.train is 'gs://bucket/run'"):
        refuse_remote_settings(["launch/train.py", f"--config.data.train={BUCKET}"])
    with pytest.raises(RemotePathError, match=r"^--config is 'gs://bucket/run'"):
        refuse_remote_settings([f"--config={BUCKET}"])


def run(program, *flags, cwd):
    return subprocess.run(
        [sys.executable, str(ROOT / program), *flags], cwd=cwd, capture_output=True, text=True, check=False
    )


def assert_refused(ended, folder, name):
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith(f"error: {name} is 'gs://bucket/run', which is not a local path: ")
    assert "Traceback" not in ended.stderr
    assert not list(folder.iterdir())


def test_a_program_ends_with_one_line_and_creates_no_folder(tmp_path):
    config = f"--config={ROOT / 'configs/web.py'}"
    assert_refused(run("launch/collect.py", config, f"--config.out={BUCKET}", cwd=tmp_path), tmp_path, "config.out")


PROGRAMS = [
    ("train", "foundation", "workdir"), ("train", "rl_doom", "init_from"), ("label", "label", "out"),
    ("prepare", "prepare", "recordings"), ("filter", "filter", "classifier"), ("evaluate", "evaluate", "out"),
    ("play", "play", "policy"), ("record", "record", "out"), ("compile", "idm", "init_from"),
    ("pipeline", "demo", "workdir"), ("pipeline_rl", "demo_rl", "policy"), ("data", "data", "data"),
    ("explored", "explored", "workdir"),
]  # fmt: skip


@pytest.mark.slow  # a minute, all of it importing
@pytest.mark.parametrize(("program", "config", "field"), PROGRAMS)
def test_every_program_refuses_urls_in_its_config(tmp_path, program, config, field):
    command = ["validate"] if program == "data" else []
    flags = [f"--config={ROOT / 'configs' / config}.py", f"--config.{field}={BUCKET}"]
    assert_refused(run(f"launch/{program}.py", *command, *flags, cwd=tmp_path), tmp_path, f"config.{field}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flags", "name"),
    [
        ("import_weights", ["--model=a", "--weights=b", f"--out={BUCKET}"], "--out"),
        ("export_weights", [f"--run={BUCKET}", "--out=a.weights"], "--run"),
        ("bench", ["loader", f"--data={BUCKET}"], "--data"),
        ("bench", ["decode", f"--recordings={BUCKET}"], "--recordings"),
        ("train", [f"--config={BUCKET}"], "--config"),
        ("pods/gke", ["--image=x", "--claim=c", "--dry_run", "--", "a.py", f"--config.workdir={BUCKET}"],
         "config.workdir"),
        ("pods/slurm", ["--dry_run", "--", "a.py", f"--config.workdir={BUCKET}"], "config.workdir"),
    ],
)  # fmt: skip
def test_every_program_refuses_urls_in_its_flags(tmp_path, program, flags, name):
    assert_refused(run(f"launch/{program}.py", *flags, cwd=tmp_path), tmp_path, name)
