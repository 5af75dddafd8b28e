"""Solving with unit lower triangular matrices by matrix products alone.

jaxlib's batched triangular solve for CPUs runs in the threads of XLA's own pool and waits there for others of them: two
at once on two cores can wait for each other for ever (seen with jaxlib 0.10.2). On accelerators products are what is
fast.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def solve_unit_lower(lower: Float[Array, "*batch C C"], b: Float[Array, "*batch C V"]) -> Float[Array, "*batch C V"]:
    """u with (I + lower) u = b.

    Args:
        lower: read below the diagonal alone.
        b: right-hand sides.

    The inverse of [[A, 0], [E, D]] is [[A', 0], [-D' E A', D']], from blocks of one upwards; its gradient is a product
    with the transposed inverse.
    """
    return _solve(lower, b)[0]


def _solve(lower, b):
    inverse = _inverse(lower)
    u = inverse @ b
    return u, (inverse, u)


def _solve_transposed(residuals, d_u):
    inverse, u = residuals
    d_b = jnp.swapaxes(inverse, -1, -2) @ d_u
    return -jnp.tril(d_b @ jnp.swapaxes(u, -1, -2), -1), d_b


solve_unit_lower.defvjp(_solve, _solve_transposed)


def _inverse(lower):
    """(I + lower)^-1."""
    count = lower.shape[-1]
    size = 1 << (count - 1).bit_length()
    batch = lower.shape[:-2]
    lower = jnp.pad(lower, [(0, 0)] * len(batch) + [(0, size - count)] * 2)
    # The inverses of the blocks of `width` on the diagonal, [*batch, blocks, width, width].
    inverse = jnp.ones((*batch, size, 1, 1), lower.dtype)
    width = 1
    while width < size:
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        pairs = size // (2 * width)
        blocks = lower.reshape(*batch, pairs, 2, width, pairs, 2, width)
        between = jnp.stack([blocks[..., i, 1, :, i, 0, :] for i in range(pairs)], axis=-3)
        corner = -(second @ between @ first)
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
        inverse = jnp.concatenate([top, jnp.concatenate([corner, second], axis=-1)], axis=-2)
        width *= 2
    return inverse[..., 0, :count, :count]
