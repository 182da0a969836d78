"""Charts over the checkpoints of a run."""

import re
from types import SimpleNamespace

from vpt_jax.evaluation.rollouts import EpisodeResult
from vpt_jax.programs.evaluate import checkpoint_charts

from ..html_page import Page


def results(*logs):
    return [EpisodeResult(seed, 10, 2.0 * n, "truncated", {"log": n}, 0.0) for seed, n in enumerate(logs)]


def policy(step, epoch):
    return SimpleNamespace(step=step, epoch=epoch)


AGENTS = {"run@8": results(4, 6), "run@4": results(1, 2), "other": results(3, 3), "random": results(0, 1)}
WORKDIRS = {"run@8": "runs/run@8", "run@4": "runs/run@4", "other": "runs/other"}


def test_checkpoints_of_a_run_are_drawn_with_their_standard_errors():
    policies = {"run@8": policy(8, 2.0), "run@4": policy(4, 1.0), "other": policy(4, 1.0)}
    [section] = checkpoint_charts(WORKDIRS, policies, AGENTS)
    page = Page(section)
    assert page.text("figcaption") == ["return", "log"]
    assert {"epoch", "run 5.00", "other 3.00", "random 0.50"} <= set(page.text("text"))
    assert section.count("fill-opacity: 0.15") == 2  # one shaded line in each chart
    assert len(re.findall(r"stroke-dasharray", section)) >= 2


def test_checkpoints_without_epochs_are_drawn_by_step():
    policies = {name: policy(int(name[-1]), float("nan")) for name in ("run@8", "run@4")}
    [section] = checkpoint_charts(WORKDIRS, policies, AGENTS)
    assert "step" in Page(section).text("text")


def test_another_agent_without_an_epoch_leaves_the_epochs_of_a_run():
    policies = {"run@8": policy(8, 2.0), "run@4": policy(4, 1.0), "other": policy(0, float("nan"))}
    [section] = checkpoint_charts(WORKDIRS, policies, AGENTS)
    assert "epoch" in Page(section).text("text")


def test_one_checkpoint_of_each_run_needs_no_chart():
    assert checkpoint_charts(WORKDIRS, {"run@8": policy(8, 2.0), "other": policy(8, 2.0)}, AGENTS) == []
