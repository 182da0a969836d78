"""Mixtures of datasets: rows and shares, exact resuming, hosts, mapped action spaces, and datasets that do not fit."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace, ActionSpaceError, Axis
from vpt_jax.data.batch import combine
from vpt_jax.data.embeddings import EmbeddedStream, Encoder, write_embeddings
from vpt_jax.data.mixture import MixtureStream, WindowMixture, require_equal_data, split_rows
from vpt_jax.data.streams import Part, Stream, StreamSettings, WindowStream, batches
from vpt_jax.system.errors import ConfigError

from .tiny import write_dataset

LENGTHS = {"web": (31, 90, 45), "hired": (25, 40)}
WEIGHTS = {"web": 3.0, "hired": 1.0}
BATCH, LENGTH = 8, 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two datasets of tiny frames with different content."""
    root = tmp_path_factory.mktemp("mixed")
    return {
        name: write_dataset(root / name, lengths, seed=seed) for seed, (name, lengths) in enumerate(LENGTHS.items(), 1)
    }


def settings_of(folder, batch, **changes):
    return StreamSettings(str(folder), "train", batch, LENGTH, **{"nulls": "keep", "seed": 4} | changes)


def mix(folders, kind=MixtureStream, weights=WEIGHTS, batch=BATCH, **changes):
    windows = kind is WindowMixture
    rows = split_rows(list(weights.values()), batch)
    shares = list(weights.values()) if windows else rows
    streams = [
        (WindowStream if windows else Stream)(settings_of(folders[name], batch if windows else own, **changes))
        for name, own in zip(weights, rows, strict=True)
    ]
    parts = [Part(name, stream, s / sum(shares)) for name, stream, s in zip(weights, streams, shares, strict=True)]
    return kind(parts, batch)


def assert_equal(actual, expected):
    for field, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(field, wanted, strict=True)


@pytest.mark.parametrize(
    ("weights", "batch", "rows"),
    [
        ([3, 1], 8, [6, 2]),
        ([1, 3], 2, [1, 1]),
        ([1, 1, 1], 8, [3, 3, 2]),  # of equal remainders, the first count
        ([100, 1, 1], 4, [2, 1, 1]),
        ([0.1, 0.1, 0.1], 3, [1, 1, 1]),
        ([5, 5, 0.001], 11, [5, 5, 1]),
        ([70_000, 1_962], 880, [856, 24]),
        ([7], 3, [3]),
    ],
)
def test_rows_are_in_proportion_to_the_weights(weights, batch, rows):
    assert split_rows(weights, batch) == rows


def test_rows_add_up_and_are_within_one_of_their_proportion():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, batch = rng.uniform(1, 5, rng.integers(1, 6)), int(rng.integers(26, 200))
        rows = split_rows(weights.tolist(), batch)
        assert sum(rows) == batch
        assert (abs(rows - weights / weights.sum() * batch) < 1).all()


def test_fewer_rows_than_datasets_are_refused():
    with pytest.raises(ValueError, match="a batch of 2 rows is too small for 3 datasets: each needs a row"):
        split_rows([1, 1, 1], 2)


def test_every_row_reads_the_stream_of_its_dataset_alone(folders):
    mixture = mix(folders)
    alone = {"web": Stream(settings_of(folders["web"], 6)), "hired": Stream(settings_of(folders["hired"], 2))}
    names = ["web", "web", "hired", "web", "web", "web", "hired", "web"]
    own_rows = [0, 1, 0, 2, 3, 4, 1, 5]
    for step in (*range(8), 50):
        batch = mixture.read(step, range(BATCH))
        for row, (name, own) in enumerate(zip(names, own_rows, strict=True)):
            assert_equal([field[row] for field in batch[:5]], [field[0] for field in alone[name].read(step, [own])[:5]])
    assert mixture.frame_shape == (8, 8, 3)
    assert mixture.num_frames == 166 + 65
    assert mixture.num_episodes == 5
    assert mixture.bytes_read(4) == alone["web"].bytes_read(4)
    assert mixture.episodes(0) == sorted(
        {f"{name}/{e}" for name, own in zip(names, own_rows, strict=True) for e in alone[name].episodes_of_row(0, own)}
    )


