"""The SVM in NumPy agrees with scikit-learn; patch distances; thresholds; invalid files are refused."""

import builtins

import numpy as np
import pytest
from sklearn.svm import SVC

from vpt_jax.curation.clean_filter.classifier import (
    ClassifierError,
    FrameClassifier,
    SVMClassifier,
    load_classifier,
    margins,
)
from vpt_jax.curation.clean_filter.novelty import build_patch_memory, distance_features, patch_distances
from vpt_jax.curation.clean_filter.training import (
    CrossValidationResult,
    assign_folds,
    choose_threshold,
    classify,
    cross_fit_thresholds,
    fit,
)


def three_clusters(rng, count=120, d=7):
    labels = np.arange(count) % 3
    return rng.normal(0, 1, (count, d)) + 1.5 * np.eye(3, d)[labels], labels


def svm_from(svc, d):
    arrays = svc.support_vectors_, svc.n_support_, svc.dual_coef_, svc.intercept_, np.array(svc._gamma)
    return SVMClassifier(np.zeros(d), np.ones(d), *arrays)


def test_decisions_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, labels = three_clusters(rng)
    svc, new = SVC(C=20, gamma="scale", break_ties=True).fit(x, labels), rng.normal(0, 2, (2500, 7))
    decisions = svm_from(svc, 7).decision_function(new)
    np.testing.assert_allclose(decisions, svc.decision_function(new), atol=1e-9)
    np.testing.assert_array_equal(decisions.argmax(-1), svc.predict(new))
    assert ((margins(decisions) >= 0) == (classify(decisions, 0.0) == 0)).all()


