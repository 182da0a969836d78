"""Tests of the files with results of experiments."""

from pathlib import Path

from tests.html_page import Page
from vpt_jax.report.experiments import (
    Experiment,
    Point,
    Series,
    Verdict,
    read_experiment,
    write_experiment,
    write_experiments_page,
)


def test_an_experiment_is_read_as_it_was_written(tmp_path: Path) -> None:
    experiment = Experiment(
        title="Steering",
        claim="Text steers the policy.",
        source="appendix I, from memory",
        x_label="caption",
        y_label="doors opened",
        series=(Series("asked", (Point("open the door", 1.5, 1.0, 2.0), Point(3.0, 0.5, 0.25, 0.75))),),
        baselines={"random": 0.1},
        verdicts=(Verdict("more when asked", "1.5 against 0.5", False),),
        notes=("one seed",),
    )
    write_experiment(tmp_path / "steering.json", experiment)
    assert read_experiment(tmp_path / "steering.json") == experiment


def test_the_page_has_claims_charts_values_and_verdicts_that_do_not_hold(tmp_path: Path) -> None:
    curve = Series("fit", tuple(Point(float(x), 2 / x, 1.9 / x, 2.1 / x) for x in range(1, 21)), fitted=True)
    measured = Series("policies", (Point(1.0, 2.0, 1.5, 2.5), Point(20.0, 0.1, 0.05, 0.2)))
    hours = Experiment(
        "Hours", "More <hours> help.", "section 4.5", "hours", "nats", (measured, curve), {"marginal": 3.0},
        (Verdict("lower at 20", "0.1 against 2", True),), ("three seeds",), log_x=True,
    )  # fmt: skip
    bars = Series("return", (Point("joint", 4.0, 3.0, 5.0), Point("factored", 4.5, 4.0, 5.0)))
    heads = Experiment("Heads", "c", "s", "head", "items", (bars,), {"random": 1}, (Verdict("v", "4 to 4.5", False),))
    write_experiments_page(tmp_path / "page.html", "All <of them>", [hours, heads])
    html = (tmp_path / "page.html").read_text()
    page = Page(html)
    assert page.text("h1") == ["All <of them>"]
    assert page.text("h2") == ["Verdicts: 1 of 2 expectations hold", "Hours", "Heads"]
    assert page.tags.count("svg") == 2
    cells = [text for _, text in page.texts]
    assert cells.count("NO") == 2  # in the summary, and at the experiment
    assert {"Claim: More <hours> help. (section 4.5)", "1.5 to 2.5", "baseline: marginal", "three seeds"} <= set(cells)
    assert {"joint", "factored", "policies 0.10", "fit 0.10", "marginal 3.00", "20"} <= set(page.text("text"))
    assert html.count('<path d="M') > 6  # the band, and error bars
    assert {"return", "random 1.00"} <= set(page.text("text"))  # the label of categories has no value


def test_a_page_of_one_experiment_has_its_verdicts_once(tmp_path: Path) -> None:
    point = Point("joint", 4.0, 4.0, 4.0)
    alone = Experiment("Heads", "c", "s", "h", "y", (Series("m", (point,)),), {}, (Verdict("v", "4", False),))
    write_experiments_page(tmp_path / "page.html", "Heads", [alone])
    page = Page((tmp_path / "page.html").read_text())
    assert page.text("h2") == ["Verdicts: 0 of 1 expectations hold"]
    cells = [text for _, text in page.texts]
    assert cells.count("NO") == 1
    assert "4 to 4" not in cells  # one run has no interval
