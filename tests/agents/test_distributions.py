"""Action distributions against scipy, frequencies and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hippodrome.agents.distributions import ActionDistribution
from hippodrome.envs import Box, Dict, Discrete, MultiDiscrete, Tuple

NO_STD = jnp.zeros(0)


def test_categorical_matches_scipy():
    distribution = ActionDistribution(Discrete(3))
    logits = jnp.array([0.3, -1.0, 2.0])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    for action in range(3):
        log_prob = distribution.log_prob(logits, NO_STD, jnp.array(action))
        np.testing.assert_allclose(log_prob, np.log(probabilities[action]), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(logits, NO_STD), stats.entropy(probabilities), rtol=1e-5)
    assert distribution.mode(logits, NO_STD) == 2


def test_sampling_frequencies_follow_the_probabilities():
    distribution = ActionDistribution(MultiDiscrete([2, 3]))
    logits = jnp.log(jnp.array([0.2, 0.8, 0.5, 0.3, 0.2]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    actions = jax.vmap(distribution.sample, in_axes=(None, None, 0))(logits, NO_STD, keys)
    assert actions.shape == (20_000, 2)
    np.testing.assert_allclose(np.bincount(actions[:, 0]) / 20_000, [0.2, 0.8], atol=0.015)
    np.testing.assert_allclose(np.bincount(actions[:, 1]) / 20_000, [0.5, 0.3, 0.2], atol=0.015)
    # The two parts are independent.
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.03


def test_multi_discrete_is_a_product_of_categoricals():
    joint = ActionDistribution(MultiDiscrete([2, 3]))
    logits = jnp.array([0.1, 0.9, -0.5, 0.2, 1.0])
    parts = [(ActionDistribution(Discrete(2)), logits[:2]), (ActionDistribution(Discrete(3)), logits[2:])]
    action = jnp.array([1, 0])
    expected = sum(d.log_prob(part, NO_STD, action[i]) for i, (d, part) in enumerate(parts))
    np.testing.assert_allclose(joint.log_prob(logits, NO_STD, action), expected, rtol=1e-6)
    expected = sum(d.entropy(part, NO_STD) for d, part in parts)
    np.testing.assert_allclose(joint.entropy(logits, NO_STD), expected, rtol=1e-6)


def test_gaussian_matches_scipy_and_scales_to_the_bounds():
    distribution = ActionDistribution(Box(jnp.array([-2.0, 0.0]), jnp.array([2.0, 10.0]), (2,)))
    mean, log_std = jnp.array([0.1, -0.4]), jnp.array([-0.5, 0.2])
    raw = jnp.array([0.3, -3.0])
    expected = stats.norm(mean, np.exp(log_std)).logpdf(raw).sum()
    np.testing.assert_allclose(distribution.log_prob(mean, log_std, raw), expected, rtol=1e-5)
    expected = stats.norm(mean, np.exp(log_std)).entropy().sum()
    np.testing.assert_allclose(distribution.entropy(mean, log_std), expected, rtol=1e-5)
    # -3 is clipped to -1, which is the lower bound.
    np.testing.assert_allclose(distribution.to_env(raw), [0.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(distribution.mode(mean, log_std), mean)


def test_composite_space_adds_its_leaves():
    space = Dict({"b": Box(-1.0, 1.0, (2, 2)), "a": Tuple((Discrete(3), MultiDiscrete([2, 2])))})
    distribution = ActionDistribution(space)
    assert distribution.num_outputs == 3 + 4 + 4 and distribution.num_log_stds == 4
    outputs = jnp.linspace(-1, 1, 11)
    action = distribution.sample(outputs, jnp.zeros(4), jax.random.key(1))
    assert action["b"].shape == (2, 2) and action["a"][1].shape == (2,)
    expected = (
        ActionDistribution(Discrete(3)).log_prob(outputs[:3], NO_STD, action["a"][0])
        + ActionDistribution(MultiDiscrete([2, 2])).log_prob(outputs[3:7], NO_STD, action["a"][1])
        + stats.norm(outputs[7:], 1.0).logpdf(np.ravel(action["b"])).sum()
    )
    np.testing.assert_allclose(distribution.log_prob(outputs, jnp.zeros(4), action), expected, rtol=1e-5)
    assert bool(space.contains(distribution.to_env(action)))


def test_batched_log_prob_equals_one_by_one():
    distribution = ActionDistribution(MultiDiscrete([2, 3]))
    outputs = jax.random.normal(jax.random.key(0), (4, 6, 5))
    keys = jax.random.split(jax.random.key(1), (4, 6))
    actions = jax.vmap(jax.vmap(distribution.sample, in_axes=(0, None, 0)), in_axes=(0, None, 0))(outputs, NO_STD, keys)
    batched = distribution.log_prob(outputs, NO_STD, actions)
    np.testing.assert_allclose(batched[2, 3], distribution.log_prob(outputs[2, 3], NO_STD, actions[2, 3]), rtol=1e-6)
    assert batched.shape == (4, 6)


def test_entropy_of_an_impossible_category_is_finite():
    distribution = ActionDistribution(Discrete(2))
    gradient = jax.grad(lambda logits: distribution.entropy(logits, NO_STD))(jnp.array([0.0, -200.0]))
    assert jnp.isfinite(gradient).all()


def test_box_without_bounds_is_refused():
    with pytest.raises(ValueError, match="no finite bounds"):
        ActionDistribution(Box(-jnp.inf, jnp.inf, (1,)))
