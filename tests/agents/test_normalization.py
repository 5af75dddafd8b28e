"""Running statistics against NumPy over everything seen."""

import jax.numpy as jnp
import numpy as np

from hippodrome.agents.normalization import initial_statistics, normalize, update_statistics


def test_merged_batches_equal_numpy_over_all():
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0, scale, size=(5, 4, 2)).astype(np.float32) for scale in (1.0, 10.0, 0.1)]
    statistics = initial_statistics((2,))
    for batch in batches:
        statistics = update_statistics(statistics, jnp.asarray(batch))
    everything = np.concatenate(batches).reshape(-1, 2)
    np.testing.assert_allclose(statistics.mean, everything.mean(0), rtol=1e-3)
    np.testing.assert_allclose(statistics.variance, everything.var(0), rtol=1e-3)
    np.testing.assert_allclose(statistics.count, len(everything), rtol=1e-4)


def test_scalar_statistics():
    statistics = update_statistics(initial_statistics(()), jnp.arange(10.0).reshape(5, 2))
    np.testing.assert_allclose(statistics.mean, 4.5, rtol=1e-3)
    np.testing.assert_allclose(statistics.variance, 8.25, rtol=1e-3)


def test_normalize_clips():
    statistics = update_statistics(initial_statistics((1,)), jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(normalize(statistics, jnp.array([[1.0], [1e6]])), [[1.0], [10.0]], rtol=1e-3)
