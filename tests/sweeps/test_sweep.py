"""Sweeps as processes, with programs that only note that they ran: resuming, indices side by side, results."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict
from sweeps.plan import make_plan
from sweeps.results import write_results

from configs.sweeps import base
from launch import sweep
from tests import programs
from tests.demo.test_loop_report import write_recorded
from tests.programs import ROOT
from vpt_jax.report.experiments import read_experiment
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.workers import FolderInUseError, locked
from vpt_jax.training.checkpoints import load_policy

PROGRAM = """
import json, os, pathlib, signal, sys, time
fields = dict(argument.removeprefix("--config.").split("=", 1) for argument in sys.argv[2:])
folder = pathlib.Path(fields.get("workdir") or fields["out"])
def note(what):
    with open(folder.parent / "ran", "a") as file:
        file.write(what + " " + folder.name.rpartition("-")[0] + "\\n")
def stop(*_):
    note("stopped")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
note("began")
time.sleep(60 * ((folder.parent / "slow").exists() and "tiny" in folder.name))
folder.mkdir(exist_ok=True)
size = {"nano": 2.0, "tiny": 1.0}.get(fields.get("model.preset"), 0.0) + 0.01 * int(fields.get("seed", 0))
lines = [{"step": 1, "valid/nll": 0.5, "test/nll": size}, {"step": 2, "valid/nll": 0.7, "test/nll": size - 0.9}]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
note("ended")
"""
STAGES = ["data", "policy-nano-seed0", "policy-nano-seed1", "policy-tiny-seed0", "policy-tiny-seed1"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Four runs of two fake programs, which share one of their stages."""
    (tmp_path / "launch").mkdir()
    for name in ("prepare", "train"):
        (tmp_path / "launch" / f"{name}.py").write_text(PROGRAM)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    monkeypatch.setattr(sweep, "_DRY_RUN", SimpleNamespace(value=False))
    monkeypatch.setattr("demo.stages._RETRY_INTERVAL", 0.1)
    monkeypatch.setattr("sweeps.results._of_data", lambda workdir: {"parameters": 7, "marginal/nll": 1.5})
    config = base.get_config("mine", "small")
    config.update(workdir=str(tmp_path / "sweep"), seeds=(0, 1), max_parallel=1)
    config.stages.data = base.stage("prepare", "prepare", "height=16")
    config.stages.policy = base.stage("train", "foundation:demo", "data.train={data}")
    config.vary.size = ConfigDict({"fields": ("policy.model.preset",), "choices": ("nano", "tiny")})
    config.report.update(x="size", better=(("tiny", "nano"),), title="Sizes", x_label="preset")
    return config


def ran(config, what="ended"):
    lines = open(f"{config.workdir}/ran").read().splitlines()  # noqa: SIM115
    return sorted(line.partition(" ")[2] for line in lines if line.startswith(what))


def test_a_sweep_writes_a_table_an_experiment_and_a_page(config, tmp_path, capsys):
    sweep.run(config)
    assert ran(config) == STAGES
    folder = tmp_path / "sweep" / "mine"
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert [(row["run"], row["size"], row["seed"], row["step"], row["nll"]) for row in rows] == [
        ("nano-seed0", "nano", 0, 1, 2.0), ("nano-seed1", "nano", 1, 1, 2.01),
        ("tiny-seed0", "tiny", 0, 1, 1.0), ("tiny-seed1", "tiny", 1, 1, 1.01),
    ]  # fmt: skip
    assert all(0 < row["seconds"] < 5 for row in rows)
    experiment = read_experiment(tmp_path / "sweep" / "results" / "mine.json")
    assert [verdict.holds for verdict in experiment.verdicts] == [True, True]
    assert "Sizes" in (folder / "report.html").read_text()
    assert f"4 of 4 runs are done; results: {folder / 'report.html'}" in capsys.readouterr().out
    sweep.run(config)
    assert ran(config, "began") == STAGES  # nothing runs twice
    config.seeds = (2, 1, 0)  # nor if there are more runs, in another order
    sweep.run(config)
    assert ran(config, "began") == sorted([*STAGES, "policy-nano-seed2", "policy-tiny-seed2"])


def test_a_varied_name_that_is_a_column_of_the_results_is_refused(config):
    config.vary = ConfigDict({"nll": config.vary.size})
    config.report.x = "nll"
    with pytest.raises(ConfigError, match=r"config.vary has the name 'nll', which is also a column of the results"):
        sweep.run(config)


def test_a_stopped_sweep_resumes_with_what_is_left(config, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "slow").touch()

    def stop():
        while not (tmp_path / "sweep" / "ran").exists() or "began policy-tiny-seed0" not in ran_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    def ran_text():
        return (tmp_path / "sweep" / "ran").read_text()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run(config)
    thread.join()
    assert ran_text().splitlines()[-1] == "stopped policy-tiny-seed0"
    (tmp_path / "sweep" / "slow").unlink()
    sweep.run(config)
    assert ran(config) == STAGES
    assert ran(config, "began") == sorted([*STAGES, "policy-tiny-seed0"])


def test_indices_give_the_results_of_the_whole_sweep(config, tmp_path, capsys):
    whole = config.copy_and_resolve_references()
    whole.workdir = str(tmp_path / "whole")
    sweep.run(whole)
    for index in ("shared", "3", "0", "2", "1"):
        config.index = index
        sweep.run(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if "of 4 runs are done" in line]
    assert [line[:6] for line in lines] == [f"{n} of 4" for n in (4, 0, 1, 2, 3, 4)]
    assert ran(config, "began") == STAGES
    results = [read_experiment(tmp_path / name / "results" / "mine.json") for name in ("sweep", "whole")]
    assert results[0] == results[1]


