"""Loss against play: the best by each, and no figure from what chose it."""

import json

import pytest

from tests.html_page import Page
from vpt_jax.evaluation.checkpoint_play import CHECKPOINT, AgentPlay, append_play, best_by_play, read_play
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.report.checkpoint_play import play_sections, read_losses, write_play_page
from vpt_jax.report.experiments import read_experiment
from vpt_jax.report.play_and_loss import write_play_and_loss

SETTINGS = {
    "game": {"name": "doom"},
    "rewards": "explore",
    "choosing": {"episodes": 3, "seed": 100},
    "reported": {"episodes": 4, "seed": 200},
}
VALID = {10: 5.0, 20: 4.0, 30: 4.5, 40: 4.75}
TEST = {10: 5.5, 20: 4.25, 30: 4.625, 40: 4.875}
CHOOSING, REPORTED = {20: 2.0, 30: 7.0, 40: 6.0}, {20: 3.0, 30: 5.0, 40: 5.5}


def played(agent, step, choosing, reported):
    figures = {"return": Figure(reported, reported - 0.5, reported + 0.5), "idle": Figure(0.25, 0.125, 0.375)}
    return AgentPlay(agent, step, SETTINGS, {"return": Figure(choosing, 0, 9)} if step else {}, figures)


@pytest.fixture(params=[True, False], ids=["test", "no test"])
def workdir(tmp_path, request):
    """A run whose loss is lowest at step 20, and which plays best at step 30 by the episodes that choose."""
    losses = [
        {"step": step, "valid/nll": VALID[step], **({"test/nll": TEST[step]} if request.param else {})}
        for step in VALID
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
    for step in CHOOSING:
        append_play(tmp_path, played(CHECKPOINT, step, CHOOSING[step], REPORTED[step]))
    append_play(tmp_path, played("random", 0, 0, 1.0))
    append_play(tmp_path, played("scripted", 0, 0, 8.0))
    return tmp_path


def table_rows(workdir):
    """First three cells of each row."""
    page = Page(write_play_page(workdir).read_text())
    cells = [text for tag, text in page.texts if tag in ("th", "td")]
    names = ("Best by loss", "Best by play", "Last", "Random", "Scripted")
    return {name: cells[cells.index(name) + 1 : cells.index(name) + 4] for name in names}


def test_the_best_by_each_is_named_with_figures_that_did_not_choose(workdir):
    rows, has_test = table_rows(workdir), bool(read_losses(workdir).test)
    assert rows["Best by play"] == ["30", "4.625" if has_test else "4.500", "5.00 [4.50, 5.50]"]
    assert rows["Last"] == ["40", "4.875" if has_test else "4.750", "5.50 [5.00, 6.00]"]
    assert rows["Best by loss"][:2] == (["20", "4.250"] if has_test else ["20", "3.00 [2.50, 3.50]"])
    assert rows["Random"][0] == "1.00 [0.50, 1.50]"


def test_no_figure_is_from_the_episodes_or_the_split_that_chose(workdir):
    html = write_play_page(workdir).read_text()
    page = Page(html[html.index("<table>") : html.index("</table>") + len("</table>")])
    assert f"{VALID[20]:.3f}" not in page.text("td")  # the loss that chose
    returns = [
        text for text in page.text("td") if text.startswith(tuple(f"{value:.2f}" for value in CHOOSING.values()))
    ]
    assert returns == []


def test_loss_against_play_has_a_point_for_each_checkpoint_but_that_chosen_by_the_loss(workdir):
    html, has_test = write_play_page(workdir).read_text(), bool(read_losses(workdir).test)
    assert "Return by held-out loss" in Page(html).text("figcaption")
    chart = html[html.index("Return by held-out loss") : html.index("Idle and stuck time")]
    assert chart.count("<use ") == (3 if has_test else 2)


def test_the_best_is_chosen_by_its_own_episodes_alone(workdir):
    lines = read_play(workdir)
    assert best_by_play(lines).step == 30
    others = [line._replace(reported={"return": Figure(9, 9, 9)}) if line.step == 20 else line for line in lines]
    assert best_by_play(others).step == 30
    lost = [line._replace(choosing={}) for line in lines]
    assert best_by_play(lost) is None


def test_a_run_that_did_not_play_has_no_section(tmp_path):
    assert play_sections(tmp_path) == []
    assert write_play_and_loss(tmp_path) is None


def test_the_experiment_compares_the_checkpoints_chosen_by_loss_and_by_play(workdir):
    path = write_play_and_loss(workdir)
    if not read_losses(workdir).test:
        assert path is None  # its loss would be that which chose
        return
    experiment = read_experiment(path)
    returns, losses = experiment.series
    assert [point.x for point in returns.points] == [20, 30, 40]
    assert [point.y for point in losses.points] == [4.25, 4.625, 4.875]
    assert experiment.baselines == {"random": 1, "scripted": 8}
    assert [verdict.holds for verdict in experiment.verdicts] == [True, True, True]
    append_play(workdir, played(CHECKPOINT, 10, 20.0, 3.25))  # chosen by play, and hardly better than that by loss
    *_, better = read_experiment(write_play_and_loss(workdir)).verdicts
    assert not better.holds
