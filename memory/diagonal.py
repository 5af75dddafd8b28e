"""The diagonal recurrence on real arrays and pairs, with its own gradient: the core under `scan.linear_recurrence`.

Legend: T steps, *batch any batch axes, F the last axis of one state: a real one, or a pair (`pairs.py`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .core import reset_where
from .pairs import multiply_transposed, swap
from .solvers import SOLVERS

# Floats of the states from which the gradient by constant complex factors is faster in one loop, on a CPU
# (benchmarks/scan_crossover.py --forms): below, several vectorised passes find them in the cache.
FUSED_SIZE = 1 << 20


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recur(
    method: str,
    decay: Float[Array, "..."],
    twist: Float[Array, "..."] | None,
    b: Float[Array, "T *batch F"],
    reset: Bool[Array, "T *batch"],
    carry: Float[Array, "*batch F"],
    reset_state: Float[Array, "*batch F"],
) -> Float[Array, "T *batch F"]:
    """All states h[t] = a[t] * (reset_state if reset[t] else h[t-1]) + b[t]; a is constant `[F]` or `[T, *batch, F]`.

    The gradient is the same recurrence backwards, with only the states stored:
    g[t] = dh[t] + (0 if reset[t+1] else conj(a[t+1]) * g[t+1]), on pairs, where the transpose of a is its conjugate;
    db = g, d_decay[t] = g[t] * h_prev[t], d_twist[t] = g[t] * swap(h_prev[t]).
    """
    return SOLVERS[method](decay, twist, b, reset, carry, reset_state)


def _recur_forward(method, decay, twist, b, reset, carry, reset_state):
    states = recur(method, decay, twist, b, reset, carry, reset_state)
    return states, (decay, twist, states, reset, carry, reset_state)


def _recur_backward(method, residuals, d_states):
    decay, twist, states, *_ = residuals
    if method == "sequential":
        if decay.ndim < states.ndim and is_fused(states.size, twist is not None):
            return _fused_transpose(residuals, d_states)
        return _cotangents(residuals, _reverse_scan(residuals, d_states))
    # By the function with a gradient of its own: a kernel has none, and second derivatives need one.
    return _cotangents(residuals, _solve_reversed(partial(recur, method), residuals, d_states))


recur.defvjp(_recur_forward, _recur_backward)


def is_fused(size: int, paired: bool) -> bool:
    """Whether the gradient by constant factors is summed within the loop, for `size` floats of states."""
    return not paired or size > FUSED_SIZE


def _fused_transpose(residuals, d_states):
    """The gradient in one loop backwards, constant factors only: nothing as large as the states is read twice."""
    decay, twist, states, reset, carry, reset_state = residuals
    zero = jnp.zeros_like(carry)

    def backward_step(accumulated, inputs):
        d_carry, d_constant, d_reset_state = accumulated
        d_state, reset_t, t = inputs
        g = d_state + d_carry
        # Read by index: a shifted copy of all states would cost one more pass over memory.
        before = jax.lax.dynamic_index_in_dim(states, jnp.maximum(t - 1, 0), 0, keepdims=False)
        before = reset_where(reset_t, reset_state, jnp.where(t == 0, carry, before))
        d_constant = jax.tree.map(jnp.add, d_constant, _d_factors(g, before, twist))
        d_before = multiply_transposed(decay, twist, g)
        d_reset_state = d_reset_state + reset_where(reset_t, d_before, zero)
        return (reset_where(reset_t, zero, d_before), d_constant, d_reset_state), g

    start = (zero, (zero, None if twist is None else zero), zero)
    inputs = (d_states, reset, jnp.arange(len(states)))
    (d_carry, d_constant, d_reset_state), g = jax.lax.scan(backward_step, start, inputs, reverse=True)
    d_factors = jax.tree.map(lambda each: each.sum(range(reset.ndim - 1)), d_constant)
    return *d_factors, g, None, d_carry, d_reset_state


def _reverse_scan(residuals, d_states):
    """The cotangents g of all states, by one `lax.scan` backwards."""
    decay, twist, states, reset, carry, _ = residuals
    varying = decay.ndim == states.ndim
    zero = jnp.zeros_like(carry)

    def backward_step(d_carry, inputs):
        d_state, reset_t, factors_t = inputs
        decay_t, twist_t = factors_t if varying else (decay, twist)
        g = d_state + d_carry
        return reset_where(reset_t, zero, multiply_transposed(decay_t, twist_t, g)), g

    inputs = (d_states, reset, (decay, twist) if varying else None)
    return jax.lax.scan(backward_step, zero, inputs, reverse=True)[1]


def _solve_reversed(solve, residuals, d_states):
    """The cotangents g of all states, by a solver on the reversed sequence."""
    decay, twist, states, reset, carry, _ = residuals
    varying = decay.ndim == states.ndim

    def shift_back(each):
        """each[t + 1] at t, so that the reversed recurrence finds the factor that leads out of t."""
        if each is None or not varying:
            return each
        return jnp.flip(jnp.concatenate([each[1:], jnp.zeros_like(each[:1])]), 0)

    zero = jnp.zeros_like(carry)
    leaving = jnp.concatenate([reset[1:], jnp.ones_like(reset[:1])])
    twist_back = None if twist is None else -shift_back(twist)
    g = solve(shift_back(decay), twist_back, jnp.flip(d_states, 0), jnp.flip(leaving, 0), zero, zero)
    return jnp.flip(g, 0)


def _cotangents(residuals, g):
    """The gradients by every argument of `recur`, from those of its states."""
    decay, twist, states, reset, carry, reset_state = residuals
    before = reset_where(reset, reset_state[None], jnp.concatenate([carry[None], states[:-1]]))
    d_factors = _d_factors(g, before, twist)
    if decay.ndim < states.ndim:
        d_factors = jax.tree.map(lambda each: each.sum(range(reset.ndim)), d_factors)
    d_before = multiply_transposed(decay, twist, g)
    d_reset_state = reset_where(reset, d_before, jnp.zeros_like(d_before)).sum(0)
    d_carry = reset_where(reset[0], jnp.zeros_like(carry), d_before[0])
    return *d_factors, g, None, d_carry, d_reset_state


def _d_factors(g, before, twist):
    """Gradients of decay and twist at every element; a zero cotangent stays zero against a discarded nan."""

    def product(cotangent, value):
        return jnp.where(cotangent == 0, jnp.zeros_like(cotangent), cotangent * value)

    return product(g, before), None if twist is None else product(g, swap(before))
