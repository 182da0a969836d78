"""Effects of text on counts: differences in pairs, intervals and the permutation test."""

import numpy as np
import pytest

from vpt_jax.evaluation.steering import text_effect


def counts(effect, episodes=40, seed=0):
    """Counts of three captions that share what depends on the episode's seed; the first has an effect."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(10, 20, episodes)
    noise = rng.normal(0, 1, (3, episodes))
    return {"a": shared + effect + noise[0], "b": shared + noise[1], "c": shared + noise[2]}


def test_an_effect_is_found_although_episodes_differ_more():
    effect = text_effect(counts(2.0), "a")
    assert effect.difference.value == pytest.approx(effect.asked - effect.others)
    assert effect.difference.low < 2.0 < effect.difference.high
    assert effect.difference.value > 3 * effect.error > 0.3
    assert effect.p_value == pytest.approx(1 / 10_001)
    assert text_effect(counts(2.0), "b").difference.high < 0
    assert text_effect(counts(2.0), "a") == effect


def test_captions_without_effect_rarely_reach_significance():
    p_values = np.array([text_effect(counts(0.0, 12, seed), "a").p_value for seed in range(10)])
    assert (p_values < 0.05).sum() <= 2
    assert p_values.min() > 0
    equal = {caption: np.zeros(5) for caption in "ab"}
    assert text_effect(equal, "a").p_value == 1


def test_one_caption_or_episode_is_not_enough():
    with pytest.raises(ValueError, match="two captions and two episodes, not 1 and 40"):
        text_effect({"a": counts(0)["a"]}, "a")
