"""Report of a training run: self-contained page, its figures, and its film."""

import base64
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.actions.joint import JointAction, factored_from_joint
from vpt_jax.actions.minerl import BUTTONS, CAMERA, MINERL
from vpt_jax.data.mixture import MixtureStream
from vpt_jax.data.prepare import prepare
from vpt_jax.data.streams import Part, Stream, StreamSettings, WindowStream
from vpt_jax.evaluation.baselines import idm_baselines, policy_baselines
from vpt_jax.evaluation.metrics import Prediction
from vpt_jax.models.policy import Policy
from vpt_jax.recording import RecordingWriter
from vpt_jax.report import training as report
from vpt_jax.training.behavioural_cloning import cloning
from vpt_jax.training.objective import Objective
from vpt_jax.video import decode

from ..html_page import Page

SIZE = 64
KEYS = {"forward": 0.5, "jump": 0.3, "attack": 0.1}
SHARES = ("f1/mean", "camera_accuracy", "camera_accuracy_moving")


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """A training stream, and a validation stream of two episodes: the longer second one begins inside a window."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, frames in {"train/a": 80, "valid/b": 30, "valid/c": 100}.items():
        path = folder / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with RecordingWriter(path, SIZE, SIZE) as recording:
            for _ in range(frames):
                keys = {key: int(rng.random() < share) for key, share in KEYS.items()}
                turn = rng.normal(0, 4, 2) * (rng.random() < 0.5)
                colour = rng.integers(0, 256, 3, np.uint8)
                recording.write(np.tile(colour, (SIZE, SIZE, 1)), keys | {"camera": turn})
    config = runpy.run_path(str(Path(__file__).parents[2] / "configs/prepare.py"))["get_config"]()
    config.update(
        recordings=str(folder / "recordings"), out=str(folder / "dataset"), height=SIZE, width=SIZE, workers=1
    )
    dataset = str(prepare(config))
    return tuple(Stream(StreamSettings(dataset, split, batch=2, length=8)) for split in ("train", "valid"))


@pytest.fixture(scope="module")
def model():
    policy = Policy(widths=(8,), features=32, heads=2, layers=1, memory_length=8)
    frames, first = jnp.zeros((1, 1, SIZE, SIZE, 3), jnp.uint8), jnp.zeros((1, 1), bool)
    shapes = jax.eval_shape(policy.init, jax.random.key(0), frames, first, policy.initial_memory(1))["params"]
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        """Random values: much faster than compiling `policy.init`, and other frames get other actions."""
        if leaf.ndim == 1:
            return np.full(leaf.shape, path[-1].key == "scale", np.float32)
        return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)

    return policy, jax.tree_util.tree_map_with_path(draw, shapes)


def objective(policy):
    return cloning(policy, (SIZE, SIZE, 3), marginal=None)  # which only initialization needs


@pytest.fixture(scope="module")
def written(streams, model, tmp_path_factory):
    """A written report: its HTML, the film's path, and the metrics that it shows."""
    workdir, (train, valid) = tmp_path_factory.mktemp("run<1>"), streams
    baselines = policy_baselines(train, valid)
    last = {name: value * 0.8 + 0.001 for name, value in baselines["repeat"].items()} | {"frames": valid.num_frames}
    log = [{"step": step, "train/loss": 9.0 / step} for step in range(1, 41)]
    log[20:20] = [{"step": 20, **{f"valid/{name}": 0.5 for name in last}}]
    log += [{"step": 40, **{f"valid/{name}": value for name, value in last.items()}}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    policy, params = model
    html, film = report.write_report(
        workdir,
        stage="policy",
        facts={"Device": "<b>1</b> & 2"},
        objective=objective(policy),
        params=params,
        train=train,
        held_out=[report.HeldOut("", valid, baselines)],
    )
    return html.read_text(), film, {"model": last, **baselines}


def test_page_is_complete_and_self_contained(written):
    page = Page(written[0])
    assert page.text("h2") == [
        "Prediction of held-out play",
        "Learning curves",
        "Held-out play: predicted against recorded",
        "F1 of each key",
        "Training examples",
    ]
    counts = {tag: page.tags.count(tag) for tag in ("svg", "img", "video", "table", "script", "link", "b")}
    assert counts == {"svg": 4, "img": report.EXAMPLES, "video": 1, "table": 2, "script": 0, "link": 0, "b": 0}
    sources = [value for _, name, value in page.attributes if name in ("src", "srcset", "href", "poster", "data")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "://" not in written[0]
    assert not re.search(r"url\((?!#)|@import", written[0])
    assert "<b>1</b> & 2" in page.text("dd")
    assert page.text("h1")[0].startswith("Behavioural cloning: run<1>")


def test_tables_show_the_given_figures(written, streams):
    _, valid = streams
    *_, figures = written
    columns = [figures[name] for name in ("model", "marginal", "repeat")]
    buttons, _ = zip(*map(valid.actions, range(2)), strict=True)
    held = dict(zip(BUTTONS, np.concatenate([b[valid.kept(i)] for i, b in enumerate(buttons)]).mean(0), strict=True))
    rows = [[f"{column['nll']:.3f}" for column in columns]]
    rows += [[f"{100 * (1 - column['nll'] / figures['marginal']['nll']):.1f}%" for column in columns]]
    rows += [[f"{column[name]:.3f}" for column in columns] for name in SHARES]
    for name in KEYS:
        rows += [[*(f"{column[f'f1/{name}']:.3f}" for column in columns), f"{held[name]:.1%}"]]
    page = Page(written[0])
    assert page.text("td") == [cell for row in rows for cell in row]
    styles = [value for tag, name, value in page.attributes if (tag, name) == ("td", "style")]
    bars = [float(style.removeprefix("--share: ")) for style in styles]
    assert [f"{bar:.2f}" for bar in bars[:3]] == [f"{column['f1/mean']:.2f}" for column in columns]


def test_film_is_of_the_longest_episode_and_is_embedded(written, streams):
    html, path, _ = written
    kept = streams[1].kept_lengths
    frames = list(decode(path))
    assert len(frames) == kept[1] < 100
    assert frames[0].shape == (8 * SIZE + 52, 8 * SIZE, 3)
    embedded = re.search(r'<video [^>]*src="data:video/mp4;base64,([^"]*)"', html)
    assert base64.b64decode(embedded[1]) == path.read_bytes()
    assert f"Held-out episode {streams[1].index.names[1]}," in html


def test_play_predicts_as_the_policy_does_on_the_episode_alone(streams, model):
    (_, valid), (policy, params) = streams, model
    play = list(report.held_out_play(objective(policy), params, valid, 1, 1000))
    frames = np.stack([frame for frame, *_ in play])
    output = jax.jit(policy.apply)(
        {"params": params}, frames[None], np.arange(len(play))[None] == 0, policy.initial_memory(1)
    )
    buttons, bins = factored_from_joint(
        MINERL, JointAction(*(np.asarray(x[0].argmax(-1)) for x in output.logits.values()))
    )
    assert len(np.unique(buttons, axis=0)) > 1
    for (_, recorded, predicted, *_), row, held, turn in zip(play, valid.kept(1), buttons, bins, strict=True):
        np.testing.assert_array_equal(predicted[0], held)
        np.testing.assert_allclose(predicted[1], CAMERA.to_values(turn), rtol=1e-6)
        for stored, shown in zip(valid.actions(1), recorded, strict=True):
            np.testing.assert_array_equal(stored[row], shown)


def test_play_is_limited_and_inventory_does_not_turn(streams, model):
    (_, valid), (policy, params) = streams, model
    head = params["actions"]["buttons"]
    head = head | {"bias": head["bias"] + 1e3 * (np.arange(len(head["bias"])) == 8640)}
    params = params | {"actions": params["actions"] | {"buttons": head}}
    play = list(report.held_out_play(objective(policy), params, valid, 1, 10))
    assert len(play) == 10
    for _, _, (buttons, camera), *_ in play:
        assert buttons.nonzero() == (np.array([BUTTONS.index("inventory")]),)
        assert not camera.any()


def test_an_inverse_dynamics_run_has_its_own_baselines_and_shows_all_frames(streams, tmp_path):
    train, valid = (WindowStream(replace(stream.settings, nulls="keep")) for stream in streams)
    baselines = idm_baselines(train, valid)
    figures = {
        f"{view}/{name}": value / 2 for view in ("valid", "acting") for name, value in baselines["repeat"].items()
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 3, "train/loss": 1.0, **figures}) + "\n")

    def perfect_predict(params, memory, batch):
        return Prediction(0 * batch.valid, batch.buttons, CAMERA.to_values(CAMERA.to_bins(batch.camera))), memory

    perfect = Objective(None, lambda rows: (), None, perfect_predict, {})
    html, film = report.write_report(
        tmp_path, stage="idm", facts={}, objective=perfect, params=None, train=train,
        held_out=[report.HeldOut("", valid, baselines)],
    )  # fmt: skip
    page = Page(html.read_text())
    assert page.text("h1")[0].startswith("Inverse dynamics: ")
    assert page.text("th")[:5] == ["Model", "All released", "Repeat the last action", "NLL (nats per frame)",
                                   "NLL below all released"]  # fmt: skip
    assert page.text("td")[:2] == [f"{figures['valid/nll']:.3f}", f"{baselines['released']['nll']:.3f}"]
    assert any("before and after" in text for text in page.text("p"))
    assert "dropped, as in training" not in html.read_text()
    assert len(list(decode(film))) == 100
    for _, recorded, predicted, *_ in report.held_out_play(perfect, None, valid, 1, 100):
        np.testing.assert_array_equal(recorded[0], predicted[0])


