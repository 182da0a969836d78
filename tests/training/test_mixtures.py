"""Runs on several datasets through the launcher: metrics of every validation set, report, exact resuming, errors."""

import json

import pytest
from ml_collections import ConfigDict

from configs import foundation, idm
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.data.mixture import WindowMixture
from vpt_jax.programs.supervised import describe_mixture, open_data
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import load_policy

from ..data.tiny import write_dataset
from .conftest import kill, wait_until
from .test_resume import assert_same_run

GAME = ActionSpace("game", ("w", "lmb"), (Axis("x", "pixels"),))
MAPPING = {"keys": {"w": "forward", "lmb": "attack"}, "axes": {"x": {"to": "yaw", "factor": 0.5}}}


@pytest.fixture(scope="module")
def folders(dataset_dir, tmp_path_factory):
    """Datasets by name, and an action mapping: recordings, another set of the same size, and one of another game."""
    root = tmp_path_factory.mktemp("several")
    (root / "mapping.json").write_text(json.dumps(MAPPING))
    return {
        "hired": dataset_dir,
        "web": write_dataset(root / "web", (50, 70), splits=("train", "valid"), size=32, seed=1),
        "game": write_dataset(root / "game", (40, 30), splits=("train", "valid", "test"), space=GAME, size=32, seed=2),
        "mapping": root / "mapping.json",
    }


@pytest.fixture(scope="module")
def flags(folders):
    mixture = (
        {"name": "hired", "dataset": str(folders["hired"]), "weight": 3},
        {"dataset": str(folders["game"]), "mapping": str(folders["mapping"])},
    )
    valid_sets = (
        f"hired={folders['hired']}",
        {"name": "game", "dataset": str(folders["game"]), "mapping": str(folders["mapping"])},
    )
    return [f"--config.data.mixture={mixture}", f"--config.data.valid_sets={valid_sets}"]


def test_a_run_on_two_games_evaluates_each_and_reports_them(launcher, flags, tmp_path):
    output = launcher.run(tmp_path, *flags, "--config.steps=5", "--config.report=True")
    assert "hired: 7 episodes, " in output
    assert ", 75.0% of the batch, read " in output
    assert ", 25.0% of the batch, read " in output
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (evaluation,) = [line for line in lines if "valid_hired/nll" in line]
    assert {name.split("/")[0] for name in evaluation} == {"step", "valid_hired", "valid_game", "marginal_hired",
                                                           "marginal_game", "repeat_hired", "repeat_game"}  # fmt: skip
    assert evaluation["valid_hired/frames"] != evaluation["valid_game/frames"]
    assert "validation NLL of hired " in output
    assert "validation NLL of game " in output
    page = (tmp_path / "report.html").read_text()
    assert "Training data, game" in page
    assert "Held-out data, hired" in page
    assert "Learning curves: game" in page
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["data"]["mixture"][1]["mapping"].endswith("mapping.json")
    assert load_policy(tmp_path).step == 5
    output = launcher.run(tmp_path, flags[1], "--config.steps=5", expected=1)  # without the mixture
    assert "holds a run with other settings" in output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["policy", "idm"])
def test_a_killed_run_on_a_mixture_resumes_identically(launcher, idm_launcher, flags, tmp_path, kind):
    starter = launcher if kind == "policy" else idm_launcher
    starter.run(tmp_path / "whole", *flags)
    process = starter.start(tmp_path / "killed", *flags)
    wait_until(lambda: (tmp_path / "killed" / "checkpoints" / "4").exists(), process)
    kill(process)
    output = starter.run(tmp_path / "killed", *flags, "--config.data.workers=2")
    assert "resumed from step" in output
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def config_of(module, folders, **data):
    config = module.get_config()
    only = {"train": str(folders["hired"]), "valid": str(folders["hired"])}
    config.data.update(ConfigDict(only | {"batch": 8, "valid_batch": 8, "length": 6} | data))
    return config


def test_windows_are_drawn_by_exact_weights(folders):
    entries = (f"a={folders['hired']}", {"name": "b", "dataset": str(folders["web"]), "weight": 0.1})
    train = open_data(config_of(idm, folders, mixture=entries)).train
    assert isinstance(train, WindowMixture)
    assert [part.share for part in train.parts] == pytest.approx([10 / 11, 1 / 11])
    assert describe_mixture(train, 10)["b"].startswith("2 episodes, 120 frames, 9.1% of the batch, read 0.36 times")


def test_one_dataset_is_read_as_before(folders):
    data = open_data(config_of(foundation, folders))
    assert list(data.valid) == [""]
    assert "dataset1.kept_frames" not in data.train.fingerprint()
    assert describe_mixture(data.train, 10) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batch": 1}, "config.data.batch: a batch of 1 rows is too small for 2 datasets"),
        ({"minutes": 1.0}, "config.data.minutes is for the dataset of config.data.train, and config.data.mixture is"),
        ({"segments": "s.parquet"}, "config.data.segments is for the dataset"),
        ({"mixture": ({"dataset": "HIRED", "mapping": "MAPPING"},)}, "the first entry, which has the run's action"),
        ({"mixture": ("HIRED", {"dataset": "WEB", "mapping": "/none.json"})}, "no action mapping '/none.json'"),
        ({"mixture": ("HIRED", {"dataset": "WEB", "mapping": "MAPPING"})}, "config.data, web: the action mapping is "),
        ({"mixture": ("HIRED", {"dataset": "WEB", "minutes": 99})}, "config.data, web: .* there are 0.1 minutes"),
        ({"mixture": ("HIRED", "GAME")}, "dataset has the action space 'minerl', and game has 'game': keys: only"),
        ({"valid_sets": ("GAME",)}, "the training data has the action space 'minerl', and game has 'game'"),
        ({"valid_sets": ({"dataset": "WEB", "weight": 1},)}, "config.data.valid_sets, entry 1 has the unknown field"),
        ({"test": "GAME"}, r"minerl', and config\.data\.test has 'game'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(folders, data, message):
    def filled(value):
        if isinstance(value, tuple):
            return tuple(map(filled, value))
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        return str(folders.get(str(value).lower(), value)) if isinstance(value, str) else value

    data = {"mixture": ("HIRED", "WEB")} | data
    with pytest.raises(ConfigError, match=message):
        open_data(config_of(foundation, folders, **{name: filled(value) for name, value in data.items()}))


def test_validation_frames_of_another_size_are_refused(folders, tmp_path):
    small = write_dataset(tmp_path / "small", (30,), splits=("train", "valid"), size=16)
    with pytest.raises(ConfigError, match="of the training data are 32x32, and those of small are 16x16"):
        open_data(config_of(foundation, folders, valid_sets=(str(small),)))
    with pytest.raises(ConfigError, match=r"those of config\.data\.valid are 16x16"):
        open_data(config_of(foundation, folders, valid=str(small)))
