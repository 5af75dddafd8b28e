"""Every memory against its float64 NumPy twin: values, gradients by finite differences, long runs, low precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from hippodrome.memory import S5, list_memories, make_memory
from tests.memory.subjects import D_IN, NAMES, SMALL, B, T, assert_close, random_like, streams, subject
from tests.oracles.memories import run

few = settings(max_examples=10, deadline=None, derandomize=True)
# Every program here runs on tiny data and a few times: compiling it is what costs.
pytestmark = pytest.mark.usefixtures("unoptimised")
over_memories = pytest.mark.parametrize("name", NAMES)
LONG = 100_000


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@over_memories
@few
@given(data=streams())
def test_values_equal_the_twin(name, data):
    memory = subject(name)
    carry = memory.carry(data.seed)
    got = memory.sequence(memory.params, carry, data.x, data.reset)
    want = run(memory.memory, double(memory.params["params"]), double(carry), np.float64(data.x), data.reset)
    assert_close(got, want)


@over_memories
def test_gradients_equal_finite_differences_of_the_twin(name):
    memory = subject(name)
    generator = np.random.default_rng(3)
    x = generator.normal(size=(T, B, D_IN)).astype(np.float32)
    reset = generator.random((T, B)) < 0.2
    weights, carry_weights = random_like((jnp.zeros(memory.output_shape), memory.zero_carry), seed=4)
    point = (memory.params["params"], memory.carry(5), x)
    gradient = memory.gradient({"params": point[0]}, *point[1:], reset, weights, carry_weights)
    gradient = double((gradient[0]["params"], *gradient[1:]))

    def loss(params, carry, x):
        last, y = run(memory.memory, params, carry, x, reset)
        terms = jax.tree.map(lambda w, v: (np.float64(w) * v).sum(), (weights, carry_weights), (y, last))
        return sum(jax.tree.leaves(terms))

    leaves, structure = jax.tree.flatten(double(point))
    for index, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
        # Two directions per array: its own gradient, where nothing cancels, and a random one.
        length = np.sqrt((slope**2).sum())
        for direction in (slope / (length + 1e-30), generator.normal(size=leaf.shape) / np.sqrt(leaf.size)):
            ends = []
            for sign in (1.0, -1.0):
                moved = [leaf + sign * 1e-5 * direction if index == i else each for i, each in enumerate(leaves)]
                ends.append(loss(*jax.tree.unflatten(structure, moved)))
            slope_of_twin = (ends[0] - ends[1]) / 2e-5
            assert (slope * direction).sum() == pytest.approx(slope_of_twin, abs=1e-4 * max(length, 1e-2))


@pytest.mark.parametrize("kind", list_memories())
def test_finite_values_at_100000_steps(kind):
    memory = make_memory(kind, d_model=6, **SMALL.get(kind, {}))
    x = jax.random.normal(jax.random.key(0), (LONG, 1, 6))
    reset = jnp.zeros((LONG, 1), bool).at[0].set(True)
    carry = memory.initial_carry((1,))
    params = jax.jit(memory.init)(jax.random.key(1), carry, x[:2], reset[:2])
    carry, y = jax.jit(memory.apply)(params, carry, x, reset)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((carry, y)))
    assert np.abs(y).max() < 1e3


def test_gradient_through_100000_steps_is_finite_and_float32_stays_close_to_the_twin():
    memory = S5(d_model=2, d_state=4, clip_eigs=True)
    x = np.random.default_rng(0).normal(size=(LONG, 1, 2)).astype(np.float32)
    reset = np.zeros((LONG, 1), bool)
    carry = memory.initial_carry((1,))
    params = jax.jit(memory.init)(jax.random.key(1), carry, x[:2], reset[:2])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: jnp.mean(memory.apply(p, carry, x, reset)[1] ** 2)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    y = run(memory, double(params["params"]), double(carry), np.float64(x), reset)[1]
    assert float(value) == pytest.approx((y**2).mean(), rel=1e-4)


@over_memories
def test_bfloat16_inputs_give_bfloat16_outputs_and_a_float32_state(name):
    memory = subject(name)
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(T, B, D_IN)), jnp.bfloat16)
    reset = generator.random((T, B)) < 0.2
    reset[0] = True
    want_carry, want = memory.sequence(memory.params, memory.zero_carry, x.astype(jnp.float32), reset)
    carry, y = memory.sequence(memory.params, memory.zero_carry, x, reset)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(carry))
    assert_close((carry, y), (want_carry, want), 0.05)
    new, out = jax.eval_shape(partial(memory.memory.apply, method="step"), memory.params, carry, x[0], reset[0])
    assert out.dtype == jnp.bfloat16 and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(new))


def test_the_state_of_s5_does_not_round_to_bfloat16():
    # dt = 1e-3 adds a thousandth at a time: a bfloat16 state would stop growing long before its limit.
    memory = S5(d_model=1, d_state=2, dt_min=1e-3, dt_max=1e-3)
    x, reset = jnp.ones((4000, 1, 1), jnp.bfloat16), jnp.zeros((4000, 1), bool)
    carry = memory.initial_carry((1,))
    params = jax.jit(memory.init)(jax.random.key(0), carry, x, reset)
    apply = jax.jit(memory.apply)
    low, full = (apply(params, carry, x.astype(dtype), reset)[0] for dtype in (jnp.bfloat16, jnp.float32))
    # Only B is rounded once, to 8 bits.
    assert_close(low, full, 2**-8)