def test_the_page_of_a_mixture_shows_every_validation_set(streams, model, tmp_path):
    train, valid = streams
    mixture = MixtureStream([Part(name, train, 0.5) for name in ("hired", "web")], 4)
    held_out = [report.HeldOut(name, valid, policy_baselines(mixture, valid)) for name in ("hired", "web")]
    figures = {
        f"valid_{name}/{metric}": value * factor
        for (name, _, baselines, _), factor in zip(held_out, (0.5, 0.25), strict=True)
        for metric, value in baselines["repeat"].items()
    }
    figures |= {f"test/{metric}": value * 0.75 for metric, value in held_out[0].baselines["repeat"].items()}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 3, "train/loss": 1.0, **figures}) + "\n")
    policy, params = model
    html, film = report.write_report(
        tmp_path, stage="policy", facts={}, objective=objective(policy), params=params, train=mixture,
        held_out=held_out, test=report.HeldOut("", valid, held_out[0].baselines, "test"),
    )  # fmt: skip
    page = Page(html.read_text())
    assert page.text("h2") == [
        "Prediction of held-out play: test",
        "Prediction of held-out play: hired", "Prediction of held-out play: web", "Learning curves: hired",
        "Learning curves: web", "Held-out play: predicted against recorded", "F1 of each key: hired",
        "F1 of each key: web", "Training examples",
    ]  # fmt: skip
    cells = page.text("td")
    groups = "valid_hired", "valid_web", "test"
    assert [f"{figures[f'{group}/nll']:.3f}" in cells for group in groups] == [True] * 3
    splits = [text.split("of the split ")[1].split(".")[0] for text in page.text("p") if text.startswith("After step")]
    assert splits == ["`test`", "`valid`", "`valid`"]
    assert page.tags.count("img") == report.EXAMPLES
    assert film.exists()


def test_without_an_evaluation_the_error_names_the_file(streams, model, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl holds no evaluation"):
        report.write_report(
            tmp_path, stage="policy", facts={}, objective=None, params=None, train=None,
            held_out=[report.HeldOut("", None, {})],
        )  # fmt: skip


def test_actions_are_described():
    buttons, camera = np.eye(20, dtype=np.uint8)[0], np.array([-1.0, 2.54])
    assert report.describe(MINERL, buttons, camera) == "attack; camera 2.5° right, 1.0° up"
    assert report.describe(MINERL, 0 * buttons, np.zeros(2)) == "no key; camera still"