def test_of_two_processes_the_last_to_write_has_the_runs_of_both(config, tmp_path):
    """The list of finished runs is read under the lock: a process may wait for it while another one finishes."""
    sweep.run(config)
    plan = make_plan(config, tmp_path)
    everything = sweep.Stages(list(plan.stages), tmp_path / "sweep" / "stages", os.environ, tmp_path)
    calls = []

    def finished():
        with pytest.raises(FolderInUseError), locked(tmp_path / "sweep" / "mine"):
            pass
        calls.append(everything.finished())
        return calls[-1]

    assert write_results(config, plan, finished) == tmp_path / "sweep" / "mine" / "report.html"
    assert len(calls) == 1


def test_a_listing_names_runs_and_commands_and_starts_nothing(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "_DRY_RUN", SimpleNamespace(value=True))
    sweep.run(config)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "4 runs, 5 stages"
    assert [line.split(": ")[:2] for line in out[1:5]][3] == ["run 3", "tiny-seed1"]
    assert sum(f"{tmp_path}/launch/train.py" in line for line in out) == 4
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_on_ray_without_ray_names_the_extra(config, monkeypatch):
    config.ray_address = "auto"
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "vpt_jax.envs.vector.remote", raising=False)
    with pytest.raises(ConfigError, match=r"config.ray_address needs Ray: pip install .*\[ray\]"):
        sweep.run(config)


STOPPED = """
import signal, sys, time
def stop(*_):
    open("saved", "x")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
open("began", "x")
time.sleep(60)
"""


def test_a_task_of_a_cluster_stops_its_command_and_waits_until_it_has_saved(tmp_path):
    with pytest.raises(RuntimeError, match="status 3 of"):
        sweep.run_command([sys.executable, "-c", "import sys; sys.exit(3)"], str(tmp_path))

    def interrupt():
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run_command([sys.executable, "-c", STOPPED], str(tmp_path))
    thread.join()
    assert (tmp_path / "saved").exists()


CONFIG = """
from ml_collections import ConfigDict
from sweeps.plan import make_plan
from sweeps.results import write_results

from configs.sweeps import base


def get_config():
    config = base.get_config("mine", "small")
    config.workdir, config.seeds, config.max_parallel = "{workdir}", (0, 1), 1
    settings = base.policy_stage("small", train="{data}").settings
    more = ("data.valid={data}", "data.test={test}", "steps=12", "save_every=2")
    config.stages.policy = base.stage("train", "foundation:demo", *settings[:1], *settings[3:], *more)
    config.vary.head = ConfigDict(dict(fields=("policy.model.head",), choices=("joint",)))
    config.report.x = "head"
    return config
"""


def real_sweep(file, workdir, dataset_dir):
    """Flags of a sweep of two seeds of a real training run; the config is written to `file`."""
    file.parent.mkdir(exist_ok=True)
    if not (test := file.parent / "data").exists():
        write_recorded(test, dataset_dir)
    file.write_text(CONFIG.format(data=dataset_dir, test=test, workdir=workdir))
    return [f"--config={file}"]


def end_at_first_checkpoint(flags, seed, workdir, number, environment):
    """Start a sweep, and send a signal to its process once the run of a seed has saved."""
    program = programs.Program("sweep", flags, os.environ | environment)
    while not [*workdir.glob(f"policy-joint-seed{seed}-*/checkpoints/2")]:
        assert program.poll() is None, program.output()
        time.sleep(0.05)
    program.send_signal(number)
    return program.wait(), program.output()


def starts(output):
    """Names of the stages that a sweep has started, without their digests."""
    return re.findall(r"^\[\d/\d\] ([\w.-]+)-\w{8}$", output, re.MULTILINE)


@pytest.mark.slow  # two minutes, most of it compiling
def test_a_run_equals_its_command_alone_to_the_byte_whether_killed_or_not(dataset_dir, tmp_path):
    """Real training: a sweep that is stopped, killed and resumed, and the commands of its runs in other folders."""
    folder = tmp_path / "sweep"
    flags = real_sweep(tmp_path / "mine.py", folder, dataset_dir)
    environment = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": programs.xla_flags(devices=1)}
    status, output = end_at_first_checkpoint(flags, 0, folder, signal.SIGTERM, environment)
    assert (status, starts(output)) == (130, ["policy-joint-seed0"])
    status, killed = end_at_first_checkpoint(flags, 1, folder, signal.SIGKILL, environment)
    assert (status, starts(killed)) == (-signal.SIGKILL, ["policy-joint-seed0", "policy-joint-seed1"])
    output = programs.run("sweep", *flags, **environment)
    assert "2 of 2 runs are done" in output
    assert starts(output) == ["policy-joint-seed1"]
    assert starts(programs.run("sweep", *flags, **environment)) == []

    for seed in range(2):
        command = next(line for line in killed.splitlines() if "train.py" in line and f"seed={seed}" in line)
        (part,) = folder.glob(f"policy-joint-seed{seed}-*")
        single = tmp_path / f"single{seed}"
        words = [word.replace(str(part), str(single)) for word in shlex.split(command)]
        subprocess.run(words, env=os.environ | environment, check=True)
        assert (part / "metrics.jsonl").read_bytes() == (single / "metrics.jsonl").read_bytes()
        params = [jax.tree.leaves(load_policy(one).params) for one in (part, single)]
        for one, other in zip(*params, strict=True):
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
