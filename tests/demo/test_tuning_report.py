"""Report of RL fine-tuning, from synthetic runs with known claims."""

import json

import pytest
from demo.tuning_report import write_tuning_report

from tests.evaluation.test_rollouts import make_pool
from tests.html_page import Page
from vpt_jax.actions.minerl import MINERL
from vpt_jax.evaluation.rollouts import EpisodeResult, IdleAgent, run_episodes, summarize

RETURNS = {
    "cloned": (3, 5),
    "fine-tuned": (9, 11),
    "without KL penalty": (6, 8),
    "from scratch": (1, 1),
    "random": (0, 1),
}
DRIFTS = {"cloned": 0.0, "fine-tuned": 0.2, "without KL penalty": 3.0, "from scratch": 5.0, "random": float("nan")}


@pytest.fixture
def folder(tmp_path):
    """Folder with an evaluation of two episodes per agent, and the logs of three runs."""
    playing, figures = tmp_path / "playing", {}
    (playing / "agents").mkdir(parents=True)
    for name, returns in RETURNS.items():
        (playing / "recordings" / name).mkdir(parents=True)
        with make_pool(2, steps=3) as pool:
            run_episodes(IdleAgent(MINERL), pool, playing / "recordings" / name, 2)
        played = [
            EpisodeResult(3 + i, 3, float(r), "truncated", {"log": r}, DRIFTS[name]) for i, r in enumerate(returns)
        ]
        figures[name] = summarize(played)
        (playing / "agents" / f"{name}.json").write_text(json.dumps({"episodes": [one._asdict() for one in played]}))
    (playing / "figures.json").write_text(json.dumps(figures))
    for name in list(RETURNS)[1:4]:
        (tmp_path / name).mkdir()
        lines = [{"step": step, "train/return": 1.0 * step, "train/kl_pretrained": 0.1 * step} for step in (1, 2, 3)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def write(folder):
    runs = {name: folder / name for name in list(RETURNS)[1:4]}
    return write_tuning_report(folder, runs, "cloned", {"train": 61.4})


def test_claims_that_hold_are_marked(folder):
    path, claims = write(folder)
    assert claims == [
        "yes Fine-tuned above the cloned policy by more than two standard errors: 10.00 ± 1.00 against 4.00 ± 1.00, "
        "a difference of 6.00 ± 1.41",
        "yes Fine-tuned above the policy trained from scratch: 10.00 ± 1.00 against 1.00 ± 0.00",
        "yes With the KL penalty, the policy stays closer to the cloned one: 0.20 against 3.00 nats per step",
    ]
    page = Page(path.read_text())
    assert set(RETURNS) <= set(page.text("th"))
    assert page.text("h2") == [
        "Checked claims",
        "Training curves",
        "Agents",
        "Play, with 95% intervals",
        "Films",
        "Time",
    ]
    assert page.tags.count("video") == 3 * len(RETURNS)
    assert page.tags.count("svg") == 2
    assert page.text("dd") == ["61 s"]


@pytest.mark.parametrize(
    ("agent", "change", "wrong"),
    [
        ("fine-tuned", {"return": 6.8}, 0),  # two standard errors are 2.83
        ("from scratch", {"return": 10.5}, 1),
        ("without KL penalty", {"drift": 0.1}, 2),
    ],
)
def test_claims_that_do_not_hold_are_marked(folder, agent, change, wrong):
    file = folder / "playing" / "figures.json"
    figures = json.loads(file.read_text())
    figures[agent] |= change
    file.write_text(json.dumps(figures))
    assert [claim[:3] for claim in write(folder)[1]] == ["NO " if i == wrong else "yes" for i in range(3)]
