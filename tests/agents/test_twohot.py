"""Two-hot distributions against hand-computed numbers and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hippodrome.agents.dreamer.twohot import symexp, symlog, two_hot, two_hot_loss, two_hot_mean, value_bins


def test_symlog_and_its_inverse():
    x = np.array([-1000.0, -1.0, -0.01, 0.0, 0.01, 1.0, 1000.0])
    np.testing.assert_allclose(symlog(x), np.sign(x) * np.log(1.0 + np.abs(x)), rtol=1e-6)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5)


def test_bins_are_spaced_by_symexp_and_symmetric():
    bins = np.asarray(value_bins(255))
    even = np.linspace(-20.0, 20.0, 255)
    np.testing.assert_allclose(bins, np.sign(even) * np.expm1(np.abs(even)), rtol=2e-5)
    assert (bins == -bins[::-1]).all() and bins[127] == 0.0 and (np.diff(bins) > 0).all()


@pytest.mark.parametrize("number", [1, 4, -3])
def test_an_even_number_of_bins_is_refused(number):
    with pytest.raises(ValueError, match=f"num_bins={number} must be odd and at least 3"):
        value_bins(number)


def test_weights_are_interpolated_in_raw_space_and_not_over_symlog():
    bins = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0])
    np.testing.assert_allclose(two_hot(jnp.array(2.5), bins), [0, 0, 0, 0.25, 0.75], atol=1e-6)
    np.testing.assert_allclose(two_hot(jnp.array(-1.0), bins), [0, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(two_hot(jnp.array(9.0), bins), [0, 0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(two_hot(jnp.array(-9.0), bins), [1, 0, 0, 0, 0], atol=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-1e6, 1e6, width=32))
def test_the_mean_of_the_weights_is_the_number(x):
    bins = value_bins(255)
    weights = np.asarray(two_hot(jnp.array(x), bins), np.float64)
    assert weights.sum() == pytest.approx(1.0, abs=1e-6) and (weights > 0).sum() <= 2
    assert (weights * np.asarray(bins, np.float64)).sum() == pytest.approx(x, rel=1e-5, abs=1e-5)


def test_the_mean_of_a_symmetric_distribution_is_exactly_zero():
    """Summed from left to right it would be the rounding error of numbers near 5e8."""
    assert two_hot_mean(jnp.zeros(255), value_bins(255)) == 0.0
    logits = jax.random.normal(jax.random.key(0), (127,))
    assert two_hot_mean(jnp.concatenate([logits, jnp.ones(1), logits[::-1]]), value_bins(255)) == 0.0


def test_the_mean_of_the_best_logits_is_the_target():
    bins = value_bins(41)
    for x in (-7.0, 0.0, 0.3, 250.0):
        logits = jnp.log(two_hot(jnp.array(x), bins) + 1e-30)
        assert float(two_hot_mean(logits, bins)) == pytest.approx(x, rel=1e-4, abs=1e-4)


def test_the_loss_is_the_cross_entropy_and_no_gradient_reaches_the_target():
    bins = jnp.array([-1.0, 0.0, 1.0])
    logits = jnp.array([0.1, 0.2, 0.5])
    log_probs = np.log(np.exp(logits) / np.exp(logits).sum())
    loss = two_hot_loss(logits, jnp.array(0.25), bins)
    assert float(loss) == pytest.approx(-(0.75 * log_probs[1] + 0.25 * log_probs[2]), rel=1e-5)
    assert float(jax.grad(lambda target: two_hot_loss(logits, target, bins))(0.25)) == 0.0
