"""Labelling on a slice of several hosts: each labels its shard of the videos on its own devices (scale row 5)."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.cluster import run_together
from vpt_jax import parallel
from vpt_jax.labelling import job, steps

from .conftest import assert_same_labels, settings

TOGETHER = """
import json, sys
from pathlib import Path

import jax
coordinator, number, fields = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
jax.distributed.initialize(coordinator, 2, number)
assert (jax.device_count(), jax.local_device_count()) == (2, 1)

from configs.label import get_config
from vpt_jax.labelling.job import label

config = get_config()
config.update(fields)
config.update(num_shards=2, shard_index=number)
if __name__ == "__main__":
    label(config)
"""


def test_a_shard_is_labelled_on_the_devices_of_its_own_host(monkeypatch):
    """`jax.devices()` of a slice lists the devices of all hosts, and a host can use only its own."""
    own, meshes, make_mesh = jax.devices()[4:6], [], parallel.make_mesh

    def recorded_mesh(*sizes, **fields):
        meshes.append(make_mesh(*sizes, **fields))
        return meshes[-1]

    monkeypatch.setattr(jax, "local_devices", lambda: own)
    monkeypatch.setattr(parallel, "make_mesh", recorded_mesh)
    config = SimpleNamespace(seed=0, mode="shared", choice="argmax", mirror=False, workers=1)
    idm = SimpleNamespace(params={"kernel": np.zeros((2, 2), np.float32)}, module=None, window=8)
    steps.Labeller(config, idm)
    assert [list(mesh.devices.flat) for mesh in meshes] == [own]


@pytest.mark.slow
def test_two_processes_of_one_cluster_label_as_one_slice(videos, idm_dir, in_process, tmp_path):
    config = settings(videos, idm_dir, tmp_path / "out", num_films=0)
    outputs = run_together(TOGETHER, config.to_json(), timeout=600)
    job.label(settings(videos, idm_dir, tmp_path / "alone", num_films=0))
    assert sum("this shard is done" in output for output in outputs) <= 1
    assert_same_labels(tmp_path / "out", tmp_path / "alone")
