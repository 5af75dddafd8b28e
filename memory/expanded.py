"""Diagonal recurrences whose coefficients are made inside the scan, so that no array of all states is ever held.

Legend: T steps, *batch any batch axes, *state the axes of one state (for Mamba d_inner x d_state).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .core import reset_where
from .scan import Method, choose_method, linear_recurrence

Coefficients = Callable[[Any], tuple[Array, Array]]
Readout = Callable[[Array, Any], Array]


def expanded_recurrence(
    coefficients: Coefficients,
    readout: Readout,
    inputs: PyTree,
    reset: Bool[Array, "T *batch"],
    carry: Array,
    *,
    method: Method = "auto",
    chunk_size: int = 64,
    at_once: bool = False,
) -> tuple[Array, Array]:
    """A diagonal recurrence over a state much wider than its inputs, read out as it goes.

    a, b = coefficients(inputs[t]);  h[t] = a * (0 if reset[t] else h[t-1]) + b;  y[t] = readout(h[t], inputs[t])

    The states of one chunk are all that is held: the gradient keeps the state at the start of each chunk and computes
    the chunk again, and within it the coefficients of a step from its inputs. Memory is T / chunk_size + chunk_size
    states instead of T, for one more forward pass.

    Args:
        coefficients: from inputs at one step or at many (any leading axes) to `a` and `b`, broadcastable to the state.
        readout: from states and inputs, with the same leading axes, to outputs.
        inputs: pytree of `[T, *batch, ...]`.
        reset: True where `inputs[t]` is the first of an episode.
        carry: the state before the first step, `[*batch, *state]`, real or complex.
        method: how each chunk is solved, see `linear_recurrence`.
        chunk_size: steps whose states are held at once.
        at_once: make the coefficients of a whole chunk at once even where it is solved step by step: faster where they
            are large products.

    Returns:
        `(y, last)`: outputs `[T, *batch, ...]` and the state after the last step.

    Source: Gu and Dao 2023 (Mamba), section 3.3.2 (recomputation instead of stored states).
    """
    solver = choose_method(method)

    # Without it the scan would store both coefficients of every step, each as large as a state.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(state, now):
        u_t, reset_t = now
        a, b = coefficients(u_t)
        state = a * reset_where(reset_t, jnp.zeros_like(state), state) + b
        return state, readout(state, u_t)

    def run_chunk(state, chunk):
        if solver == "sequential" and not at_once:
            return jax.lax.scan(step, state, chunk)
        u, flags = chunk
        a, b = coefficients(u)
        shape = (*flags.shape, *state.shape[flags.ndim - 1 :])
        states, last = linear_recurrence(
            jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape), flags, state, method=method
        )
        return last, readout(states, u)

    sequence = (inputs, reset)
    num_steps = len(reset)
    num_chunks, rest = divmod(num_steps, chunk_size)
    if num_chunks == 0 or num_steps == chunk_size:
        last, y = run_chunk(carry, sequence)
        return y, last
    whole = num_chunks * chunk_size
    chunks = jax.tree.map(lambda each: each[:whole].reshape(num_chunks, chunk_size, *each.shape[1:]), sequence)
    last, y = jax.lax.scan(jax.checkpoint(run_chunk), carry, chunks)
    y = y.reshape(whole, *y.shape[2:])
    if rest:
        last, tail = run_chunk(last, jax.tree.map(lambda each: each[whole:], sequence))
        y = jnp.concatenate([y, tail])
    return y, last
