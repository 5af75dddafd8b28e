"""LaProp and adaptive clipping against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hippodrome.agents.dreamer.optimizer import adaptive_clip, laprop, scale_by_laprop


def test_laprop_equals_the_formulas():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(6, 4)) * np.array([1e-3, 1.0, 10.0, 0.0])
    second, momentum = np.zeros(4), np.zeros(4)
    optimizer = scale_by_laprop(0.9, 0.99, 1e-20)
    state = optimizer.init(jnp.zeros(4))
    for n, g in enumerate(gradients, start=1):
        second = 0.99 * second + 0.01 * g**2
        momentum = 0.9 * momentum + 0.1 * g / (np.sqrt(second / (1 - 0.99**n)) + 1e-20)
        update, state = optimizer.update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(update, momentum / (1 - 0.9**n), rtol=1e-4)


def test_momentum_is_taken_after_the_scaling_and_not_before():
    """Adam would forget the scale of the large gradient only as fast as its second moment does."""
    optimizer = scale_by_laprop(0.9, 0.999, 1e-20)
    state = optimizer.init(jnp.zeros(1))
    _, state = optimizer.update(jnp.array([100.0]), state)
    assert float(state.momentum[0]) == pytest.approx(0.1, rel=1e-4)


def test_the_gradient_of_each_array_is_clipped_relative_to_its_parameters():
    params = {"large": jnp.array([3.0, 4.0]), "zero": jnp.zeros(2), "calm": jnp.ones(4)}
    updates = {"large": jnp.array([30.0, 40.0]), "zero": jnp.array([0.0, 1.0]), "calm": 0.1 * jnp.ones(4)}
    clip = adaptive_clip(0.3)
    got, _ = clip.update(updates, clip.init(params), params)
    np.testing.assert_allclose(got["large"], [0.9, 1.2], rtol=1e-5)
    np.testing.assert_allclose(got["zero"], [0.0, 0.3e-3], rtol=1e-5)
    np.testing.assert_allclose(got["calm"], updates["calm"])


def test_the_learning_rate_rises_over_the_warm_up():
    optimizer = laprop(0.1, warmup_updates=4, clip=1e9)
    params = jnp.ones(1)
    state = optimizer.init(params)
    steps = []
    for _ in range(6):
        update, state = optimizer.update(jnp.ones(1), state, params)
        steps.append(float(update[0]))
        params = optax.apply_updates(params, update)
    np.testing.assert_allclose(steps, [0.0, -0.025, -0.05, -0.075, -0.1, -0.1], rtol=1e-4)
    assert jax.tree.leaves(state)
