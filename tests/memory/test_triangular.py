"""solve_unit_lower against NumPy in float64: values, gradients, any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import make_memory
from hippodrome.memory.triangular import solve_unit_lower


@pytest.mark.parametrize("size", [1, 2, 5, 8, 32])
def test_values_and_gradients_equal_numpy(size):
    draw = np.random.default_rng(size)
    keys = draw.normal(size=(2, 3, size, 4))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    # As in the delta rule: unit keys, beta up to 1.
    lower = np.tril(draw.uniform(size=(2, 3, size, 1)) * (keys @ keys.swapaxes(-1, -2)), -1)
    b, weights = draw.normal(size=(2, 2, 3, size, 4))
    inverse = np.linalg.inv(np.eye(size) + lower)
    u = inverse @ b
    np.testing.assert_allclose(
        solve_unit_lower(jnp.float32(lower + np.triu(b @ b.swapaxes(-1, -2))), jnp.float32(b)), u, rtol=1e-5, atol=1e-5
    )
    d_lower, d_b = jax.grad(lambda lower, b: (weights * solve_unit_lower(lower, b)).sum(), argnums=(0, 1))(
        jnp.float32(lower), jnp.float32(b)
    )
    want_b = inverse.swapaxes(-1, -2) @ weights
    np.testing.assert_allclose(d_b, want_b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_lower, np.tril(-want_b @ u.swapaxes(-1, -2), -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["delta_net", "gated_delta_net"])
def test_no_memory_waits_for_the_thread_pool(kind):
    """jaxlib's batched triangular solve can hang a CPU (see the module)."""
    memory = make_memory(kind, d_model=4)
    carry, x, reset = memory.initial_carry((1,)), jnp.zeros((3, 1, 4)), jnp.zeros((3, 1), bool)
    program = jax.make_jaxpr(lambda key: memory.init_with_output(key, carry, x, reset))(jax.random.key(0))
    assert "scan" in str(program) and "triangular_solve" not in str(program)
