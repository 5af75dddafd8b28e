"""Discrete latents against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory.latents import categorical_kl, groups_entropy, gumbel_noise, straight_through, uniform_mix

LOGITS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_the_mix_has_the_share_of_the_uniform_distribution():
    np.testing.assert_allclose(np.exp(uniform_mix(LOGITS, 0.1)), 0.9 * softmax(LOGITS) + 0.1 / 4, rtol=1e-5)
    np.testing.assert_allclose(uniform_mix(LOGITS, 0.0), np.log(softmax(LOGITS)), rtol=1e-5, atol=1e-6)


def test_no_category_is_impossible_under_the_mix_and_gradients_are_finite():
    logits = jnp.array([1000.0, 0.0, -1000.0])
    assert float(jnp.exp(uniform_mix(logits, 0.01)).min()) == pytest.approx(0.01 / 3, rel=1e-4)
    assert jnp.isfinite(jax.grad(lambda x: uniform_mix(x, 0.01)[2])(logits)).all()


def test_samples_are_one_hot_and_follow_the_probabilities():
    log_probs = uniform_mix(LOGITS[0], 0.0)
    noise = gumbel_noise(jax.random.key(0), (20_000, 3, 4))
    samples = np.asarray(straight_through(jnp.broadcast_to(log_probs, noise.shape), noise))
    np.testing.assert_allclose(np.sort(samples, -1)[..., -1], 1.0, atol=1e-6)
    np.testing.assert_allclose(samples.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(samples.mean(0), softmax(LOGITS[0]), atol=0.015)


def test_the_gradient_of_a_sample_is_that_of_the_probabilities():
    weights = np.random.default_rng(1).normal(size=LOGITS.shape).astype(np.float32)
    noise = gumbel_noise(jax.random.key(1), LOGITS.shape)
    got = jax.grad(lambda x: (straight_through(uniform_mix(x, 0.01), noise) * weights).sum())(LOGITS)
    want = jax.grad(lambda x: (jnp.exp(uniform_mix(x, 0.01)) * weights).sum())(LOGITS)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_without_noise_the_most_likely_category_is_taken():
    sample = straight_through(uniform_mix(LOGITS, 0.01))
    assert (np.asarray(sample).argmax(-1) == LOGITS.argmax(-1)).all()


def test_kl_and_entropy_sum_over_the_groups():
    p, q = softmax(LOGITS), softmax(LOGITS[::-1])
    got = categorical_kl(jnp.log(p), jnp.log(q))
    np.testing.assert_allclose(got, (p * np.log(p / q)).sum((-2, -1)), rtol=1e-5)
    np.testing.assert_allclose(groups_entropy(jnp.log(p)), -(p * np.log(p)).sum((-2, -1)), rtol=1e-5)
    assert got.shape == (5,)
