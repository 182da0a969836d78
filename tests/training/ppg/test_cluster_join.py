"""Start and stop of training with games on a Ray cluster; Ray is a stub, except in the slow test."""

import importlib
import os
import signal
import sys
from contextlib import ExitStack, nullcontext
from types import ModuleType

import pytest

from configs import rl_doom
from tests.training.conftest import wait_until
from vpt_jax.system.errors import ConfigError
from vpt_jax.training import loop
from vpt_jax.training.ppg import train
from vpt_jax.training.setup import make_mesh


@pytest.fixture
def ray(monkeypatch):
    """Stub module that installs the signal handler of Ray 2.60."""

    def exit_at_once(number, frame):
        sys.exit(number)

    def init(address, **_):
        signal.signal(signal.SIGTERM, exit_at_once)
        if address == "nowhere":
            raise ConnectionError("no cluster")

    stub = ModuleType("ray")
    stub.init = init
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delitem(sys.modules, "vpt_jax.envs.vector.remote", raising=False)
    remote = importlib.import_module("vpt_jax.envs.vector.remote")
    monkeypatch.setattr(remote, "RemotePool", lambda *_, seeds, **fields: StubPool(seeds))
    yield stub
    sys.modules.pop("vpt_jax.envs.vector.remote", None)


class StubPool(nullcontext):
    def __init__(self, seeds):
        super().__init__()
        self.seeds = seeds

    def start(self):
        pass


def config_of(**game):
    config = rl_doom.get_config()
    config.game.update(num_machines=2, **game)
    return config


def test_sigterm_still_stops_a_run_with_games_on_ray(ray):
    """Ray's own handler would end the process at once, with status 15 and nothing saved (scale row 7)."""
    config = config_of()
    before = signal.getsignal(signal.SIGTERM)
    with loop.StopSignal() as stop:
        pools = train.make_pools(config, make_mesh(config), 0, ExitStack())
        assert sum(len(pool.seeds) for pool in pools) == config.num_envs
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_still_stops_a_run_without_a_cluster(ray):
    config = config_of(cluster="nowhere")
    with loop.StopSignal() as stop:
        with pytest.raises(ConfigError, match=r"config\.game\.cluster is 'nowhere': no cluster"):
            train.make_pools(config, make_mesh(config), 0, ExitStack())
        signal.raise_signal(signal.SIGTERM)
        assert stop()


@pytest.mark.slow
def test_sigterm_saves_with_rays_actors(launcher, tmp_path):
    """It saves, and exits with the documented status (scale row 7)."""
    pytest.importorskip("ray")
    flags = [
        "--config=configs/rl_doom.py", "--config.ppg.kl_pretrained_coef=0.0", "--config.height=16", "--config.width=16",
        "--config.game.arguments.height=36", "--config.game.arguments.width=64", "--config.game.arguments.seconds=0.5",
        "--config.num_envs=2", "--config.unroll_length=4", "--config.updates_per_rollout=4", "--config.steps=1000",
        "--config.game.num_machines=1", "--config.game.cluster=local", "--config.game.cpus=0.1",
        "--config.stopped_status=75",
    ]  # fmt: skip
    process = launcher.start(tmp_path, *flags, bare=True)
    metrics = tmp_path / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text(), process, seconds=600)
    os.kill(process.pid, signal.SIGTERM)
    assert "asked to stop after step" in launcher.finish(process, expected=75)
    assert [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
