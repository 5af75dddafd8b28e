"""Linear recurrences over time with exact resets: pure functions, no framework.

Legend: T steps, *batch any batch axes, *feature the axes of one state.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact

from .errors import unknown_name

Method = Literal["auto", "sequential", "associative"]


def linear_recurrence(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "T *rest"],
    reset: Bool[Array, "T *batch"],
    carry: Inexact[Array, "..."],
    reset_state: Inexact[Array, "..."] | float = 0,
    *,
    method: Method = "auto",
) -> tuple[Inexact[Array, "T *rest"], Inexact[Array, "..."]]:
    """Diagonal linear recurrence whose state is replaced, not scaled, where an episode begins.

    h[t] = a[t] * (reset_state if reset[t] else h[t-1]) + b[t],  h[-1] = carry

    Args:
        a: decay, constant `[*feature]` or time-varying `[T, *batch, *feature]`; axes of length 1 broadcast.
        b: input `[T, *batch, *feature]`, real or complex; its shape is the shape of the states.
        reset: True where `b[t]` is the first input of an episode, `[T, *batch]`.
        carry: the state the previous chunk handed on, `[*batch, *feature]`.
        reset_state: what a reset loads, broadcastable to `[*batch, *feature]`.
        method: "sequential" (`lax.scan`), "associative" (parallel prefix), or "auto": sequential on CPU, where it
            measures faster at every length, associative elsewhere.

    Returns:
        `(states, last)`: all states `[T, *batch, *feature]` and `last = states[-1]`, to hand to the next chunk.

    Whatever lies before a reset, nan and inf included, changes neither values nor gradients after it: the reset is a
    `where` on the state, and the gradient is the same recurrence run backwards (a custom_vjp, so reverse mode only):
    g[t] = dh[t] + (0 if reset[t+1] else a[t+1] * g[t+1]);  db = g;  da[t] = g[t] * h_prev[t].

    Raises:
        ValueError: for shapes, dtypes or a method that break the rules above, before anything is compiled.

    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4 (segmented first-order recurrences);
    Smith et al. 2023 (S5), appendix H, for the scan of a diagonal state-space model.
    """
    a, b, reset, carry, reset_state = map(jnp.asarray, (a, b, reset, carry, reset_state))
    _check(a, b, reset, carry, reset_state, method)
    if method == "auto":
        method = "sequential" if jax.default_backend() == "cpu" else "associative"
    dtype = jnp.result_type(a, b, carry)
    num_feature = b.ndim - reset.ndim
    varying = a.ndim == b.ndim
    a = jnp.broadcast_to(a.astype(dtype), b.shape if varying else b.shape[b.ndim - num_feature :])
    carry = jnp.broadcast_to(carry.astype(dtype), b.shape[1:])
    reset_state = jnp.broadcast_to(reset_state.astype(dtype), b.shape[1:])
    return _recurrence(method, a, b.astype(dtype), reset, carry, reset_state)


def recurrence_step(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "..."],
    reset: Bool[Array, "*batch"],
    carry: Inexact[Array, "..."],
    reset_state: Inexact[Array, "..."] | float = 0,
) -> Inexact[Array, "..."]:
    """One step of `linear_recurrence`: a * (reset_state if reset else carry) + b, all `[*batch, *feature]`."""
    return a * _replace(reset, reset_state, carry) + b


def _replace(reset, new, old):
    """`new` where reset, else `old`; reset broadcasts over the trailing axes of `old`."""
    return jnp.where(reset.reshape(reset.shape + (1,) * (old.ndim - reset.ndim)), new, old)


def _check(a, b, reset, carry, reset_state, method) -> None:
    """Raise ValueError unless the arguments of `linear_recurrence` fit together."""
    if method not in get_args(Method):
        raise ValueError(unknown_name("linear_recurrence: method", method, get_args(Method)))
    for name, value in (("a", a), ("b", b), ("carry", carry)):
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            raise ValueError(f"linear_recurrence: {name} has dtype {value.dtype}, it must be floating or complex")
    if reset.dtype != jnp.bool_:
        raise ValueError(f"linear_recurrence: reset has dtype {reset.dtype}, it must be bool; use reset.astype(bool)")
    if reset.ndim < 1 or b.shape[: reset.ndim] != reset.shape or b.shape[0] < 1:
        raise ValueError(
            f"linear_recurrence: reset has shape {reset.shape} and b {b.shape}; reset must be [T, *batch] with T >= 1 "
            "and b [T, *batch, *feature] with the same leading axes"
        )
    feature = b.shape[reset.ndim :]
    wanted = b.shape if a.ndim == b.ndim else feature
    if a.ndim != len(wanted) or not _broadcasts(a.shape, wanted):
        raise ValueError(
            f"linear_recurrence: a has shape {a.shape}; it must be constant {feature} or time-varying {b.shape}"
        )
    if carry.shape != b.shape[1:]:
        raise ValueError(f"linear_recurrence: carry has shape {carry.shape}, b asks for {b.shape[1:]}")
    if not _broadcasts(reset_state.shape, b.shape[1:]):
        raise ValueError(
            f"linear_recurrence: reset_state has shape {reset_state.shape}, it must broadcast to {b.shape[1:]}"
        )


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be broadcast to exactly `target`."""
    return len(shape) <= len(target) and all(
        have in (1, want) for have, want in zip(reversed(shape), reversed(target), strict=False)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(method, a, b, reset, carry, reset_state):
    states = _solve(method, a, b, reset, carry, reset_state, reverse=False)
    return states, states[-1]


def _forward(method, a, b, reset, carry, reset_state):
    states = _solve(method, a, b, reset, carry, reset_state, reverse=False)
    return (states, states[-1]), (a, states, reset, carry, reset_state)


def _backward(method, residuals, cotangents):
    a, states, reset, carry, reset_state = residuals
    d_states, d_last = cotangents
    varying = a.ndim == states.ndim
    # g[t] = d_states[t] + (0 if reset[t+1] else a[t+1] g[t+1]): the same recurrence, shifted by one and reversed.
    shifted_a = jnp.concatenate([a[1:], jnp.ones_like(a[:1])]) if varying else jnp.ones_like(a)
    shifted_reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
    if varying:
        g = _recurrence_reversed(method, shifted_a, d_states, shifted_reset, d_last)
    else:
        d_states = d_states.at[-1].add(d_last)
        g = _recurrence_reversed(method, a, d_states, shifted_reset, jnp.zeros_like(d_last))
    previous = _replace(reset, reset_state, jnp.concatenate([carry[None], states[:-1]]))
    # A zero cotangent stays zero even against a nan state that a later reset has discarded.
    d_a = jnp.where(g == 0, jnp.zeros_like(g), g * previous)
    d_a = d_a if varying else d_a.sum(range(reset.ndim))
    d_previous = a * g
    d_carry = _replace(reset[0], jnp.zeros_like(carry), d_previous[0])
    d_reset_state = _replace(reset, d_previous, jnp.zeros_like(d_previous)).sum(0)
    return d_a, g, None, d_carry, d_reset_state


_recurrence.defvjp(_forward, _backward)


def _recurrence_reversed(method, a, b, reset, carry):
    """The recurrence run from the last step to the first, differentiable again by the same rule."""
    flip = partial(jnp.flip, axis=0)
    a = flip(a) if a.ndim == b.ndim else a
    return flip(_recurrence(method, a, flip(b), flip(reset), carry, jnp.zeros_like(carry))[0])


def _solve(method, a, b, reset, carry, reset_state, *, reverse):
    solve = _solve_sequential if method == "sequential" else _solve_associative
    return solve(a, b, reset, carry, reset_state)


def _solve_sequential(a, b, reset, carry, reset_state):
    varying = a.ndim == b.ndim

    def recur(state, inputs):
        b_t, reset_t, a_t = inputs
        state = recurrence_step(a_t if varying else a, b_t, reset_t, state, reset_state)
        return state, state

    return jax.lax.scan(recur, carry, (b, reset, a if varying else None))[1]


def _solve_associative(a, b, reset, carry, reset_state):
    flag = reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim))
    a = jnp.broadcast_to(a, b.shape)
    b = b + jnp.where(flag, a * reset_state, 0)
    b = b.at[0].add(jnp.where(flag[0], 0, a[0] * carry))

    def combine(left, right):
        # The flag travels with the element: a reset on the right discards the left by selection, nan or not.
        a_left, b_left, flag_left = left
        a_right, b_right, flag_right = right
        return (
            jnp.where(flag_right, a_right, a_left * a_right),
            jnp.where(flag_right, b_right, a_right * b_left + b_right),
            flag_left | flag_right,
        )

    return jax.lax.associative_scan(combine, (a, b, flag))[1]
