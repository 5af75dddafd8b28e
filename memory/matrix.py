"""Recurrences over matrices, chunk by chunk: matrix products inside a chunk, a short recurrence across.

Legend: T steps, *batch any batch axes, H heads, G groups of heads (1 or H), K key width, V value width, C steps of a
chunk, R entries of a step (the rank of its update).
"""

import math
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .core import reset_where
from .triangular import solve_unit_lower


def matrix_recurrence(
    q: Float[Array, "TR *batch G K"],
    k: Float[Array, "TR *batch G K"],
    v: Float[Array, "TR *batch H V"],
    log_decay: Float[Array, "T *batch H"],
    reset: Bool[Array, "T *batch"],
    carry: Float[Array, "*batch H K V"],
    beta: Float[Array, "T *batch H"] | None = None,
    *,
    chunk_size: int = 32,
) -> tuple[Float[Array, "TR *batch H V"], Float[Array, "*batch H K V"]]:
    """An associative memory of keys and values that decays, and that may take back what a key recalled before.

    S = exp(log_decay[t]) * (0 if reset[t] else S[t-1]);   u = v[t], or beta[t] (v[t] - S^T k[t]) where beta is given
    S[t] = S + k[t] u^T,   y[t] = S[t]^T q[t]

    Without beta it is linear attention with decay (SSD, Mamba-2), with it the gated delta rule. R consecutive entries
    of q, k and v may belong to one step (R = len(v) / T, without beta only): all are written before any is read.

    Within a chunk y = (L * q k^T) u + (what the state before it recalls), where L[i, j] is the decay from j to i, by a
    sum over the steps between and not by a difference of sums, and 0 where a reset lies in (j, i]. With beta,
    (I + tril(beta L * k k^T, -1)) u = beta (v - recalled) is solved first (the WY form).

    A non-finite carry or input makes all that is read after it nan, up to the next reset and never beyond: it is
    replaced by 0 before any product, and what it would have reached is marked.

    Args:
        q, k, v: queries, keys, values. Queries and keys of one group are shared by its heads.
        log_decay: at most 0; -inf forgets everything.
        reset: True where step t is the first of an episode.
        carry: the state before the first step, float32 (float64 where an input is).
        beta: how much of what the key recalled is replaced, 0 to 1 (up to 2 with unit keys).
        chunk_size: steps of a chunk.

    Returns:
        `(y, last)`: what was read, and the state after the last step.

    Raises:
        ValueError: for shapes and types that do not fit, before compilation.

    Source: Dao and Gu 2024 (Mamba-2), section 6; Yang et al. 2024 (DeltaNet), section 3; Yang et al. 2025 (Gated
    DeltaNet), section 3.3.
    """
    _check(q, k, v, log_decay, reset, carry, beta)
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, Integral) or chunk_size < 1:
        raise ValueError(f"matrix_recurrence: chunk_size={chunk_size!r} must be a positive integer")
    num_steps, batch = reset.shape[0], reset.shape[1:]
    num_heads, rank = log_decay.shape[-1], len(v) // num_steps
    # -inf forgets everything; sums of it must stay numbers.
    log_decay = jnp.maximum(log_decay, -1e30)
    size = min(chunk_size, num_steps)
    num_chunks = -(-num_steps // size)

    def chunks(each, per_step=1):
        """`[T * per_step, *batch, ...]` as `[chunks, B, ..., C * per_step, (last)]`, zeros after the end."""
        padding = (num_chunks * size - num_steps) * per_step
        each = jnp.pad(each, [(0, padding)] + [(0, 0)] * (each.ndim - 1))
        each = each.reshape(num_chunks, size * per_step, math.prod(batch), *each.shape[1 + len(batch) :])
        return jnp.moveaxis(each, 1, min(3, each.ndim - 1))

    def run(state, chunk):
        return _chunk(state, chunk, rank)

    entries = (chunks(q, rank), chunks(k, rank), chunks(v, rank))
    inputs = (*entries, chunks(log_decay), chunks(reset), None if beta is None else chunks(beta))
    state = carry.reshape(math.prod(batch), *carry.shape[len(batch) :])
    # Without it the scan would store what is made of every pair of steps in a chunk.
    last, y = jax.lax.scan(jax.checkpoint(run, prevent_cse=False), state, inputs)
    y = jnp.moveaxis(y, 3, 1).reshape(num_chunks * size * rank, *batch, num_heads, v.shape[-1])
    return y[: num_steps * rank], last.reshape(carry.shape)


def matrix_step(
    q: Float[Array, "*batch G R K"],
    k: Float[Array, "*batch G R K"],
    v: Float[Array, "*batch H R V"],
    log_decay: Float[Array, "*batch H"],
    reset: Bool[Array, "*batch"],
    carry: Float[Array, "*batch H K V"],
    beta: Float[Array, "*batch H"] | None = None,
) -> tuple[Float[Array, "*batch H R V"], Float[Array, "*batch H K V"]]:
    """One step of `matrix_recurrence`, with the R entries of the step on an axis of their own.

    Raises:
        ValueError: for shapes and types that do not fit, before compilation.
    """
    _check_step(q, k, v, log_decay, reset, carry, beta)
    state = reset_where(reset, jnp.zeros_like(carry), carry)
    state = jnp.exp(log_decay)[..., None, None] * state
    if beta is not None:
        v = beta[..., None, None] * (v - k @ state)
    state = state + jnp.swapaxes(k, -1, -2) @ v
    return q @ state, state


def _chunk(state, chunk, rank):
    """One chunk of B sequences: (state after it, what was read `[B, H, C * R, V]`)."""
    reset = chunk[4]
    bad = _non_finite_steps(chunk, rank)
    chunk = jax.tree.map(lambda each: jnp.where(jnp.isfinite(each), each, jnp.zeros_like(each)), chunk)
    q, k, v, log_decay, _, beta = chunk
    size = reset.shape[-1]
    lower = jnp.tril(jnp.ones((size, size), bool))
    episode = jnp.cumsum(reset, axis=-1)
    together = (episode[:, :, None] == episode[:, None, :]) & lower
    # between[i, j] = sum of log_decay over (j, i], each term added up, none subtracted.
    later = jnp.where(lower, 0.0, 1.0).T  # later[m, j]: m > j
    between = jnp.einsum("im,bhm,mj->bhij", lower.astype(jnp.float32), log_decay, later)
    paired, begun_before = together[:, None], episode == 0
    decay = jnp.where(paired, jnp.exp(jnp.where(paired, between, 0.0)), 0.0)
    since_start = jnp.where(begun_before[:, None], jnp.exp(jnp.cumsum(log_decay, axis=-1)), 0.0)[..., None]
    if rank > 1:
        decay = jnp.repeat(jnp.repeat(decay, rank, axis=-1), rank, axis=-2)
        since_start = jnp.repeat(since_start, rank, axis=-2)
    safe = jnp.where(jnp.isfinite(state), state, 0.0)

    if beta is not None:
        recalled = since_start * (k @ safe)
        system = beta[..., None] * decay * (k @ jnp.swapaxes(k, -1, -2))
        system = jnp.where(jnp.tril(jnp.ones_like(lower), -1), system, 0.0)
        v = solve_unit_lower(system, beta[..., None] * (v - recalled))
    y = (decay * (q @ jnp.swapaxes(k, -1, -2))) @ v + since_start * (q @ safe)
    to_end = decay[..., -1, :, None]
    after = since_start[..., -1:, :] * safe + jnp.swapaxes(k, -1, -2) @ (to_end * v)
    spoilt = (together & bad[:, None, :]).any(-1) | (begun_before & ~jnp.isfinite(state).all((1, 2, 3))[:, None])
    y = jnp.where(jnp.repeat(spoilt, rank, axis=-1)[:, None, :, None], jnp.nan, y)
    return jnp.where(spoilt[:, -1, None, None, None], jnp.nan, after), y


def _non_finite_steps(chunk, rank):
    """Where any input of a step is nan or inf, `[B, C]`."""
    q, k, v, log_decay, _, beta = chunk
    bad = ~jnp.isfinite(log_decay).all(1)
    for each in (q, k, v):
        fine = jnp.isfinite(each).all((1, 3))
        bad |= ~fine.reshape(*bad.shape, rank).all(-1)
    return bad if beta is None else bad | ~jnp.isfinite(beta).all(1)


def _check(q, k, v, log_decay, reset, carry, beta):
    """Raise ValueError unless the arguments of `matrix_recurrence` fit together."""
    name = "matrix_recurrence"
    _check_types(name, q, k, v, log_decay, reset, carry, beta)
    if reset.ndim < 1 or 0 in reset.shape:
        raise ValueError(f"{name}: reset has shape {reset.shape}; it must be [T, *batch] with no empty axis")
    num_heads = _num_heads(name, log_decay, reset)
    num_steps, batch = reset.shape[0], reset.shape[1:]
    rank = len(v) // num_steps if v.ndim else 0
    if (
        v.ndim != reset.ndim + 2
        or v.shape[:-1] != (rank * num_steps, *batch, num_heads)
        or rank < 1
        or (beta is not None and rank > 1)
    ):
        raise ValueError(f"{name}: v has shape {v.shape}, expected {(num_steps, *batch, num_heads, 'V')}")
    _check_keys(name, q, k, v.shape[:-2], (), num_heads)
    _check_state(name, carry, (*batch, num_heads, k.shape[-1], v.shape[-1]), beta, log_decay)


def _check_step(q, k, v, log_decay, reset, carry, beta):
    """Raise ValueError unless the arguments of `matrix_step` fit together."""
    name = "matrix_step"
    _check_types(name, q, k, v, log_decay, reset, carry, beta)
    num_heads = _num_heads(name, log_decay, reset)
    if v.ndim != reset.ndim + 3 or v.shape[:-2] != (*reset.shape, num_heads):
        raise ValueError(f"{name}: v has shape {v.shape}, expected {(*reset.shape, num_heads, 'R', 'V')}")
    _check_keys(name, q, k, reset.shape, v.shape[-2:-1], num_heads)
    _check_state(name, carry, (*reset.shape, num_heads, k.shape[-1], v.shape[-1]), beta, log_decay)


def _check_types(name, q, k, v, log_decay, reset, carry, beta):
    given = {"q": q, "k": k, "v": v, "log_decay": log_decay, "reset": reset, "carry": carry, "beta": beta}
    for label, each in given.items():
        if label == "beta" and each is None:
            continue
        if not hasattr(each, "dtype"):
            raise ValueError(f"{name}: {label} is a {type(each).__name__}, it must be an array; use jnp.asarray")
        if label == "reset" and each.dtype != jnp.bool_:
            raise ValueError(f"{name}: reset has dtype {each.dtype}, it must be bool; use reset.astype(bool)")
        if label != "reset" and not jnp.issubdtype(each.dtype, jnp.floating):
            raise ValueError(f"{name}: {label} has dtype {each.dtype}, it must be floating")
    inputs = [each for label, each in given.items() if label not in ("reset", "carry") and each is not None]
    wanted = jnp.result_type(jnp.float32, *inputs)
    if carry.dtype != wanted:
        raise ValueError(f"{name}: carry has dtype {carry.dtype}, the state stays {wanted}; use carry.astype")


def _num_heads(name, log_decay, reset):
    if log_decay.ndim != reset.ndim + 1 or log_decay.shape[:-1] != reset.shape:
        raise ValueError(f"{name}: log_decay has shape {log_decay.shape}, expected {(*reset.shape, 'H')}")
    return log_decay.shape[-1]


def _check_keys(name, q, k, lead, entries, num_heads):
    """k and q are `[*lead, G, *entries, K]`, G 1 or all heads."""
    for label, each in (("k", k), ("q", q)):
        groups = each.shape[len(lead)] if each.ndim > len(lead) else 0
        width = k.shape[-1] if k.ndim else 0
        if groups not in (1, num_heads) or each.shape != (*lead, groups, *entries, width) or each.shape != k.shape:
            wanted = (*lead, f"1 or {num_heads}", *entries, "K" if label == "k" else width)
            raise ValueError(f"{name}: {label} has shape {each.shape}, expected {wanted}")


def _check_state(name, carry, wanted, beta, log_decay):
    if carry.shape != wanted:
        raise ValueError(f"{name}: carry has shape {carry.shape}, expected {wanted}")
    if beta is not None and beta.shape != log_decay.shape:
        raise ValueError(f"{name}: beta has shape {beta.shape}, expected {log_decay.shape}")
