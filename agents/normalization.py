"""Running statistics for observation and reward normalisation; plain pytrees, reduced over devices where asked."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


@struct.dataclass
class RunningStatistics:
    """Count, mean and variance of everything seen so far, per feature.

    Attributes:
        count: float32 scalar, number of samples; starts near 0 so that the first batch decides.
        mean: float32 `[F]`.
        variance: float32 `[F]`; 1 before the first batch.
    """

    count: Float[Array, ""]
    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


def initial_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Mean 0, variance 1, (almost) no samples."""
    return RunningStatistics(jnp.asarray(1e-4), jnp.zeros(shape), jnp.ones(shape))


def update_statistics(
    statistics: RunningStatistics, batch: Float[Array, "..."], axis_name: str | None = None
) -> RunningStatistics:
    """Merges a batch (any leading axes) into the statistics (Chan et al. 1979, parallel mean and variance)."""
    axes = tuple(range(batch.ndim - statistics.mean.ndim))
    count = jnp.asarray(float(batch.size // max(statistics.mean.size, 1)))
    mean = pmean(batch.mean(axes), axis_name)
    variance = pmean(jnp.mean((batch - mean) ** 2, axes), axis_name)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    total = statistics.count + count
    delta = mean - statistics.mean
    merged = statistics.variance * statistics.count + variance * count + delta**2 * statistics.count * count / total
    return RunningStatistics(total, statistics.mean + delta * count / total, merged / total)


def normalize(
    statistics: RunningStatistics, value: Float[Array, "..."], *, clip: float = 10.0, epsilon: float = 1e-8
) -> Float[Array, "..."]:
    """`(value - mean) / sqrt(variance + epsilon)`, clipped to `[-clip, clip]`."""
    return jnp.clip((value - statistics.mean) * jax.lax.rsqrt(statistics.variance + epsilon), -clip, clip)


def pmean(tree: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """The mean over the axis, or axes, of that name; `tree` itself where None."""
    if axis_name is None:
        return tree
    # All leaves in one message: on CPUs each is waited for by itself, however small.
    whole, separate = ravel_pytree(tree)
    return separate(jax.lax.pmean(whole, axis_name))
