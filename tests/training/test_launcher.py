"""Error messages of the launcher: wrong flags, a diverging loss, a work directory in use."""

import pytest

from vpt_jax.system.workers import locked


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.data.train=/nowhere"], "python launch/prepare.py --config.recordings=RECORDINGS"),
        (
            ["--config.model.preset=4x"],
            "config.model.preset is '4x'; choose one of nano, tiny, 1m, 5m, 20m, 1x, 2x, 3x",
        ),
        (["--config.mesh.fsdp=3"], "does not fit 1 devices"),
        (["--config.data.segments=/none.parquet"], "config.data: /none.parquet is not a manifest"),
        (["--config.data.null_actions=skip"], "choose one of drop, mask, keep"),
        (["--config.model.dtype=bf16"], "config.model.dtype is 'bf16'; choose one of float32, bfloat16"),
        (["--config.save_every=0"], "config.save_every must be 1 or more"),
        (["--config.steps=2"], "config.optimizer.warmup_steps is 2, and the run has 2 steps"),
        (["--config.data.batch=80"], "batch x length = 480 frames, and the training data have"),
        (["--config.data.workers=-1"], "config.data.workers must not be negative"),
        (["--config.data.bacth=3"], "the config has no field data.bacth; did you mean config.data.batch?"),
        (["--data.batch=3"], "--config.FIELD=VALUE"),
    ],
)
def test_invalid_flags_are_explained_without_a_traceback(launcher, tmp_path, flags, message):
    output = launcher.run(tmp_path, *flags, expected=1)
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/foundation.py:17m"], "has no variant '17m'; choose one of 500m"),
        (["--config=configs/fundation.py"], "configs/fundation.py"),
        (["--config.bacth=3"], "the config has no field bacth; did you mean config.data.batch?"),
    ],
)
def test_an_invalid_config_is_explained_in_one_line(launcher, tmp_path, flags, message):
    error = launcher.run(tmp_path, *flags, bare=True, expected=1).splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


def test_an_infinite_loss_stops_the_run_and_names_step_and_episodes(launcher, tmp_path):
    output = launcher.run(tmp_path, "--config.optimizer.learning_rate=1e30", "--config.save_every=1", expected=1)
    assert "error: step " in output
    assert "train" in output.split("the batch holds frames of: ")[1]
    assert "nan" not in (tmp_path / "metrics.jsonl").read_text().lower()


def test_a_work_directory_is_locked_by_its_run(launcher, tmp_path):
    with locked(tmp_path):
        output = launcher.run(tmp_path, expected=1)
    assert output.splitlines()[-1] == f"error: another run is working on {tmp_path}: wait until it has finished"
