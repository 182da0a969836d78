"""Constant shifts, drifts and jumps of hand-made likelihood surfaces, and how often there is a false alarm."""

import re

import numpy as np
import pytest

from vpt_jax.curation.validation.alignment import FrameLogProbs, measure_alignment
from vpt_jax.curation.validation.blocks import beats_shuffles, block_frames, overdispersion, paired_z, to_blocks
from vpt_jax.curation.validation.findings import alignment_findings
from vpt_jax.curation.validation.timing import Jump, Timing, measure_timing

from .conftest import ideal_log_probs
from .test_alignment import FRAMES, play

REACH = 12


def surface_of(path, seed=0, noise=0.5, stretch=5):
    """Log-likelihood that falls by 0.4 nats per frame of wrong shift, with noise that lasts for `stretch` frames."""
    rng, frames = np.random.default_rng(seed), len(path)
    loss = 0.4 * np.minimum(np.abs(np.arange(-REACH, REACH + 1) - np.asarray(path)[:, None]), 6)
    noises = rng.normal(0, noise, (frames // stretch + 1, 2 * REACH + 1)).repeat(stretch, 0)[:frames]
    return (noises - loss).astype(np.float32)


def line(start, end, frames=1200):
    return np.round(np.linspace(start, end, frames)).astype(int)


def steps(*segments):
    return np.concatenate([np.full(frames, shift) for shift, frames in segments])


def measure(surface):
    return measure_timing(surface, int(surface.sum(0).argmax()) - REACH)


@pytest.mark.parametrize("shift", [-5, 0, 2, REACH])
def test_constant_shifts_are_constant(shift):
    assert measure(surface_of(np.full(1200, shift))) == Timing(shift, shift)


@pytest.mark.parametrize(("start", "end"), [(0, 3), (-1, 2), (2, -2), (0, 12), (-10, 10), (4, -9)])
def test_drifts_are_measured(start, end):
    timing = measure(surface_of(line(start, end)))
    assert timing.drift == pytest.approx((end - start) / 1200, abs=0.6 / 1200)
    assert (timing.start, timing.end) == pytest.approx((start, end), abs=0.6)
    assert timing.drift_z > 5
    assert not timing.jumps


def test_a_thousandth_is_found_in_two_minutes():
    timing = measure(surface_of(line(0, 2.4, 2400)))
    assert timing.drift == pytest.approx(0.001, abs=0.0002)
    assert abs(timing.drift - 0.001) < 3 * timing.drift_error


@pytest.mark.parametrize("count", [-8, -2, 1, 2, 4, 10])
def test_jumps_are_measured(count):
    timing = measure(surface_of(steps((1, 700), (1 + count, 500))))
    (jump,) = timing.jumps
    assert (jump.frames, timing.start, timing.end, timing.drift) == (count, 1, 1 + count, 0)
    assert abs(jump.frame - 700) <= 20
    assert jump.z > 5


def test_several_jumps_are_measured():
    timing = measure(surface_of(steps((0, 400), (4, 300), (1, 500), (5, 600))))
    assert [jump.frames for jump in timing.jumps] == [4, -3, 4]
    assert np.abs(np.array([jump.frame for jump in timing.jumps]) - [400, 700, 1200]).max() <= 20


def test_one_frame_of_drift_is_called_a_jump():
    timing = measure(surface_of(line(0, 1.2)))
    assert [jump.frames for jump in timing.jumps] == [1]
    found = list(alignment_findings({"a": fit_of(timing)}))
    assert found[0].kind == "dropped"
    assert "; or a clock that drifts: one frame cannot tell" in found[0].detail


def test_a_jump_near_an_end_is_not_found():
    assert measure(surface_of(steps((0, 1140), (4, 60)))).is_constant


def test_path_has_the_shift_of_every_frame():
    path = steps((0, 700), (4, 300), (3, 200))
    np.testing.assert_array_equal(measure(surface_of(path, noise=0)).path(1200), path)
    np.testing.assert_array_equal(Timing(-2, -2).path(3), [-2] * 3)
    np.testing.assert_array_equal(Timing(0.5, 3.5, drift=0.5).path(6), [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize(("frames", "seeds"), [(300, 60), (1200, 20)])
def test_false_alarms_are_rare(frames, seeds):
    """None in noise that is larger than the loss of a shift, and lasts for a second; nor where nothing fits at all."""
    quiet = [surface_of(np.zeros(frames, int), seed, noise=3.0, stretch=20) for seed in range(seeds)]
    assert all(measure(surface).is_constant for surface in quiet)
    unrelated = [surface - surface_of(np.zeros(frames, int), 0, noise=0) for surface in quiet]
    assert sum(not measure(surface).is_constant for surface in unrelated) <= seeds // 20


def test_a_part_without_evidence_gives_no_jump():
    surface = surface_of(np.zeros(1200, int), noise=0.5)
    surface[:500] = np.random.default_rng(1).normal(0, 0.1, (500, 2 * REACH + 1))  # a player who does nothing
    assert measure(surface).is_constant


def test_timing_survives_json():
    timing = Timing(1, 5, 2.5, jumps=(Jump(700, 4, 9.0),))
    assert Timing.from_dict(timing.as_dict()) == timing
    assert not timing.is_constant


def test_drift_and_jumps_of_actions_are_found():
    """Actions of an ideal model, moved against its frames: what `validate` reports."""
    buttons, camera = play(0)
    log_probs = ideal_log_probs(buttons, camera)
    fast = np.floor(np.arange(FRAMES) / 1.01).astype(int)
    without = FrameLogProbs(*(np.delete(field, np.arange(345, 349), 0) for field in log_probs))
    extra = FrameLogProbs(*(np.insert(field, [245] * 3, field[245], 0)[:FRAMES] for field in log_probs))
    fits = {
        "drift": measure_alignment(log_probs, buttons[fast], camera[fast]),
        "dropped": measure_alignment(without, buttons[:-4], camera[:-4]),
        "repeated": measure_alignment(extra, buttons, camera),
        "late": measure_alignment(extra, np.roll(buttons, 2, 0), np.roll(camera, 2, 0)),
    }
    found = [(finding.kind, finding.where, finding.detail.split(" (z")[0]) for finding in alignment_findings(fits)]
    assert found[0][:2] == ("drift", "drift")
    assert re.fullmatch(
        r"clock drifts by \+(1\.0\d|0\.9\d)% \(1[12]\.\d frames per minute, standard error 0\.\d\): "
        r"actions come, in frames, 0\.\d too late at the start and 6\.\d too late at the end",
        found[0][2],
    )
    assert found[1:] == [
        ("dropped", "dropped", "4 frames dropped at 0:17"),
        ("repeated", "repeated", "3 frames repeated at 0:12"),
        ("displaced", "late", "actions come 2 frames too late until 0:12"),
        ("repeated", "late", "3 frames repeated at 0:12"),
    ]


def fit_of(timing):
    """An alignment that fits, with the given timing."""
    buttons, camera = play(0)
    fit = measure_alignment(ideal_log_probs(buttons, camera), buttons, camera)
    return type(fit).from_dict(fit.as_dict() | {"timing": timing.as_dict()})


def test_blocks_are_whole_seconds():
    assert [block_frames(frames) for frames in (1, 20, 6000, 6001, 72_000)] == [20, 20, 20, 40, 240]
    assert to_blocks(np.arange(50)).tolist() == [sum(range(20)), sum(range(20, 40))]
    assert to_blocks(np.ones((45, 3))).tolist() == [[20] * 3] * 2


def test_paired_z_is_a_mean_over_its_error():
    assert paired_z(np.array([1.0, 3.0, 0.0])) == pytest.approx(4 / (np.sqrt(2) * np.sqrt(2)))
    assert paired_z(np.array([5.0, 0.0])) == 0
    assert paired_z(np.array([5.0, 5.0])) == 999


def test_only_an_unusual_order_beats_its_shuffles():
    rising = np.arange(30.0)[:, None]
    assert beats_shuffles(lambda blocks: float(np.arange(30) @ blocks[:, 0]), rising)
    assert not beats_shuffles(lambda blocks: float(np.arange(30) @ blocks[:, 0]), rising[::-1])
    assert not beats_shuffles(lambda blocks: float(blocks.sum()), rising)


def test_overdispersion_is_the_excess_of_variance():
    """Losses of a block of 20 frames: mean 20 m, and variance 20 * 2 m if frames are independent; 5-fold if not."""
    rng, mean = np.random.default_rng(0), 0.1
    for stretch, expected in ((1, 1.0), (5, 5.0)):
        losses = rng.normal(mean, np.sqrt(2 * mean), (40_000 // stretch, 9)).repeat(stretch, 0)
        losses[:, 4] = 0
        assert overdispersion(-losses, np.zeros(40_000, int)) == pytest.approx(expected, rel=0.25)
