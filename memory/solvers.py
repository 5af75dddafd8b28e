"""Four ways to solve the diagonal recurrence h[t] = a[t] * (reset_state if reset[t] else h[t-1]) + b[t].

Legend: T steps, *batch any batch axes, F the last axis of one state: a real one, or a pair (`pairs.py`). Each solver
takes (decay, twist, b, reset, carry, reset_state): a is constant `[F]` or `[T, *batch, F]`, b `[T, *batch, F]`, reset
bool `[T, *batch]`, carry and reset_state `[*batch, F]`, and returns all states `[T, *batch, F]`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from .core import reset_where
from .pairs import from_pair, multiply, times, to_pair

CHUNK_SIZE = 64
PALLAS_BLOCK = 128


def sequential(decay, twist, b, reset, carry, reset_state):
    """One step after the other, by `lax.scan`."""
    varying = decay.ndim == b.ndim

    def forward_step(state, inputs):
        b_t, reset_t, factors_t = inputs
        decay_t, twist_t = factors_t if varying else (decay, twist)
        state = multiply(decay_t, twist_t, reset_where(reset_t, reset_state, state)) + b_t
        return state, state

    return jax.lax.scan(forward_step, carry, (b, reset, (decay, twist) if varying else None))[1]


def associative(decay, twist, b, reset, carry, reset_state):
    """Parallel prefix, by `lax.associative_scan`: depth log T for log T times the memory traffic."""
    flag = reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim))
    b = b + jnp.where(flag, multiply(decay, twist, jnp.broadcast_to(reset_state, b.shape)), 0)
    start = reset_where(reset[0], jnp.zeros_like(carry), carry)
    decay_0, twist_0 = (each if each is None or each.ndim < b.ndim else each[0] for each in (decay, twist))
    b = b.at[0].add(multiply(decay_0, twist_0, start))
    if twist is None:
        a, b = jnp.broadcast_to(decay, b.shape), b
    else:
        a, b = from_pair(decay).real + 1j * from_pair(twist).imag, from_pair(b)
        a = jnp.broadcast_to(a, b.shape)

    def combine(left, right):
        # The flag travels with the element: a reset on the right discards the left by selection, nan or not.
        a_left, b_left, flag_left = left
        a_right, b_right, flag_right = right
        return (
            jnp.where(flag_right, a_right, a_left * a_right),
            jnp.where(flag_right, b_right, a_right * b_left + b_right),
            flag_left | flag_right,
        )

    states = jax.lax.associative_scan(combine, (a, b, flag))[1]
    return states if twist is None else to_pair(states)


def chunked(decay, twist, b, reset, carry, reset_state, chunk_size=CHUNK_SIZE):
    """All chunks at once step by step, then a short recurrence across them: depth C + T / C for twice the work."""
    num_steps, varying = len(b), decay.ndim == b.ndim
    size = min(chunk_size, num_steps)
    num_chunks = -(-num_steps // size)
    if num_chunks == 1:
        return sequential(decay, twist, b, reset, carry, reset_state)

    def split(each):
        """`[T, ...]` as `[C, chunks, ...]`, zeros after the end."""
        each = jnp.pad(each, [(0, num_chunks * size - num_steps)] + [(0, 0)] * (each.ndim - 1))
        return jnp.moveaxis(each.reshape(num_chunks, size, *each.shape[1:]), 0, 1)

    factors = (decay, twist)
    if varying:
        factors = jax.tree.map(split, factors)
    inputs, resets = split(b), split(reset)
    zero = jnp.zeros_like(inputs[0])
    local = sequential(*factors, inputs, resets, zero, jnp.broadcast_to(reset_state, zero.shape))
    # What a state at the start of a chunk is multiplied by until step t; constant factors have one for all chunks.
    start = _neutral(zero if varying else jnp.zeros_like(decay), twist)
    empty = jnp.zeros((size, *start.shape), b.dtype)
    never = jnp.zeros((size, *start.shape[:-1]), bool)
    product = sequential(*factors, empty, never, start, start)
    # A reset in the chunk cuts off what came before it.
    intact = ~(jnp.cumsum(resets, axis=0) > 0)

    def across(state, chunk):
        last, factor, is_intact = chunk
        after = last + reset_where(~is_intact, jnp.zeros_like(state), times(factor, state, twist is not None))
        return after, state

    last_factor = product[-1] if varying else jnp.broadcast_to(product[-1], zero.shape)
    before = jax.lax.scan(across, carry, (local[-1], last_factor, intact[-1]))[1]
    factor = product if varying else product.reshape(size, *(1,) * (zero.ndim - start.ndim), *start.shape)
    brought = times(factor, before, twist is not None)
    states = local + reset_where(~intact, jnp.zeros_like(brought), brought)
    return jnp.moveaxis(states, 1, 0).reshape(num_chunks * size, *b.shape[1:])[:num_steps]


def _neutral(like, twist):
    """The neutral factor in the shape of `like`."""
    if twist is None:
        return jnp.ones_like(like)
    half = like.shape[-1] // 2
    return jnp.concatenate([jnp.ones_like(like[..., :half]), jnp.zeros_like(like[..., half:])], axis=-1)


def pallas(decay, twist, b, reset, carry, reset_state):
    """A kernel that walks through time with the state in registers, each program over some features of one sequence.

    For GPUs, by Triton (Ampere and later); on a CPU it runs interpreted, for tests only.
    """
    # Here, as not every build of jaxlib has Triton.
    from jax.experimental.pallas import triton

    varying, paired = decay.ndim == b.ndim, twist is not None
    num_steps, parts = len(b), 2 if paired else 1
    # A row has one reset flag: feature axes before the last one become rows too.
    *outer, width = b.shape[reset.ndim :] or (1,)
    inner, size = math.prod(outer), width // parts
    rows = math.prod(reset.shape[1:]) * inner
    block = min(PALLAS_BLOCK, 1 << (size - 1).bit_length())
    blocks = -(-size // block)

    def by_rows(each, *lead):
        """`[*lead, *batch, F]` as `[*lead, rows, parts, blocks * block]`."""
        each = each.reshape(*lead, rows, parts, size)
        return jnp.pad(each, [(0, 0)] * (each.ndim - 1) + [(0, blocks * block - size)])

    factor = jnp.concatenate([decay[..., :size], twist[..., size:]], axis=-1) if paired else decay
    factor = by_rows(factor, num_steps) if varying else by_rows(jnp.broadcast_to(factor, b.shape[1:]))
    flags = jnp.repeat(reset.reshape(num_steps, -1), inner, axis=1).astype(jnp.int32)
    inputs = by_rows(b, num_steps)

    def kernel(factor_ref, b_ref, flag_ref, carry_ref, start_ref, states_ref):
        # One part at a time, by reading it alone: Triton cannot slice or stack what is in registers.
        def read(ref, *place):
            return tuple(ref[(*place, part)] for part in range(parts))

        start = read(start_ref, 0)
        constant: tuple[Any, ...] = () if varying else read(factor_ref, 0)

        def step(t, state):
            flag = flag_ref[t, 0] > 0
            state = [jnp.where(flag, new, old) for new, old in zip(start, state, strict=True)]
            a = read(factor_ref, t, 0) if varying else constant
            if paired:
                (a_re, a_im), (re, im) = a, state
                state = [a_re * re - a_im * im, a_re * im + a_im * re]
            else:
                state = [a[0] * state[0]]
            after = tuple(each + b_t for each, b_t in zip(state, read(b_ref, t, 0), strict=True))
            for part, each in enumerate(after):
                states_ref[t, 0, part] = each
            return after

        jax.lax.fori_loop(0, num_steps, step, read(carry_ref, 0))

    sequence = pl.BlockSpec((num_steps, 1, parts, block), lambda row, column: (0, row, 0, column))
    single = pl.BlockSpec((1, parts, block), lambda row, column: (row, 0, column))
    states = pl.pallas_call(
        kernel,
        grid=(rows, blocks),
        in_specs=[
            sequence if varying else single,
            sequence,
            pl.BlockSpec((num_steps, 1), lambda row, column: (0, row)),
            single,
            single,
        ],
        out_specs=sequence,
        out_shape=jax.ShapeDtypeStruct(inputs.shape, b.dtype),
        # A warp for every 32 features, so that each thread holds one.
        compiler_params=triton.CompilerParams(num_warps=max(1, block // 32)),
        interpret=jax.default_backend() == "cpu",
    )(factor, inputs, flags, by_rows(carry), by_rows(reset_state))
    return states[..., :size].reshape(b.shape)


SOLVERS = {"sequential": sequential, "associative": associative, "chunked": chunked, "pallas": pallas}
