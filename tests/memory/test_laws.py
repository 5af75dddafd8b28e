"""The laws of the memory contract over every registered memory, values and gradients.

hypothesis draws resets, splits and data; all of it is traced, so each memory compiles once per length.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.subjects import D_IN, NAMES, B, T, assert_close, chunkings, random_like, streams, subject

few = settings(max_examples=12, deadline=None, derandomize=True)
# Every program here runs on tiny data and a few times: compiling it is what costs.
pytestmark = pytest.mark.usefixtures("unoptimised")
over_memories = pytest.mark.parametrize("name", NAMES)


def cotangents(memory, seed):
    """Random weights of all outputs and of the last carry."""
    return random_like((jnp.zeros(memory.output_shape), memory.zero_carry), seed=seed)


def changed_before(cut, value, change):
    """`change(value)` before step `cut`, `value` from there on."""
    before = np.arange(T).reshape(-1, *(1,) * (value.ndim - 1)) < cut
    return np.where(before, change(value), value)


@over_memories
@few
@given(data=streams())
def test_sequence_equals_step_loop_in_values_and_gradients(name, data):
    memory = subject(name)
    arguments = (memory.params, memory.carry(data.seed), data.x, data.reset)
    assert_close(memory.sequence(*arguments), memory.loop(*arguments))
    weights = cotangents(memory, data.seed + 1)
    assert_close(memory.gradient(*arguments, *weights), memory.loop_gradient(*arguments, *weights), 1e-4)


@over_memories
@few
@given(data=streams(), lengths=chunkings())
def test_any_chunking_with_the_carry_handed_on(name, data, lengths):
    memory = subject(name)
    carry, pieces, start = memory.carry(data.seed), [], 0
    whole = memory.sequence(memory.params, carry, data.x, data.reset)
    for length in lengths:
        piece = slice(start, start + length)
        carry, y = memory.sequence(memory.params, carry, data.x[piece], data.reset[piece])
        pieces.append(y)
        start += length
    assert_close((carry, jnp.concatenate(pieces)), whole)


@over_memories
@few
@given(data=streams(), cut=st.integers(0, T - 1))
def test_nothing_before_a_reset_changes_anything_after_it(name, data, cut):
    memory = subject(name)
    reset = data.reset.copy()
    reset[cut] = True
    want = memory.sequence(memory.params, memory.carry(1), data.x, reset)
    other_x = changed_before(cut, data.x, lambda x: 5.0 - 2.0 * x)
    other_reset = changed_before(cut, reset, np.logical_not)
    for run in (memory.sequence, memory.loop):
        carry, y = run(memory.params, memory.carry(2), other_x, other_reset)
        assert_close((carry, y[cut:]), (want[0], want[1][cut:]))
    weights, carry_weights = cotangents(memory, data.seed)
    weights = changed_before(cut, np.asarray(weights), np.zeros_like)
    for gradient in (memory.gradient, memory.loop_gradient):
        _, d_carry, d_x = gradient(memory.params, memory.carry(1), data.x, reset, weights, carry_weights)
        assert all(np.all(np.asarray(each) == 0) for each in jax.tree.leaves((d_carry, d_x[:cut])))


@over_memories
@few
@given(data=streams(), cut=st.integers(1, T - 1))
def test_packed_episodes_equal_separate_sequences(name, data, cut):
    memory = subject(name)
    reset = data.reset.copy()
    reset[0] = reset[cut] = True
    packed = memory.sequence(memory.params, memory.carry(1), data.x, reset)[1]
    alone_x, alone_reset = np.roll(data.x, -cut, 0), np.roll(reset, -cut, 0)
    alone = memory.sequence(memory.params, memory.zero_carry, alone_x, alone_reset)[1]
    assert_close(packed[cut:], alone[: T - cut])


@over_memories
@few
@given(data=streams(), cut=st.integers(0, T - 1), bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_nonfinite_carry_and_inputs_never_survive_a_reset(name, data, cut, bad):
    memory = subject(name)
    reset = data.reset.copy()
    reset[:cut], reset[cut] = False, True
    want = memory.sequence(memory.params, memory.carry(1), data.x, reset)
    bad_carry = jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), memory.zero_carry)
    bad_x = changed_before(cut, data.x, lambda x: np.full_like(x, bad))
    for run in (memory.sequence, memory.loop):
        carry, y = run(memory.params, bad_carry, bad_x, reset)
        assert_close((carry, y[cut:]), (want[0], want[1][cut:]))


@over_memories
@few
@given(data=streams(), bad=st.sampled_from([np.nan, np.inf]))
def test_gradients_are_finite_when_a_nonfinite_carry_is_reset_at_once(name, data, bad):
    memory = subject(name)
    reset = data.reset.copy()
    reset[0] = True
    weights = cotangents(memory, data.seed)
    bad_carry = jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), memory.zero_carry)
    want = memory.gradient(memory.params, memory.zero_carry, data.x, reset, *weights)
    for gradient in (memory.gradient, memory.loop_gradient):
        assert_close(gradient(memory.params, bad_carry, data.x, reset, *weights), want, 1e-4)


@over_memories
def test_every_part_of_the_carry_is_reset(name):
    memory = subject(name)
    x = np.random.default_rng(0).normal(size=(T, B, D_IN)).astype(np.float32)
    reset = np.zeros((T, B), bool)
    reset[0] = True
    leaves, structure = jax.tree.flatten(memory.zero_carry)
    for run in (memory.sequence, memory.loop):
        want = run(memory.params, memory.zero_carry, x, reset)
        for index in range(len(leaves)):
            garbage = [jnp.full_like(leaf, 1e3) if index == i else leaf for i, leaf in enumerate(leaves)]
            assert_close(run(memory.params, jax.tree.unflatten(structure, garbage), x, reset), want)


@over_memories
@few
@given(data=streams(), order=st.permutations(range(B)))
def test_batch_elements_do_not_see_each_other(name, data, order):
    memory = subject(name)
    order = np.array(order)
    carry, y = memory.sequence(memory.params, memory.carry(1), data.x, data.reset)
    permuted = jax.tree.map(lambda leaf: leaf[order], memory.carry(1))
    got = memory.sequence(memory.params, permuted, data.x[:, order], data.reset[:, order])
    assert_close(got, (jax.tree.map(lambda leaf: leaf[order], carry), y[:, order]))
    others = np.arange(B) > 0
    x = np.where(others[:, None], 9.0, data.x)
    assert_close(memory.sequence(memory.params, memory.carry(1), x, data.reset ^ others)[1][:, 0], y[:, 0])


def one_call(memory):
    """A memory with inputs, resets and what it makes of them."""
    generator = np.random.default_rng(0)
    x, reset = generator.normal(size=(T, B, D_IN)).astype(np.float32), generator.random((T, B)) < 0.3
    return x, reset, memory.sequence(memory.params, memory.carry(1), x, reset)


@over_memories
def test_two_batch_axes(name):
    memory = subject(name)
    x, reset, (carry, y) = one_call(memory)
    nested = jax.tree.map(lambda leaf: leaf[None], memory.carry(1))
    want = (jax.tree.map(lambda leaf: leaf[None], carry), y[:, None])
    assert_close(memory.sequence(memory.params, nested, x[:, None], reset[:, None]), want)


@pytest.mark.parametrize("name", [f"{kind} stack 0" for kind in ("attention", "gated_delta_net", "mamba", "s5")])
def test_no_batch_axis_and_vmap(name):
    # Under vmap each call sees one element without any batch axis. One memory of each core.
    memory = subject(name)
    x, reset, want = one_call(memory)
    mapped = jax.jit(jax.vmap(memory.memory.apply, in_axes=(None, 0, 1, 1), out_axes=(0, 1)))
    assert_close(mapped(memory.params, memory.carry(1), x, reset), want)


@over_memories
def test_initial_carry_is_zeros_without_parameters(name):
    for batch_shape in ((), (4,), (2, 3)):
        for leaf in jax.tree.leaves(subject(name).memory.initial_carry(batch_shape)):
            assert leaf.shape[: len(batch_shape)] == batch_shape
            assert leaf.dtype == jnp.float32 and not leaf.any()


@over_memories
def test_only_parameters_and_no_randomness_at_call(name):
    memory = subject(name)
    assert set(memory.params) == {"params"}
    x, reset = jnp.ones((2, B, D_IN)), jnp.zeros((2, B), bool)
    _, updated = jax.eval_shape(partial(memory.memory.apply, mutable=True), memory.params, memory.carry(0), x, reset)
    assert set(updated) <= {"params"}
