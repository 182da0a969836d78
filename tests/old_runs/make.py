"""Makes the files beside it, in the current folder, with the code of an old commit (README.md has the commands).

    PYTHONPATH=OLD python make.py OLD

OLD is a checkout of that commit. Everything is made by its launchers, as its users did; only `smaller` is not of that
commit: it changes values of a state before they are saved, so that their compressed files are small.
"""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DATA = ["--config.data.train=dataset", "--config.data.valid=dataset", "--config.data.workers=0"]
SHORT = ["--config.log_every=1", "--config.optimizer.warmup_steps=1", "--config.report=False"]
BATCH = ["--config.data.batch=2", "--config.data.valid_batch=1", "--config.data.length=16", "--config.save_every=3"]
TRAIN = [*DATA, *SHORT, *BATCH]
POLICY = ["--config=configs/foundation.py:demo", "--config.workdir=policy", *TRAIN]
IDM = ["--config=configs/idm.py:demo", "--config.workdir=idm", *TRAIN]
PPG = [
    "--config=configs/rl_doom.py", "--config.workdir=ppg", "--config.init_from=policy", "--config.games=2",
    "--config.length=8", "--config.fragments=2", "--config.game.arguments.seconds=1.0", "--config.save_every=1",
]  # fmt: skip
KEPT = 120  # largest values of a large leaf


def main(old):
    launch(old, "record", "--config=configs/record.py:demo", "--config.out=recordings", "--config.seconds=1.6",
           "--config.splits.train.episodes=2", "--config.splits.valid.episodes=1")  # fmt: skip
    launch(old, "prepare", "--config=configs/prepare.py", "--config.recordings=recordings", "--config.out=dataset",
           "--config.height=16", "--config.width=16")  # fmt: skip
    for name, flags, steps in (("policy", POLICY, 3), ("idm", IDM, 3), ("ppg", PPG, 1)):
        launch(old, "train", *flags, f"--config.steps={steps}", smaller=True)
        keep(name)
    launch(old, "label", "--config=configs/label.py", "--config.videos=recordings/valid", "--config.idm=idm",
           "--config.out=labelled", "--config.films=0")  # fmt: skip
    expected = {name: predictions(name) for name in ("policy", "idm", "ppg")}
    expected |= {"dataset": contents("dataset", "drop"), "labelled": contents("labelled", "keep")}
    for name, flags in (("policy", POLICY), ("idm", IDM)):
        shutil.copytree(name, f"longer/{name}")
        launch(old, "train", *flags, "--config.steps=4", f"--config.workdir=longer/{name}")
        expected[name] |= {"step_4": metrics(f"longer/{name}", 4)}
    shutil.rmtree("longer")
    for file in (*Path().rglob("commit_success.txt"), Path("labelled/report.json")):
        file.write_text(file.read_text().replace(f"{Path.cwd()}/", ""))
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def launch(old, program, *flags, smaller=False):
    """Runs a program of the old commit, at paths that are relative to this folder."""
    flags = [flag.replace("--config=", f"--config={old}/") for flag in flags]
    command = [sys.executable, __file__, "--smaller"] if smaller else [sys.executable]
    subprocess.run([*command, f"{old}/launch/{program}.py", *flags], check=True, env=os.environ)


def run_smaller(program, *flags):
    """Runs a training program that saves `smaller` states."""
    from vpt_jax.checkpoints import Checkpoints

    save = Checkpoints.save
    Checkpoints.save = lambda self, state, step: save(self, jax.tree.map_with_path(smaller, state), step)
    sys.argv = [program, *flags]
    runpy.run_path(program, run_name="__main__")


def smaller(path, leaf):
    """A leaf of a state, with most values of large ones 0, and the others rounded."""
    if leaf.size < 128 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    if ".nu" in jax.tree_util.keystr(path):  # Adam divides by its root, so that none may be 0
        return jnp.full_like(leaf, leaf.mean())
    rounded = leaf.astype(jnp.bfloat16).astype(leaf.dtype)
    if leaf.ndim == 1 or leaf.size < 1024:
        return rounded
    least = jax.lax.top_k(jnp.abs(rounded).ravel(), KEPT)[0][-1]
    return jnp.where(jnp.abs(rounded) >= least, rounded, 0)


def keep(workdir):
    """Removes what nobody reads again."""
    shutil.rmtree(Path(workdir, "tensorboard"))
    Path(workdir, "sharding.txt").unlink()
    for file in Path(workdir).rglob("_sharding"):  # Orbax's default where a program gives no shardings, as ours does
        file.unlink()


def metrics(workdir, step):
    lines = map(json.loads, Path(workdir, "metrics.jsonl").read_text().splitlines())
    return next(line for line in lines if line["step"] == step and "train/loss" in line)


def frames():
    """Four frames of fixed values that differ from each other."""
    return (np.arange(4 * 16 * 16 * 3) ** 2 // 7 % 256).astype(np.uint8).reshape(1, 4, 16, 16, 3)


def predictions(name):
    """Some outputs of the model of a run."""
    from vpt_jax.checkpoints import load_idm, load_policy

    return idm_outputs(*load_idm(name)[:2]) if name == "idm" else policy_outputs(*load_policy(name)[:2])


def policy_outputs(module, params):
    first, memory = np.array([[True, False, False, False]]), module.initial_memory(1)
    output = jax.jit(module.apply)({"params": params}, frames(), first, memory)
    values = {head: logits[..., varying(params["actions"][head])] for head, logits in output.logits.items()}
    return as_lists(values | {"value": output.value})


def varying(head):
    """Twenty classes whose logits depend on the frames: with `smaller` parameters, most do not."""
    return np.flatnonzero(np.abs(head["kernel"]).sum(axis=0))[:20]


def idm_outputs(module, params):
    return as_lists(jax.jit(module.apply)({"params": params}, frames()).logits)


def as_lists(values):
    return {name: np.asarray(value, float).tolist() for name, value in values.items()}


def contents(dataset, nulls):
    """Digests of what a stream, and a stream of windows, read of a dataset at step 1."""
    from vpt_jax.data.streams import Stream, StreamSettings, WindowStream

    settings = StreamSettings(dataset, "train", 2, 8, nulls=nulls)
    batches = {kind.__name__: kind(settings).read(1, range(2)) for kind in (Stream, WindowStream)}
    return {
        name: {field: digest(array) for field, array in batch._asdict().items() if array is not None}  # text: None
        for name, batch in batches.items()
    }


def digest(array):
    return hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + array.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    run_smaller(*sys.argv[2:]) if sys.argv[1] == "--smaller" else main(sys.argv[1])