def test_a_stored_classifier_decides_the_same(tmp_path):
    rng = np.random.default_rng(1)
    labels, groups = np.arange(180) % 3, np.array([f"video{i % 5}" for i in range(180)])
    features = [rng.normal(0, 1, (180, size, size, 6)).astype(np.float32) for size in (4, 1)]
    features[0][labels == 1, 0, 0] += 6
    features[1][labels == 2] += 3
    training, maps = ([cells[part] for cells in features] for part in (slice(0, 90), slice(90, 180)))
    stored = FrameClassifier(*fit(training, labels[:90], groups[:90], 20.0), 0.25, {"embedder": "idm"})
    stored.save(tmp_path / "filter.npz")
    loaded = load_classifier(tmp_path / "filter.npz")
    np.testing.assert_array_equal(loaded.decision_function(maps), stored.decision_function(maps))
    assert (loaded.threshold, loaded.made_of, loaded.digest()) == (0.25, {"embedder": "idm"}, stored.digest())
    assert (loaded.decision_function(maps).argmax(-1) == labels[90:]).mean() > 0.9
    with np.load(tmp_path / "filter.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file)


def test_cells_are_compared_with_nearby_clean_cells():
    rng = np.random.default_rng(2)
    clean = rng.normal(0, 1, (40, 8, 8, 3)).astype(np.float32)
    memory = build_patch_memory(clean)
    assert patch_distances(clean, memory).max() == pytest.approx(0, abs=1e-2)
    moved = np.roll(clean[:1], 1, axis=2)
    assert patch_distances(moved, memory)[0, :, 1:].max() == pytest.approx(0, abs=1e-2)
    same_group = np.zeros((40, 40), bool)
    same_group[7] = np.arange(40) == 7
    assert patch_distances(clean, memory, same_group)[7].min() > 0.01
    outlier = clean[:1].copy()
    outlier[0, 5, 6] = 50
    found = patch_distances(outlier, memory)
    assert np.unravel_index(found.argmax(), found.shape) == (0, 5, 6)
    assert distance_features(found).shape == (1, 64 + 32)
    assert distance_features(found)[0, 64] == found.max()


def test_the_threshold_is_the_lowest_that_is_precise_enough():
    margin, clean = np.array([4.0, 3, 2, 1, 0]), np.array([True, True, False, True, False])
    assert choose_threshold(margin, clean, 0.75) == 1
    assert choose_threshold(margin, clean, 0.9) == 3
    assert choose_threshold(margin, ~clean, 0.9) == 0  # 0.4 is the best possible precision


def test_frames_of_one_margin_are_on_one_side_of_the_threshold():
    """Of equal margins, the precision counts all: pictures may be in a set twice."""
    margin = np.array([3.0, 2, 2, 2, 1])
    assert choose_threshold(margin, np.array([True, True, False, False, True]), 0.9) == 3
    assert choose_threshold(margin, np.array([False, True, True, True, False]), 0.7) == 2
    assert choose_threshold(np.full(3, 2.0), np.array([True, False, True]), 0.9) == 2


def test_a_video_is_in_one_fold_and_every_class_in_all_training_sets():
    rng = np.random.default_rng(3)
    labels = np.concatenate([np.full(40, 0), np.full(30, 1), np.full(9, 2)])
    groups = np.concatenate([rng.integers(0, 7, 40), 10 + rng.integers(0, 5, 30), 20 + np.arange(9) % 2])
    for folds in (3, 5, 10, 50):
        fold_of = assign_folds(labels, groups, folds)
        assert set(fold_of) == set(range(min(folds, 14)))
        assert all(len(set(fold_of[groups == group])) == 1 for group in groups)
        assert all(set(labels[fold_of != fold]) == {0, 1, 2} for fold in fold_of)
        np.testing.assert_array_equal(fold_of, assign_folds(labels, groups, folds))


def test_a_fold_that_would_leave_clean_pictures_of_one_video_is_refused():
    """They are compared with those of other videos."""
    labels, groups = np.array([0, 0, 0, 1, 1, 2, 2]), np.arange(7)
    with pytest.raises(ClassifierError, match=r"videos with pictures of 'clean': set config\.num_folds"):
        assign_folds(labels, groups, 2)
    assert len(set(assign_folds(labels, groups, 3))) == 3
    with pytest.raises(ClassifierError, match="the pictures of 'other' come from 1 videos, and 2 are needed"):
        assign_folds(labels, np.array([0, 1, 2, 3, 4, 5, 5]), 3)


def test_thresholds_are_cross_fitted():
    """The threshold of each fold is chosen on the other folds (related to fidelity S8)."""
    margin, clean = np.array([4.0, 3, 2, 1, 0, 5]), np.array([True, False, True, True, False, True])
    folds = np.array([0, 0, 1, 1, 1, 2])
    others = [choose_threshold(margin[folds != fold], clean[folds != fold], 0.9) for fold in range(3)]
    assert others == [1, 4, 4]
    assert cross_fit_thresholds(margin, clean, folds, 0.9).tolist() == [1, 1, 4, 4, 4, 4]
    decisions = np.stack([margin, np.zeros(6), np.full(6, -1.0)], -1)
    held_out = CrossValidationResult(np.where(clean, 0, 1), decisions, np.array([1, 1, 4, 4, 4, 4.0]), 4.0)
    assert held_out.predictions().tolist() == [0, 0, 1, 1, 1, 0]


def test_invalid_classifier_files_are_refused(tmp_path):
    with pytest.raises(
        ClassifierError, match=r"there is no classifier at .*none.npz: train one with --config.labelled"
    ):
        load_classifier(tmp_path / "none.npz")
    (tmp_path / "noise.npz").write_bytes(b"noise")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", facts=np.array([{}], object))
    for name in ("noise", "other", "pickled"):
        with pytest.raises(ClassifierError, match=f"{name}.npz is not a classifier written by launch/filter.py"):
            load_classifier(tmp_path / f"{name}.npz")


def test_training_without_scikit_learn_names_the_pip_command(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ClassifierError, match="training a filter needs scikit-learn"):
        assign_folds(np.array([0, 0, 0, 1, 1, 2, 2]), np.arange(7), 3)
    with pytest.raises(ClassifierError, match=r'pip install -c constraints.txt -e "\.\[filter\]"'):
        fit([np.zeros((3, 1, 1, 2), np.float32)], np.arange(3), np.array(["a", "b", "c"]), 20.0)
