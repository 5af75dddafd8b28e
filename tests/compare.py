"""Comparing trees of arrays, random keys among them."""

import jax
import jax.numpy as jnp
import numpy as np


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    """The same structure, and leaves equal within tolerances; the message names the leaf."""

    def compare(path, a, b):
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, actual, expected)


def assert_identical(actual, expected):
    """The same structure, and leaves equal bit for bit."""
    assert_close(actual, expected, rtol=0.0, atol=0.0)
