"""Displaced, drifting and interrupted recordings are found in real videos, named and measured.

An IDM takes minutes to train (test_mistimed_doom.py), so the camera's movement is measured in the pixels here.
"""

import numpy as np
import pytest

from vpt_jax.curation.validation import validate

from .conftest import MotionScorer, make_dataset, record, small_idm
from .mistimed import Fault, damage, findings_of, is_found, timings_of


@pytest.fixture
def validated(settings, monkeypatch, tmp_path):
    def make_validated(faults, frames):
        """Records one recording per fault, and puts the fault in; findings and timings by name."""
        for seed, (name, fault) in enumerate(faults.items()):
            record(path := tmp_path / "recordings" / "train" / name, seed + 100, frames)
            if fault:
                damage(path, fault)
        monkeypatch.setattr(validate, "load_idm", lambda workdir: small_idm())
        monkeypatch.setattr(validate, "EpisodeScorer", MotionScorer)
        validate.validate(settings(make_dataset(tmp_path / "recordings", tmp_path / "dataset"), idm="some"))
        return findings_of(tmp_path / "out"), timings_of(tmp_path / "out")

    return make_validated


def test_each_fault_is_named(validated):
    faults = {
        "clean": None,
        "displaced": Fault("displaced", -3),
        "drift": Fault("drift", 0.015),
        "dropped": Fault("dropped", 4, at=210),
        "repeated": Fault("dropped", -5, at=150),
    }
    findings, timings = validated(faults, frames=400)
    assert "clean" not in findings
    for name, fault in faults.items():
        assert fault is None or is_found(fault, findings[name], timings[name]), findings.get(name)
    details = [finding["detail"] for finding in findings["repeated"]]
    assert details[0] == "5 frames repeated at 0:07, while the camera turns"  # by the pixels
    assert details[1].startswith("5 frames repeated at 0:07 (z ")  # by the model


@pytest.mark.slow  # a minute or two
def test_faults_of_25_recordings_of_40_are_found(validated):
    """Ten displaced, ten drifting, five with dropped or repeated frames; at most one false alarm."""
    rng = np.random.default_rng(0)
    faults = [Fault("displaced", float(size)) for size in (1, -2, 3, -4, 5, -6, 7, -8, 9, -10)]
    faults += [Fault("drift", rate) for rate in (2e-3, -2e-3, 2.5e-3, -3e-3, 4e-3, -5e-3, 7e-3, -1e-2, 1.5e-2, -2e-2)]
    faults += [Fault("dropped", size, int(rng.integers(200, 1000))) for size in (1, 2, -3, 4, 8)]
    faults = [*faults, *[None] * 15]
    faults = {f"r{number:02}": faults[i] for number, i in enumerate(rng.permutation(len(faults)))}
    findings, timings = validated(faults, frames=1200)
    wrong = {name: (fault, findings.get(name)) for name, fault in faults.items()
             if fault and not is_found(fault, findings.get(name, []), timings[name])}  # fmt: skip
    assert not wrong
    assert len([name for name, fault in faults.items() if fault is None and name in findings]) <= 1
