"""Play of the checkpoints of a run, by agents whose returns are known: the best, resuming, and removed checkpoints."""

import io
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import vpt_jax
from configs import evaluate as evaluation_config
from configs import foundation, rl_doom, steer
from configs.follow import get_config
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.evaluation.checkpoint_play import BEST_BY_PLAY, append_play, checkpoints_of, read_play
from vpt_jax.evaluation.rollouts import EpisodeResult
from vpt_jax.models.policy import init_params
from vpt_jax.models.presets import make_policy
from vpt_jax.programs import evaluate, follow, play_process
from vpt_jax.programs.evaluate import CHOSEN_BY, refuse_choosing_seeds
from vpt_jax.programs.play_process import checkpoint_play
from vpt_jax.system import stopping
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import CheckpointDamagedError, checkpoint_steps, load_policy
from vpt_jax.training.parameters_only import save_policy

CHOOSING_SEED, REPORTED_SEED = 100, 200
# Return of each step in the episodes that choose, and in those that are reported.
RETURNS = {1: (1.0, 5.0), 2: (4.0, 2.0), 3: (3.0, 9.0), 4: (6.0, 1.0)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of an untrained policy."""
    config, workdir = foundation.get_config("demo"), tmp_path_factory.mktemp("untrained")
    config.model.update(preset="nano", head="factored")
    shapes = jax.eval_shape(lambda key: init_params(make_policy(config.model), (8, 8, 3), key), jax.random.key(0))
    write_checkpoint(workdir, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes), config, 8, 4, 1)
    return workdir / "checkpoints" / "1"


class Run:
    """A run with checkpoints, of which every one plays with a known return."""

    def __init__(self, workdir, checkpoint, monkeypatch):
        self.workdir, self.checkpoint = workdir, checkpoint
        self.config = get_config()
        self.config.workdir = str(workdir)
        self.config.choosing.update(episodes=2, seed=CHOOSING_SEED)
        self.config.reported.update(episodes=3, seed=REPORTED_SEED)
        monkeypatch.setattr(follow, "play_agent", self.play)
        monkeypatch.setattr(follow, "write_play_page", lambda workdir: workdir / "play.html")  # test_checkpoint_play.py

    def add(self, *steps):
        for step in steps:
            shutil.copytree(self.checkpoint, self.folder(step))

    def remove(self, *steps):
        """Removes checkpoints, as training does."""
        for step in steps:
            shutil.rmtree(self.folder(step))

    def folder(self, step):
        return self.workdir / "checkpoints" / str(step)

    def play(self, config, name, make_agent, seeds, size, space, title):
        assert seeds.start in (CHOOSING_SEED, REPORTED_SEED)
        step = int(title.split()[1].strip(",")) if name == "checkpoint" else 0
        reward = RETURNS[step][seeds.start == REPORTED_SEED] if step else 0.5
        return [EpisodeResult(seed, 10, reward, "truncated", {"places": reward}, 0.0) for seed in seeds]

    def steps(self):
        return [one.step for one in checkpoints_of(read_play(self.workdir))]

    def best(self):
        """Steps in the work directory of the best by play."""
        return checkpoint_steps(self.workdir / BEST_BY_PLAY)


@pytest.fixture
def run(tmp_path, checkpoint, monkeypatch):
    return Run(tmp_path, checkpoint, monkeypatch)


def test_every_checkpoint_plays_once_and_the_best_by_choosing_episodes_is_kept(run):
    run.add(1, 2, 3)
    follow.follow(run.config)
    assert run.steps() == [1, 2, 3]
    assert [one.agent for one in read_play(run.workdir)] == ["random", "scripted", *["checkpoint"] * 3]
    assert run.best() == [2]  # not 3, the best of the reported episodes
    assert [one.reported["return"].value for one in checkpoints_of(read_play(run.workdir))] == [5, 2, 9]
    before = (run.workdir / "play.jsonl").read_bytes()
    follow.follow(run.config)
    assert (run.workdir / "play.jsonl").read_bytes() == before
    run.remove(1)
    run.add(4)
    follow.follow(run.config)
    assert (run.steps(), run.best()) == ([1, 2, 3, 4], [4])


def test_the_best_by_play_is_loaded_like_any_other_policy(run):
    run.add(1, 2)
    follow.follow(run.config)
    best = vpt_jax.load_policy(run.workdir / BEST_BY_PLAY)
    assert (best.step, best.metadata[CHOSEN_BY]["seed"]) == (2, CHOOSING_SEED)
    assert vpt_jax.PolicyAgent.load(f"{run.workdir}/{BEST_BY_PLAY}")


def test_an_earlier_checkpoint_may_turn_out_to_be_the_best(run):
    run.add(3)
    follow.follow(run.config)
    run.add(2)
    follow.follow(run.config)
    assert (run.steps(), run.best()) == ([3, 2], [2])


def test_a_checkpoint_that_training_removes_while_it_is_loaded_is_passed_over(run, monkeypatch):
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.0)
    run.add(1, 2)
    (run.folder(1) / "facts" / "metadata").unlink()  # its files are being removed
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: run.remove(1))
    follow.follow(run.config)
    assert run.steps() == [2]


def test_a_damaged_checkpoint_is_an_error(run, monkeypatch):
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.0)
    run.add(1)
    (run.folder(1) / "facts" / "metadata").write_text("{")
    with pytest.raises(CheckpointDamagedError, match="1/facts cannot be read"):
        follow.follow(run.config)


def test_after_a_kill_between_saving_the_best_and_its_line_it_does_not_play_again(run, monkeypatch):
    run.add(1, 2)

    def append(workdir, one):
        if one.step == 2:
            raise KeyboardInterrupt
        append_play(workdir, one)

    monkeypatch.setattr(follow, "append_play", append)
    with pytest.raises(KeyboardInterrupt):
        follow.follow(run.config)
    assert (run.steps(), run.best()) == ([1], [2])
    monkeypatch.setattr(follow, "append_play", append_play)
    monkeypatch.setitem(RETURNS, 2, (0.0, 0.0))  # of another time, in a game that is not deterministic
    follow.follow(run.config)
    assert run.steps() == [1, 2]
    assert checkpoints_of(read_play(run.workdir))[1].choosing["return"].value == 4


def test_it_waits_for_checkpoints_until_the_run_is_finished(run, monkeypatch):
    run.add(1)
    signals = []
    monkeypatch.setattr(follow, "_listen", lambda lines, finished: signals.append(finished))
    monkeypatch.setattr(follow.os, "nice", lambda number: None)
    monkeypatch.setattr(follow, "_POLL_SECONDS", 0.01)
    run.config.wait = True
    thread = threading.Thread(target=follow.follow, args=(run.config,))
    thread.start()
    while run.steps() != [1]:
        assert thread.is_alive()
        time.sleep(0.05)
    run.add(2)
    signals[0].set()
    thread.join(10)
    assert run.steps() == [1, 2]


def test_the_end_of_standard_input_ends_the_program(monkeypatch):
    ended, finished = threading.Event(), threading.Event()
    monkeypatch.setattr(stopping, "exit_now", lambda status: ended.set())
    follow._listen(io.StringIO("other\n"), finished)
    assert ended.wait(10)
    assert not finished.is_set()
    follow._listen(io.StringIO(follow.FINISHED), finished)
    assert finished.wait(10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workdir": ""}, "config.workdir is empty"),
        ({"num_envs": 0}, "config.num_envs is 0"),
        ({"reported.episodes": 0}, "config.reported.episodes is 0"),
        ({"reported.seed": CHOOSING_SEED - 1}, "episodes of the same seeds"),
        ({"rewards": "gold"}, "config.rewards is 'gold'"),
    ],
)
def test_invalid_fields_are_named(run, fields, message):
    run.config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        follow.follow(run.config)


def test_other_settings_than_before_are_refused(run):
    run.add(1)
    follow.follow(run.config)
    run.config.choosing.episodes = 1
    with pytest.raises(ConfigError, match=r"play\.jsonl was made with other settings: choosing was .*'episodes': 2"):
        follow.follow(run.config)


def test_episodes_that_chose_a_policy_are_not_reported(checkpoint):
    config = SimpleNamespace(game=SimpleNamespace(name="doom"), seed=105, episodes=10)
    chosen = load_policy(checkpoint.parents[1])._replace(
        metadata={CHOSEN_BY: {"game": "doom", "seed": 100, "episodes": 6}}
    )
    with pytest.raises(
        ConfigError, match=r"config\.seed: the policy mine was chosen by its play of the seeds 100 to 105"
    ):
        refuse_choosing_seeds(config, {"mine": chosen})
    config.seed = 106
    refuse_choosing_seeds(config, {"mine": chosen, "imported": chosen._replace(metadata=None)})


def test_the_default_seeds_of_all_programs_differ():
    groups = get_config().choosing, get_config().reported, evaluation_config.get_config("paper"), steer.get_config()
    ranges = [evaluate.episode_seeds(group.seed, group.episodes) for group in groups]
    ranges += [evaluate.episode_seeds(rl_doom.get_config().game.seed, 2_000_000)]
    assert len({seed for one in ranges for seed in one}) == sum(map(len, ranges))


def test_a_saved_policy_replaces_the_others(checkpoint, tmp_path):
    policy = load_policy(checkpoint.parents[1])
    for step in (1, 2, 2, 1):
        save_policy(tmp_path, policy._replace(step=step))
        assert checkpoint_steps(tmp_path) == [step]


def play_config(tmp_path, game):
    config = get_config()
    config.workdir, config.play = str(tmp_path), {"game": game, "settings": ("num_envs=3",)}
    return config


def test_the_process_of_a_training_reports_its_failure_and_ends_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        play_process, "_command", lambda config: [sys.executable, "-c", "print('out of games'); exit(3)"]
    )
    with checkpoint_play(play_config(tmp_path, "doom")) as wait:
        wait()
    assert (tmp_path / "play.log").read_text() == "out of games\n"
    assert "the play of checkpoints has ended with status 3, and training continues" in capfd.readouterr().out


def test_the_process_ends_with_the_training(tmp_path, monkeypatch):
    started = []
    script = "import sys; sys.exit(sys.stdin.read() != '')"
    monkeypatch.setattr(play_process, "_command", lambda config: [sys.executable, "-c", script])
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **options: started.append(popen(*args, **options)) or started[0]
    )
    with pytest.raises(KeyboardInterrupt), checkpoint_play(play_config(tmp_path, "doom")):
        raise KeyboardInterrupt
    assert started[0].returncode == 0  # by the end of its standard input


def test_the_command_of_the_process_is_that_of_the_documents(tmp_path):
    assert play_process._command(play_config(tmp_path, "minerl"))[1:] == [
        "-m", "vpt_jax.commands.follow", "--config=follow:minerl", f"--config.workdir={tmp_path}", "--config.wait",
        "--config.num_envs=3",
    ]  # fmt: skip
    with checkpoint_play(play_config(tmp_path, "")) as wait:
        wait()
    assert not list(tmp_path.iterdir())
    with (
        pytest.raises(ConfigError, match=r"config\.play\.game is 'chess'; choose one of doom, minerl, luanti"),
        checkpoint_play(play_config(tmp_path, "chess")),
    ):
        pass
