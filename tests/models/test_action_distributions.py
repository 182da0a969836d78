"""Distributions of all heads against sums over every action: likelihood, KL, entropy, sampling and greedy actions."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.actions.spaces import LARGE, SMALL
from vpt_jax.actions.joint import JointAction, joint_tables
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.models import categorical
from vpt_jax.models.autoregressive_head import SAMPLES
from vpt_jax.models.heads import HEADS, logit_shapes, make_distribution, make_head

TINY = ActionSpace("tiny", ("a", "b", "c"), (Axis("x", "counts", AxisQuantizer(1, 1, None)),), groups=(("a", "b"),))
ALL_KEYS = np.array(list(product((0, 1), repeat=3)), np.uint8)
RAW = [(keys, np.float32([x])) for keys in ALL_KEYS for x in (-1, 0, 1)]


def random_logits(head, seed, space=TINY, batch=()):
    rng = np.random.default_rng(seed)
    logits = {name: rng.normal(0, 1.5, (*batch, *shape)) for name, shape in logit_shapes(head, space).items()}
    if "coupling" in logits:
        logits["coupling"] = np.tril(logits["coupling"], -1)
    return {name: jnp.asarray(values, jnp.float32) for name, values in logits.items()}


def all_actions(head):
    """Every action that the head can choose; of joint classes without camera, with the null camera class."""
    distribution = make_distribution(head, TINY)
    if head == "joint":
        tables = joint_tables(TINY)
        pairs = [(row, x) for row, on in enumerate(tables.has_camera) for x in (range(3) if on else [1])]
        return distribution, JointAction(*map(jnp.array, zip(*pairs, strict=True)))
    return distribution, distribution.encode(*map(np.stack, zip(*RAW, strict=True)))


def as_rows(action):
    """The numbers of every action, side by side."""
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(action))
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def log_probs(head, logits):
    distribution, actions = all_actions(head)
    return jax.vmap(lambda action: distribution.log_prob(logits, action))(actions)


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_sum_to_one(head):
    distribution, actions = all_actions(head)
    assert len(as_rows(actions)) == 24
    np.testing.assert_allclose(jnp.exp(log_probs(head, random_logits(head, 0))).sum(), 1, rtol=1e-5)
    raw = distribution.decode(actions)
    again = distribution.decode(distribution.encode(*(np.asarray(part) for part in raw)))
    jax.tree.map(np.testing.assert_array_equal, again, raw)


@pytest.mark.parametrize("head", HEADS)
def test_kl_and_entropy_equal_sums_over_all_actions(head):
    """Those of the autoregressive head are means over samples: within four standard errors of the sum."""
    p, q = random_logits(head, 1), random_logits(head, 2)
    distribution, (log_p, log_q) = all_actions(head)[0], (np.asarray(log_probs(head, x), float) for x in (p, q))
    kl, entropy = (np.exp(log_p) * (log_p - log_q)).sum(), -(np.exp(log_p) * log_p).sum()
    if head != "autoregressive":
        np.testing.assert_allclose([distribution.kl(p, q), distribution.entropy(p)], [kl, entropy], rtol=1e-4)
        return
    rows = 500  # copies have samples of their own
    p, q = ({name: jnp.broadcast_to(x, (rows, *x.shape)) for name, x in one.items()} for one in (p, q))
    for estimates, exact in ((distribution.kl(p, q), kl), (distribution.entropy(p), entropy)):
        assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(rows) + 1e-4
        assert estimates.std() < 2 / np.sqrt(SAMPLES)
    np.testing.assert_allclose(distribution.kl(p, p), 0, atol=1e-6)


def test_gradients_of_the_estimates_are_unbiased():
    """Of the entropy and of the KL's first argument, where the samples depend on the parameters."""
    p, q = random_logits("autoregressive", 3), random_logits("autoregressive", 4)
    distribution, rows = make_distribution("autoregressive", TINY), 4000

    def exact(logits, of):
        log_p, log_q = log_probs("autoregressive", logits), log_probs("autoregressive", q)
        return (jnp.exp(log_p) * (log_p - (log_q if of == "kl" else 0))).sum() * (1 if of == "kl" else -1)

    def estimated(logits, of):
        spread = {name: jnp.broadcast_to(x, (rows, *x.shape)) for name, x in logits.items()}
        other = {name: jnp.broadcast_to(x, (rows, *x.shape)) for name, x in q.items()}
        return (distribution.kl(spread, other) if of == "kl" else distribution.entropy(spread)).mean()

    for of in ("kl", "entropy"):
        wanted, found = (jax.jit(jax.grad(f), static_argnums=1)(p, of) for f in (exact, estimated))
        for name in wanted:
            mask = np.tril(np.ones((3, 3)), -1) if name == "coupling" else 1
            np.testing.assert_allclose(found[name] * mask, wanted[name] * mask, atol=0.02)


