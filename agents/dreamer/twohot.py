"""Symlog, and distributions over exponentially spaced bins that learn a scalar of any scale.

Source: Hafner et al. 2023 (DreamerV3), section on robust predictions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def symlog(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`sign(x) log(1 + abs(x))`."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def value_bins(num_bins: int, limit: float = 20.0) -> Float[Array, " K"]:
    """`symexp` of evenly spaced points from -limit to limit; an odd number, with 0 in the middle.

    Raises:
        ValueError: for an even number, or one below 3.
    """
    if num_bins < 3 or num_bins % 2 == 0:
        raise ValueError(f"num_bins={num_bins} must be odd and at least 3")
    half = symexp(jnp.linspace(0.0, limit, num_bins // 2 + 1))
    # Mirrored, so that it is symmetric to the last bit and equal weights cancel.
    return jnp.concatenate([-half[:0:-1], half])


def two_hot(x: Float[Array, "..."], bins: Float[Array, " K"]) -> Float[Array, "... K"]:
    """Weights on the two bins around x whose mean is x; the outermost bin where x lies beyond."""
    above = jnp.clip(jnp.searchsorted(bins, x, side="right"), 1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    weight = jnp.clip((x - low) / (high - low), 0.0, 1.0)[..., None]
    index = jnp.arange(len(bins))
    return (1.0 - weight) * (index == above[..., None] - 1) + weight * (index == above[..., None])


def two_hot_mean(logits: Float[Array, "... K"], bins: Float[Array, " K"]) -> Float[Array, "..."]:
    """The mean of the distribution over bins, summed in pairs of opposite sign: exactly 0 for a symmetric one."""
    weighted = jax.nn.softmax(logits) * bins
    half = len(bins) // 2
    return (weighted[..., :half] + weighted[..., : -half - 1 : -1]).sum(-1)


def two_hot_loss(
    logits: Float[Array, "... K"], target: Float[Array, "..."], bins: Float[Array, " K"]
) -> Float[Array, "..."]:
    """Cross entropy to the two-hot target, in nats; no gradient reaches the target."""
    weights = jax.lax.stop_gradient(two_hot(target, bins))
    return -(weights * jax.nn.log_softmax(logits)).sum(-1)
