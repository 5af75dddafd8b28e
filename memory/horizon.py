"""How far back a memory looks: the gradient of its output to its input, by the steps between them.

Legend: T steps, B batch, d_in width of the input, L largest lag.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key


def memory_horizon(
    memory: nn.Module,
    params: Any,
    x: Float[Array, "T B d_in"],
    reset: Bool[Array, "T B"],
    key: Key[Array, ""],
    *,
    lags: int,
    num_probes: int = 16,
) -> tuple[Float[Array, " L+1"], Int[Array, " L+1"]]:
    """The gradient of the output at step t with respect to the input at step t - lag, for lags 0 ... L.

    gradient[lag] = sqrt(mean of |d y[t, b] / d x[t - lag, b]|^2),   |.| the Frobenius norm

    The mean is over steps t and batch elements b that are drawn at random, t from L to T - 1, and over those alone of
    which step t - lag belongs to the same episode as step t, a first step of it included: no lag crosses an episode
    start, and a lag longer than every episode seen has no samples. Each probe is one vector-Jacobian product: a
    random step of every batch element is given a cotangent v of random signs, and E |J^T v|^2 is the squared norm, so
    one product holds all lags of B samples.

    Args:
        memory: any module of the memory contract, with its variables `{"params": ...}`.
        x, reset: inputs from the beginning of a stream on.
        key: of the steps and signs.
        lags: L; T should be at least twice that, so that most steps have so long a past.
        num_probes: vector-Jacobian products; samples are B times as many.

    Returns:
        `(gradient, samples)`: nan where there is no sample.
    """
    num_steps, num_envs = reset.shape

    def outputs(inputs: Array) -> Any:
        return memory.apply(params, memory.initial_carry((num_envs,)), inputs, reset)[1]

    y, pull_back = jax.vjp(outputs, x)
    first_step = jax.lax.cummax(jnp.where(reset, jnp.arange(num_steps)[:, None], 0))
    column, lag = jnp.arange(num_envs), jnp.arange(lags + 1)[:, None]

    def probe(probe_key):
        step_key, sign_key = jax.random.split(probe_key)
        t = jax.random.randint(step_key, (num_envs,), min(lags, num_steps - 1), num_steps)
        signs = jax.random.rademacher(sign_key, (num_envs, y.shape[-1]), y.dtype)
        (gradient,) = pull_back(jnp.zeros_like(y).at[t, column].set(signs))
        squared = (gradient.astype(jnp.float32) ** 2).sum(-1)
        inside = t - lag >= first_step[t, column]
        return jnp.where(inside, squared[jnp.maximum(t - lag, 0), column], 0.0).sum(1), inside.sum(1)

    sums, counts = jax.tree.map(lambda each: each.sum(0), jax.lax.map(probe, jax.random.split(key, num_probes)))
    return jnp.where(counts > 0, jnp.sqrt(sums / jnp.maximum(counts, 1)), jnp.nan), counts


def lag_at_mass(gradient: Float[np.ndarray, " L+1"], share: float) -> int | None:
    """The smallest lag up to which lies `share` of the sum of `gradient` over all lags; None where that sum is 0.

    Lags without samples (nan) count nothing.
    """
    mass = np.cumsum(np.nan_to_num(np.asarray(gradient, np.float64), nan=0.0, posinf=np.nan))
    if not mass[-1] > 0:  # nan too
        return None
    return int(np.argmax(mass >= share * mass[-1]))