@pytest.mark.parametrize("head", HEADS)
def test_samples_have_the_distribution(head):
    logits, count = random_logits(head, 5), 20_000
    distribution, actions = all_actions(head)
    keys = jax.random.split(jax.random.key(0), count)
    drawn = as_rows(jax.jit(jax.vmap(lambda key: distribution.sample(key, logits)))(keys))
    shares = np.array([(drawn == row).all(1).mean() for row in as_rows(actions)])
    probabilities = np.exp(np.asarray(log_probs(head, logits)))
    assert (np.abs(shares - probabilities) < 4.5 * np.sqrt(probabilities / count) + 1e-4).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 121, 8641])
def test_samples_of_many_classes_have_the_distribution(classes):
    """Pearson's chi-squared statistic over up to ten groups of classes, below its 99.99% quantile."""
    logits = 2 * jax.random.normal(jax.random.key(classes), (classes,))
    logits = logits.at[1::3].set(-jnp.inf)
    count = 40_000
    draw = jax.jit(lambda key: categorical.sample(key, jnp.broadcast_to(logits, (count, classes))))
    drawn = np.asarray(draw(jax.random.key(0)))
    assert drawn.min() >= 0
    assert not np.isneginf(np.asarray(logits)[drawn]).any()
    groups = np.minimum(np.arange(classes) * 10 // classes, 9)
    expected = count * np.bincount(groups, jax.nn.softmax(logits), minlength=10)
    found = np.bincount(groups[drawn], minlength=10)
    used = expected > 5
    statistic = ((found - expected)[used] ** 2 / expected[used]).sum()
    assert statistic <= scipy.stats.chi2.ppf(0.9999, max(used.sum() - 1, 1))


def test_a_class_of_weight_zero_is_not_drawn_at_the_ends_of_the_range(monkeypatch):
    """Random numbers of 0 and just below 1, where products of them round."""
    for share in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, share=share: jnp.full(shape, share))
        for size in (1, 2, 3, 10, 59):
            logits = np.full(size, -np.inf, np.float32)
            logits[size // 2 :: 7] = np.linspace(0, 3, len(logits[size // 2 :: 7]))
            assert np.isfinite(logits[categorical.sample(jax.random.key(0), jnp.asarray(logits))])


@pytest.mark.parametrize("head", HEADS)
def test_greedy_actions_are_the_most_probable_choices(head):
    logits = random_logits(head, 6)
    distribution = make_distribution(head, TINY)
    greedy = distribution.log_prob(logits, distribution.argmax(logits))
    cold = {name: values * 1e4 for name, values in logits.items()}
    sampled = distribution.sample(jax.random.key(0), cold)
    assert distribution.log_prob(logits, sampled) == greedy
    if head == "factored":
        assert greedy == log_probs(head, logits).max()


def test_a_key_depends_on_those_before_it_only():
    logits = random_logits("autoregressive", 7)
    distribution = make_distribution("autoregressive", TINY)

    def log_odds(key, held):
        pair = [np.array(held, np.uint8) for _ in range(2)]
        pair[0][key], pair[1][key] = 1, 0
        return [distribution.log_prob(logits, distribution.encode(one, np.float32([0]))) for one in pair]

    own = logits["buttons"][:, 1] - logits["buttons"][:, 0]
    down, up = log_odds(2, [1, 1, 0])
    np.testing.assert_allclose(down - up, own[2] + logits["coupling"][2, 0] + logits["coupling"][2, 1], rtol=1e-4)


@pytest.mark.parametrize("space", [SMALL, LARGE], ids=lambda space: space.name)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_returns_logits_of_its_shapes(head, space):
    if (head, space) == ("joint", LARGE):
        return  # 2^64 classes: `make_distribution` refuses, tests/actions/test_space.py
    module = make_head(head, space, temperature=2.0)
    logits, variables = jax.jit(module.init_with_output)(jax.random.key(0), jnp.ones((2, 3, 8)))
    assert {name: values.shape[2:] for name, values in logits.items()} == logit_shapes(head, space)
    buttons, camera = np.zeros((2, 3, len(space.keys)), np.uint8), np.zeros((2, 3, len(space.axes)), np.float32)
    distribution = make_distribution(head, space)
    loss = distribution.log_prob(logits, distribution.encode(buttons, camera))
    assert loss.shape == (2, 3)
    assert np.isfinite(loss).all()
    if head == "autoregressive":
        assert not np.triu(np.asarray(logits["coupling"])).any()
        # keys^2 / 2 coefficients, in place of 2^keys classes
        assert variables["params"]["coupling"]["kernel"].shape[1] == len(space.keys) * (len(space.keys) - 1) // 2
