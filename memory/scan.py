"""Linear recurrences over time with exact resets: pure functions, no framework.

Legend: T steps, *batch any batch axes, *feature the axes of one state.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Inexact

from .diagonal import recur
from .errors import unknown_name
from .pairs import from_pair, pair_factors, to_pair

Method = Literal["auto", "sequential", "associative", "chunked", "pallas"]


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
        method: "sequential" (`lax.scan`), "associative" (parallel prefix), "chunked" (all chunks at once, then across
            them), "pallas" (a GPU kernel; interpreted on a CPU, for tests), or "auto": sequential on CPU, where it
            measures fastest or nearly so at every size (docs/scan_crossover.md), associative elsewhere.

    Returns:
        `(states, last)`: all states `[T, *batch, *feature]` and `last = states[-1]`, to hand to the next chunk.

    Whatever lies before a reset, nan and inf included, changes neither values nor gradients after it: the reset is a
    `where` on the state, and the gradient is the same recurrence run backwards (a custom_vjp, so reverse mode only):
    g[t] = dh[t] + (0 if reset[t+1] else a[t+1] * g[t+1]);  db = g;  da[t] = g[t] * h_prev[t]
    (in JAX's convention for complex cotangents).

    Raises:
        ValueError: for shapes, dtypes or a method that break the rules above, before anything is compiled.

    Source: Blelloch 1990, "Prefix sums and their applications", section 1.4 (segmented first-order recurrences);
    Smith et al. 2023 (S5), appendix H, for the scan of a diagonal state-space model.
    """
    a, b, reset, carry, reset_state = map(jnp.asarray, (a, b, reset, carry, reset_state))
    _check(a, b, reset, carry, reset_state, method)
    dtype = jnp.result_type(a, b, carry, reset_state)
    feature = b.shape[reset.ndim :]
    a = jnp.broadcast_to(a.astype(dtype), b.shape if a.ndim == b.ndim else feature)
    b, carry = b.astype(dtype), carry.astype(dtype)
    reset_state = jnp.broadcast_to(reset_state.astype(dtype), carry.shape)
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        states = recur(choose_method(method), a, None, b, reset, carry, reset_state)
    elif feature:
        factors = pair_factors(a)
        pairs = recur(choose_method(method), *factors, to_pair(b), reset, to_pair(carry), to_pair(reset_state))
        states = from_pair(pairs)
    else:
        states = linear_recurrence(
            a[..., None], b[..., None], reset, carry[..., None], reset_state[..., None], method=method
        )[0][..., 0]
    return states, states[-1]


def choose_method(method: Method) -> str:
    """Resolve "auto" by the default backend. Raises ValueError for "pallas" where there is no such kernel."""
    backend = jax.default_backend()
    if method == "pallas" and backend not in ("cpu", "gpu"):
        raise ValueError(f"method='pallas' is a kernel for GPUs, the backend is {backend!r}; use 'associative'")
    if method != "auto":
        return method
    return "sequential" if backend == "cpu" else "associative"


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
