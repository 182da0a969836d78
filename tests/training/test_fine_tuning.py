"""Fine-tuning from trained parameters: frozen parameters, precomputed embeddings, error messages."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.training.conftest import ROOT
from tests.training.test_resume import final_state
from vpt_jax.data.embeddings import EmbeddedStream, EmbeddingsMismatchError, Encoder, write_embeddings
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.training.checkpoints import load_policy


@pytest.fixture(scope="session")
def tune(launcher, uninterrupted, dataset_dir):
    """Fine-tunes the policy of `uninterrupted`."""
    flags = [
        "--config=configs/fine_tuning.py:demo", "--config.model.preset=nano",
        f"--config.init_from={uninterrupted}", "--config.data.batch=8",
        f"--config.data.train={dataset_dir}", f"--config.data.valid={dataset_dir}", "--config.data.valid_batch=8",
        "--config.data.length=6", "--config.data.workers=0", "--config.steps=3", "--config.log_every=1",
        "--config.save_every=1", "--config.report=False",
    ]  # fmt: skip
    return lambda workdir, *more, **options: launcher.run(workdir, *flags, *more, bare=True, **options)


@pytest.fixture(scope="session")
def frozen(tune, tmp_path_factory):
    """Run with frozen image stacks."""
    workdir = tmp_path_factory.mktemp("frozen")
    tune(workdir, "--config.frozen_pattern=^encoder/")
    return workdir


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines for name in ("train/loss", "train/gradient_norm", "valid/nll") if name in line]


def test_frozen_parameters_stay_bit_identical_and_others_are_trained(frozen, uninterrupted):
    before, after = load_policy(uninterrupted).params, load_policy(frozen).params
    for part in before:
        same = jax.tree.leaves(jax.tree.map(np.array_equal, before[part], after[part]))
        assert all(same) if part == "encoder" else not all(same) or part == "value", part
    moments = [leaf.size for leaf in jax.tree.leaves(final_state(frozen, 3)["opt_state"])]
    trained = sum(leaf.size for part in before for leaf in jax.tree.leaves(before[part]) if part != "encoder")
    assert 2 * trained <= sum(moments) < 2 * trained + 10


def test_training_on_embeddings_gives_the_same_losses(tune, frozen, tmp_path):
    flag = f"--config.data.embeddings={tmp_path / 'embeddings'}"
    output = tune(tmp_path / "run", flag)
    assert "embedding train: 100%" in output
    assert len(losses(frozen)) == 7
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(frozen), rtol=1e-5)
    load_policy(tmp_path / "run")
    again = tune(tmp_path / "run", flag, "--config.steps=4", "--config.report=True")
    assert "resumed from step 3" in again
    assert "embedding train" not in again
    assert (tmp_path / "run" / "film.mp4").exists()


def encoder(count, fails_after=10**9):
    def embed(frames):
        count.append(len(frames))
        if len(count) > fails_after:
            raise KeyboardInterrupt
        return frames.reshape(len(frames), -1)[:, :5] / 2

    return Encoder(embed, "digest", 5)


def test_embedding_resumes_where_it_was_killed(dataset_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("vpt_jax.data.embeddings._SAVE_EVERY", 1)
    settings = StreamSettings(str(dataset_dir), "train", 2, 16, nulls="drop", seed=3)
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(settings, encoder([], fails_after=4), tmp_path)
    count = []
    write_embeddings(settings, encoder(count), tmp_path)
    write_embeddings(settings, encoder(count), tmp_path)
    assert len(count) == -(-400 // 64) - 4
    embedded = EmbeddedStream(settings, tmp_path, "digest").read(1, [0, 1])
    plain = Stream(settings).read(1, [0, 1])
    np.testing.assert_array_equal(embedded.frames, plain.frames.reshape(2, 16, -1)[..., :5] / 2)
    for name in ("buttons", "camera", "first", "valid"):
        np.testing.assert_array_equal(getattr(embedded, name), getattr(plain, name))
    with pytest.raises(
        EmbeddingsMismatchError,
        match=r"other settings: encoder .*another --config\.data\.embeddings",
    ):
        write_embeddings(settings, encoder(count)._replace(digest="new"), tmp_path)


def test_embeddings_belong_to_the_content_of_a_dataset(dataset_dir, tmp_path):
    """A moved or touched dataset is the same one; one with other records of the same size is not."""
    moved, count = tmp_path / "moved", []
    settings = StreamSettings(str(dataset_dir), "train", 2, 16)
    write_embeddings(settings, encoder(count), tmp_path / "embeddings")
    shutil.copytree(dataset_dir, moved)
    settings, embedded = dataclasses.replace(settings, dataset=str(moved)), len(count)
    write_embeddings(settings, encoder(count), tmp_path / "embeddings")
    assert len(count) == embedded
    (shard,) = moved.glob("*train.array_record*")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(EmbeddingsMismatchError, match=r"other settings: records was .*Remove it"):
        write_embeddings(settings, encoder(count), tmp_path / "embeddings")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["init_from=", "frozen_pattern=encoder"], "keep parameters as config.init_from has them, and that is empty"),
        (["frozen_pattern=nothing"], "config.frozen_pattern: 'nothing' matches no parameters; paths are actions/"),
        (["frozen_pattern=."], "config.frozen_pattern: '.' matches all parameters"),
        (["init_from=nowhere"], "config.init_from: nowhere holds no checkpoint"),
        (["model.temperature=2.0"], "config.model.temperature is 2.0, and the model in"),
        (["frozen_pattern=("], "config.frozen_pattern: '(' is not a valid regular expression"),
        (
            ["model.preset=1x", "data.embeddings=unused"],
            "is not of config.model.preset='1x', or was trained on frames of another size than the data's",
        ),
    ],
)
def test_invalid_fields_are_named(tune, tmp_path, flags, message):
    output = tune(tmp_path, *(f"--config.{flag}" for flag in flags), expected=1)
    assert message in output, output
    assert "Traceback" not in output


@pytest.mark.slow  # five minutes: real play is recorded, and trained on twice
def test_fine_tuning_on_a_narrower_set_lowers_its_loss(tmp_path):
    def run(program, *flags):
        command = [sys.executable, f"launch/{program}.py", *(f"--config{flag}" for flag in flags)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def play(name, train, valid, *flags):
        out = tmp_path / name
        run("record", "=configs/record.py:demo", f".out={out}", f".splits.train.episodes={train}",
            f".splits.valid.episodes={valid}", ".seconds=30.0", *flags)  # fmt: skip
        run("prepare", f".recordings={out}", f".out={out}-data", ".height=16", ".width=16")
        return f"{out}-data"

    broad = play("broad", 24, 0, ".splits.train.levels=('MAP01','E1M1','E1M5','E2M1')", ".players.human=1.0")
    narrow = play("narrow", 36, 8)
    first, second = tmp_path / "first", tmp_path / "second"
    run("train", "=configs/foundation.py:demo", f".workdir={first}", f".data.train={broad}", f".data.valid={narrow}",
        ".steps=150", ".report=False")  # fmt: skip
    run("train", "=configs/fine_tuning.py:demo", f".workdir={second}", f".data.train={narrow}",
        f".data.valid={narrow}", f".init_from={first}", ".epochs=10.0", ".report=False")  # fmt: skip
    before, after = (
        [json.loads(line)["valid/nll"] for line in (workdir / "metrics.jsonl").open() if "valid/nll" in line][-1]
        for workdir in (first, second)
    )
    print(f"held-out loss of the narrow set: {before:.3f}, and after tuning {after:.3f} nats")
    assert after < 0.97 * before
