"""The laws of the memory contract, run on a memory of one's own.

Run, from the root of the repository: PYTHONPATH=examples/own_memory uv run pytest examples/own_memory/tests
"""

import jax
import jax.numpy as jnp
import pytest
from hippodrome_leaky import LeakyIntegrator

from hippodrome.memory import check_memory, make_memory, parameter_labels
from hippodrome.memory.spectrum import decay


def test_it_keeps_every_law():
    check_memory(LeakyIntegrator(d_model=6), d_in=3)


def test_it_is_made_by_name_and_its_time_constants_learn_at_their_own_rate():
    memory = make_memory("leaky", d_model=6, tau_max=10.0)
    carry = memory.initial_carry((2,))
    params = jax.jit(memory.init)(jax.random.key(0), carry, jnp.ones((1, 2, 6)), jnp.ones((1, 2), bool))
    layer = params["params"]["layers_0"]["layer"]
    assert jnp.allclose(jnp.exp(layer["log_tau"][jnp.array([0, -1])]), jnp.array([1.0, 10.0]))
    assert parameter_labels(layer) == {"log_tau": "ssm", "dense": {"kernel": "regular", "bias": "regular"}}


def test_time_constants_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match=r"tau_min=5.0 and tau_max=2.0"):
        make_memory("leaky", tau_min=5.0, tau_max=2.0)


def test_inspection_sees_its_time_constants():
    layer = LeakyIntegrator(d_model=3, tau_min=1.0, tau_max=100.0)
    carry, x, reset = layer.initial_carry((2,)), jnp.ones((2, 4)), jnp.zeros(2, bool)
    params = layer.init(jax.random.key(0), carry, x[None], reset[None])
    found = decay(layer, lambda state: layer.apply(params, state, x, reset, method="step")[0], carry)
    assert jnp.allclose(found[0], jnp.exp(-1.0 / jnp.array([1.0, 10.0, 100.0])), atol=1e-5)
