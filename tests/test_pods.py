"""Cluster launchers of launch/pods/: their commands and manifests, and local processes that are started."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vpt_jax.parallel import start_processes
from vpt_jax.system import stopping

ROOT = Path(__file__).parents[1]
CLUSTER_FLAGS = ["--config.distributed.coordinator=auto", "--config.stopped_status=75"]
PROGRAM = ["--", "launch/train.py", "--config=configs/idm.py:paper", "--config.workdir=runs/a b"]


def start(launcher, *flags, **options):
    command = [sys.executable, f"launch/pods/{launcher}.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)


def dry_run(launcher, *flags):
    return start(launcher, "--dry_run", *flags, *PROGRAM, check=True).stdout


def test_local_processes_differ_only_by_their_number():
    first, second, third = map(shlex.split, dry_run("local", "--processes=3", "--port=1234").splitlines())
    assert first[1:4] == PROGRAM[1:]
    assert first[4:] == [
        "--config.distributed.coordinator=127.0.0.1:1234", "--config.distributed.num_processes=3",
        "--config.distributed.process_id=0",
    ]  # fmt: skip
    assert [second[:-1], third[:-1]] == [first[:-1]] * 2
    assert [second[-1], third[-1]] == [f"--config.distributed.process_id={i}" for i in (1, 2)]


# Prints its number and waits; SIGTERM: prints "stopped" and exits with 0. "fail": the last one fails when all printed.
CHILD = """
import pathlib, signal, sys, time
number = int(sys.argv[-1].rpartition("=")[2])
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), sys.exit(0)))
print("number", number, flush=True)
folder = pathlib.Path(__file__).parent
folder.joinpath(f"spoken{number}").touch()
if sys.argv[1] == "fail" and number == 2:
    while len(list(folder.glob("spoken*"))) < 3:
        time.sleep(0.01)
    sys.exit(7)
time.sleep(60)
"""


@pytest.fixture
def child(tmp_path):
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    return str(path)


def test_if_one_local_process_fails_all_are_stopped(child):
    ended = start("local", "--processes=3", "--", child, "fail", timeout=50)
    assert ended.returncode == 7
    assert {"[0] number 0", "[1] number 1", "[2] number 2"} <= set(ended.stdout.splitlines())


def test_a_child_left_behind_by_a_process_is_not_waited_for(tmp_path):
    child = tmp_path / "child.py"
    child.write_text("import subprocess, sys\nsubprocess.Popen(['sleep', '60'])\nsys.exit(3)\n")
    assert start("local", "--processes=1", "--", str(child), timeout=30).returncode == 3


def test_a_signal_reaches_all_local_processes(child):
    command = [sys.executable, "launch/pods/local.py", "--processes=2", "--", child, "wait"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    output = {process.stdout.readline(), process.stdout.readline()}
    assert output == {"[0] number 0\n", "[1] number 1\n"}
    start_time = time.monotonic()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    assert sorted(rest.splitlines()) == ["[0] stopped", "[1] stopped"]
    assert time.monotonic() - start_time < 30


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux only")
def test_processes_save_and_end_if_their_launcher_is_killed(child):
    """(attack L3) Once they kept running."""
    command = [sys.executable, "launch/pods/local.py", "--processes=2", "--", child, "wait"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process.stdout.readline(), process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while any(_is_alive(number) for number in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_is_alive(number) for number in children)


def _is_alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("coordinator", "bound"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:1", False), ("host:1", False)],
)
def test_a_job_of_one_machine_is_not_served_to_the_network(monkeypatch, coordinator, bound):
    """(attack L3) JAX's coordinator has no authentication, and once listened on all interfaces."""
    calls = []
    monkeypatch.setattr(stopping._State, "sigterm_delegated", False)
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **named: calls.append((given, named)))
    start_processes(coordinator, 2, 0)
    assert calls == [((coordinator, 2, 0), {"coordinator_bind_address": coordinator if bound else None})]
    assert stopping._State.sigterm_delegated  # JAX notifies all processes of a SIGTERM


def test_slurm_starts_one_process_for_each_gpu(tmp_path):
    script = dry_run("slurm", "--nodes=4", "--gpus=8", "--sbatch=--partition=gpu")
    (tmp_path / "script").write_text(script)
    subprocess.run(["/bin/bash", "-n", str(tmp_path / "script")], check=True)
    options = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in script.splitlines() if "=" in line[:40])
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("4", "8", "8")
    assert options["partition"] == "gpu"
    assert options["signal"].startswith("TERM@")
    command = shlex.split(next(line for line in script.splitlines() if line.startswith("srun")))
    assert command[:3] == ["srun", "--cpus-per-task=12", "--kill-on-bad-exit=1"]
    assert command[4:] == [*PROGRAM[1:], *CLUSTER_FLAGS]


SWEEP = ["--", "launch/sweep.py", "--config=configs/sweeps/heads.py:full", "--config.workdir=runs/a b"]


