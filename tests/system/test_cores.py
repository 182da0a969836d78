"""Available CPU cores under Slurm, taskset or a container with a CPU quota."""

import os

import pytest

from vpt_jax.system import cores, workers


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Available cores of a machine with 64 allowed cores and these cgroup files."""

    def machine(own, **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
        for name, text in files.items():
            file = tmp_path / "groups" / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "own").write_text(own)
        return cores.available_cores(tmp_path / "groups", tmp_path / "own")

    return machine


def test_without_a_quota_the_affinity_mask_determines_the_cores(machine):
    assert machine("0::/\n") == 64
    assert machine("0::/\n", cpu_max="max 100000\n") == 64


def test_an_affinity_mask_limits_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert cores.available_cores() == 1
    with workers.worker_pool(0) as pool:
        assert pool._max_workers == 1


@pytest.mark.parametrize(("quota", "count"), [("150000 100000", 2), ("400000 100000", 4), ("10000 100000", 1)])
def test_a_quota_of_the_group_or_a_parent_limits_the_cores(machine, quota, count):
    assert machine("0::/pods/one\n", cpu_max=quota) == count
    assert machine("0::/pods/one\n", cpu_max="max 100000", pods__cpu_max=quota) == count


def test_a_quota_of_cgroup_v1_limits_the_cores(machine):
    files = {"cpu__cfs_quota_us": "300000\n", "cpu__cfs_period_us": "100000\n"}
    assert machine("4:cpu,cpuacct:/docker/1\n", **files) == 3
    assert machine("4:cpu,cpuacct:/docker/1\n", **files | {"cpu__cfs_quota_us": "-1\n"}) == 64