@pytest.mark.parametrize("kind", [MixtureStream, WindowMixture])
def test_an_epoch_ends_when_the_first_dataset_has_been_read_once(folders, kind):
    mixture = mix(folders, kind)
    # 6 rows of 5 frames for 166 frames; 2 rows for 65
    assert mixture.steps_per_epoch == 6 == min(-(-166 // 30), -(-65 // 10))
    assert mix(folders, kind, {"web": 1, "hired": 1}).steps_per_epoch == 4 == -(-65 // 20)
    if kind is WindowMixture:
        return
    shown = Counter()
    for step in range(mixture.steps_per_epoch):
        chosen, rows = mixture.assignment(step)
        for i, row in zip(chosen, rows, strict=True):
            window = mixture.parts[i].stream.window(step, row)
            shown.update((i, e, f) for e, f in zip(window.episode[window.real], window.frame[window.real], strict=True))
    assert set(shown.values()) == {1}
    assert sum(key[0] == 0 for key in shown) == 166  # all of the first to finish
    assert 50 <= sum(key[0] == 1 for key in shown) <= 65


@pytest.mark.parametrize(("kind", "workers"), [(MixtureStream, 0), (MixtureStream, 2), (WindowMixture, 2)])
def test_resuming_in_the_middle_gives_the_same_batches_with_any_workers(folders, kind, workers):
    rows = [5, 0, 2, 7]
    whole = list(batches(mix(folders, kind), rows, 0, 9, 0))
    resumed = list(batches(mix(folders, kind), rows, 4, 9, workers))
    assert len(resumed) == 5
    for actual, expected in zip(resumed, whole[4:], strict=True):
        assert_equal(actual, expected)


@pytest.mark.parametrize("kind", [MixtureStream, WindowMixture])
def test_two_hosts_read_disjoint_rows_whose_union_is_the_batch(folders, kind):
    for step in range(3):
        whole = mix(folders, kind).read(step, range(BATCH))
        hosts = [mix(folders, kind).read(step, range(start, start + 4)) for start in (0, 4)]
        assert_equal(combine(np.concatenate, hosts), whole)
    chosen, own_rows = mix(folders).assignment(0)
    assert len(set(zip(chosen, own_rows, strict=True))) == BATCH
    assert set(chosen[:4]) == set(chosen[4:]) == {0, 1}  # each host reads both datasets


def test_rows_of_windows_have_exact_shares_over_the_steps(folders):
    mixture = mix(folders, WindowMixture, {"web": 7.0, "hired": 3.0}, batch=4)
    counts = np.array([(mixture.assignment(step)[0] == 1).sum() for step in range(2000)])
    assert set(counts) == {1, 2}  # 1.2 rows
    # Each step has a second row with probability 0.2.
    assert abs(counts.mean() - 1.2) < 4 * np.sqrt(0.2 * 0.8 / 2000)
    by_row = np.mean([mixture.assignment(step)[0] == 1 for step in range(2000)], axis=0)
    assert abs(by_row - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / 2000)


def test_a_row_of_windows_reads_what_its_dataset_has_there(folders):
    mixture = mix(folders, WindowMixture)
    alone = [WindowStream(settings_of(folders[name], BATCH)) for name in WEIGHTS]
    for step in range(4):
        chosen, own_rows = mixture.assignment(step)
        assert own_rows.tolist() == list(range(BATCH))
        batch = mixture.read(step, range(BATCH))
        for row, i in enumerate(chosen):
            assert_equal([field[row] for field in batch[:5]], [field[0] for field in alone[i].read(step, [row])[:5]])


def test_shares_in_the_loss_count_the_frames_that_are_scored(folders):
    # In an epoch of their own, 6 rows read 166 frames in 6 steps, and 2 rows 65 frames in 7.
    frames = np.array([166 / 6, 65 / 7])
    assert mix(folders).loss_shares == pytest.approx(frames / frames.sum())
    assert mix(folders, WindowMixture).loss_shares == pytest.approx([0.75, 0.25])


GAME = ActionSpace("game", ("up", "fire"), (Axis("yaw"),))
OTHER = ActionSpace("other", ("w", "menu", "lmb"), (Axis("x", "pixels", limit=5000.0), Axis("y", "pixels")))
MAPPING = ActionMapping((("w", "up"), ("lmb", "fire")), (("x", "yaw", 0.5),))


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """Datasets of two games with action spaces of their own."""
    root = tmp_path_factory.mktemp("games")
    return write_dataset(root / "game", (30, 20), space=GAME), write_dataset(root / "other", (40, 35), space=OTHER)


def test_actions_of_another_game_are_mapped_when_they_are_read(games):
    game, other = (settings_of(folder, 2) for folder in games)
    mapped = Stream(replace(other, mapping=MAPPING, space=GAME))
    mixture = MixtureStream([Part("game", Stream(game), 0.5), Part("other", mapped, 0.5)], 4)
    batch, plain = mixture.read(0, range(4)), Stream(other).read(0, range(2))
    assert mixture.space == GAME
    assert batch.buttons.shape == (4, LENGTH, 2)
    rows = [row for row, part in enumerate(mixture.assignment(0)[0]) if part == 1]
    np.testing.assert_array_equal(batch.frames[rows], plain.frames)
    np.testing.assert_array_equal(batch.buttons[rows], plain.buttons[..., [0, 2]])
    np.testing.assert_array_equal(batch.camera[rows], 0.5 * plain.camera[..., :1])
    np.testing.assert_array_equal(mapped.actions(1)[0], Stream(other).actions(1)[0][:, [0, 2]])


def test_null_actions_are_found_after_the_mapping(games):
    other = replace(settings_of(games[1], 2), nulls="drop")
    keys_only = replace(other, mapping=replace(MAPPING, axes=()), space=GAME)
    stream, raw = Stream(keys_only), Stream(other)
    buttons = np.concatenate([raw.actions(episode)[0] for episode in range(2)])
    acting = buttons[:, [0, 2]].any(1)
    assert stream.num_frames == acting.sum() < len(acting)
    assert ((buttons[:, 1] == 1) & ~acting).any()  # `menu` alone is no action of the other game


def test_other_action_spaces_are_refused_with_the_difference(games):
    parts = [Part(name, Stream(settings_of(folder, 1)), 0.5) for name, folder in zip("ab", games, strict=True)]
    message = "a has the action space 'game', and b has 'other': keys: only the first has fire, up; keys: only the"
    with pytest.raises(ConfigError, match=message):
        MixtureStream(parts, 2)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (ActionMapping((("w", "sneak"),)), "goes to sneak, which the action space 'game' lacks"),
        (ActionMapping((("shift", "up"),)), "is of shift, which the action space 'other' lacks"),
    ],
)
def test_a_mapping_that_fits_neither_space_is_refused(games, mapping, message):
    with pytest.raises(ActionSpaceError, match=message):
        Stream(replace(settings_of(games[1], 2), mapping=mapping, space=GAME))
    with pytest.raises(ValueError, match="needs the action space"):
        replace(settings_of(games[1], 2), mapping=mapping)


def test_frames_of_other_sizes_are_refused(folders, tmp_path):
    large = write_dataset(tmp_path / "large", (9,), size=16)
    parts = [Part(name, Stream(settings_of(f, 1)), 0.5) for name, f in (("web", folders["web"]), ("large", large))]
    with pytest.raises(ConfigError, match="the frames of web are 8x8, and those of large are 16x16: prepare them"):
        MixtureStream(parts, 2)
    with pytest.raises(ConfigError, match="frames of the run are 8x8, and those of held out are 16x16"):
        require_equal_data("the run", mix(folders), "held out", parts[1].stream)


def test_the_fingerprint_has_every_dataset_and_no_folder(folders, games, tmp_path):
    mixture = mix(folders)
    alone = [part.stream.fingerprint() for part in mixture.parts]
    of_all = {name: alone[0][name] for name in ("frame_shape", "length")}  # by which a model is loaded
    each = {f"dataset{i}.{k}": v for i, one in enumerate(alone, 1) for k, v in one.items()}
    assert mixture.fingerprint() == of_all | each
    assert "mixed" not in str(mixture.fingerprint())
    windows = mix(folders, WindowMixture)
    assert windows.fingerprint()["dataset2.share"] == 0.25
    assert windows.fingerprint() != mix(folders, WindowMixture, {"web": 3.1, "hired": 1.0}).fingerprint()
    mapped = Stream(replace(settings_of(games[1], 2), mapping=MAPPING, space=GAME))
    assert mapped.fingerprint()["mapping"] == MAPPING.to_dict()
    other = Stream(replace(mapped.settings, mapping=replace(MAPPING, axes=()))).fingerprint()
    assert mapped.fingerprint() != other


def test_the_fingerprint_of_one_dataset_is_that_of_earlier_versions(folders):
    """Values that version 2.0.0 of the layout computed for this dataset: else no stored run would resume."""
    assert Stream(settings_of(folders["web"], 3)).fingerprint() == {
        "split": "train", "batch": 3, "length": 5, "nulls": "keep", "seed": 4, "shuffle": True, "minutes": 0.0,
        "frame_shape": [8, 8, 3], "episodes": "4bcd4639e03bcfa5", "kept_frames": 166,
    }  # fmt: skip
    assert Stream(settings_of(folders["web"], 3)).space == MINERL


def test_embeddings_of_a_mixture_take_the_place_of_its_frames(games, tmp_path):
    """Of both games, with the actions of one mapped; the images are embedded once, whatever the mapping."""
    encoder = Encoder(lambda frames: frames.reshape(len(frames), -1)[:, :3] / 2, "digest", 3)
    game, other = (settings_of(folder, 2) for folder in games)
    all_settings = [game, replace(other, mapping=MAPPING, space=GAME)]
    streams = []
    for number, settings in enumerate(all_settings):
        write_embeddings(settings, encoder, tmp_path / str(number))
        streams.append(EmbeddedStream(settings, tmp_path / str(number), "digest"))
    embedded = MixtureStream([Part(name, stream, 0.5) for name, stream in zip("ab", streams, strict=True)], 4)
    plain = embedded.with_streams(lambda stream: Stream(stream.settings))
    actual, expected = embedded.read(1, range(4)), plain.read(1, range(4))
    np.testing.assert_array_equal(actual.frames, expected.frames.reshape(4, LENGTH, -1)[..., :3] / 2)
    assert_equal(actual[1:], expected[1:])
    assert embedded.bytes_read(4) < plain.bytes_read(4)