def test_slurm_starts_a_task_for_each_run_of_a_sweep(tmp_path):
    flags = "--dry_run", "--gpus=2", "--array=0-5%3", *SWEEP
    script = start("slurm", *flags, check=True).stdout
    options = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in script.splitlines() if "=" in line[:40])
    expected = {"array": "0-5%3", "nodes": "1", "ntasks-per-node": "1", "gpus-per-node": "2", "cpus-per-task": "24"}
    assert expected.items() <= options.items()
    for name, text in {
        "srun": f'printf "%s\\n" "$@" > {tmp_path}/given; exit 130',
        "scontrol": f"echo $@ > {tmp_path}/asked",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4"}
    assert subprocess.run(["/bin/bash", "-c", script], env=environment, check=False).returncode == 130
    assert (tmp_path / "given").read_text().splitlines()[3:] == [*SWEEP[1:], "--config.index=4"]
    assert (tmp_path / "asked").read_text() == "requeue 12\n"


def documented(language, page=ROOT / "docs" / "guides" / "sweeps.md"):
    """Code blocks of a page, with continued lines joined."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return [re.sub(r"\\\n\s*", "", block) for block in blocks]


def documented_dry_run(launcher):
    """Output of the command for a launcher that the page has."""
    (line,) = (line for block in documented("sh") for line in block.splitlines() if f"pods/{launcher}.py" in line)
    _, _, *flags = shlex.split(line)
    return start(launcher, "--dry_run", *flags, check=True).stdout


def test_the_documents_have_the_scripts_of_arrays():
    script = documented_dry_run("slurm").replace(sys.executable, "python").splitlines()
    (shown,) = (block.splitlines() for block in documented("sh") if "#SBATCH" in block)
    assert [line for line in script if line in shown] == shown
    assert len(shown) == 4
    job = json.loads(documented_dry_run("gke"))["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    in_job, in_container = map(json.loads, documented("json"))
    assert in_job.items() <= job.items()
    assert in_container.items() <= container.items()


@pytest.mark.parametrize("status", [0, 1, 75])
def test_slurm_requeues_a_stopped_job(tmp_path, status):
    for name, text in {"srun": f"exit {status}", "scontrol": f"echo $@ > {tmp_path}/requeued"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    ended = subprocess.run(["/bin/bash", "-c", dry_run("slurm")], env=environment, check=False)
    assert ended.returncode == status
    assert (tmp_path / "requeued").exists() == (status == 75)
    if status == 75:
        assert (tmp_path / "requeued").read_text() == "requeue 12\n"


@pytest.mark.parametrize(
    ("topology", "accelerator", "hosts", "chips"),
    [("v5e:16x16", "tpu-v5-lite-podslice", 64, 4), ("v5p:4x4x8", "tpu-v5p-slice", 32, 4),
     ("v6e:2x2", "tpu-v6e-slice", 1, 4)],
)  # fmt: skip
def test_gke_starts_a_pod_for_each_host(topology, accelerator, hosts, chips):
    job_set = json.loads(dry_run("gke", f"--topology={topology}", "--image=here/vpt", "--claim=disk"))
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == hosts
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.partition(":")[2],
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    assert container["command"] == ["python", *PROGRAM[1:], *CLUSTER_FLAGS]
    volume_names = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes == {
        volume_names["/data"]: {"persistentVolumeClaim": {"claimName": "disk"}},
        volume_names["/dev/shm"]: {"emptyDir": {"medium": "Memory"}},  # noqa: S108 - the default is 64 MB (attack M5)
    }


def test_gke_starts_a_pod_for_each_run_of_a_sweep():
    flags = "--dry_run", "--topology=v5e:2x2", "--image=here/vpt", "--claim=disk", "--array=6", *SWEEP
    job_set = json.loads(start("gke", *flags, check=True).stdout)
    job = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (6, 6, "Indexed")
    assert job["backoffLimitPerIndex"] == 100  # a run that fails is restarted alone
    assert "backoffLimit" not in job
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == ["python", *SWEEP[1:], "--config.index=$(JOB_COMPLETION_INDEX)"]
    assert job_set["metadata"]["annotations"] == {}


@pytest.mark.parametrize(("topology", "name"), [("v5e:16x16", "v5litepod-256"), ("v5p:4x4x8", "v5p-256")])
def test_xpk_gets_the_same_program(topology, name):
    flags = "--xpk", "--cluster=c", f"--topology={topology}", "--image=here/vpt"
    command = shlex.split(dry_run("gke", *flags))
    assert command[:3] == ["xpk", "workload", "create"]
    assert f"--tpu-type={name}" in command
    inner = next(part for part in command if part.startswith("--command=")).removeprefix("--command=")
    assert shlex.split(inner)[1:] == [*PROGRAM[1:], *CLUSTER_FLAGS]


@pytest.mark.parametrize(
    ("launcher", "flags", "message"),
    [
        ("local", [], "no program given"),
        ("slurm", PROGRAM, "there is no sbatch here"),
        ("gke", ["--image=x", "--topology=v5e", *PROGRAM], "no topology 'v5e'"),
        ("gke", PROGRAM, "a container image"),
        ("gke", ["--image=x", *PROGRAM], "--claim is needed"),
        ("gke", ["--image=x", "--xpk", *PROGRAM], "--xpk needs --cluster"),
        ("gke", ["--image=x", "--claim=c", "--array=2", *PROGRAM], "for topologies of one host"),
        ("slurm", ["--array=0-1", "--nodes=2", *PROGRAM], "a task of an array runs on one machine"),
    ],
)
def test_invalid_arguments_are_explained(launcher, flags, message):
    ended = start(launcher, *flags)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
