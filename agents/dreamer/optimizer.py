"""LaProp with adaptive gradient clipping, the optimiser of DreamerV3.

Source: Brock et al. 2021 (AGC, per array here), Ziyin et al. 2020 (LaProp), Hafner et al. 2023 (DreamerV3).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def adaptive_clip(clip: float, floor: float = 1e-3) -> optax.GradientTransformation:
    """Scales each array's gradient so that its norm is at most `clip max(floor, norm of the parameters)`.

    Per array, unlike `optax.adaptive_grad_clip`, which goes by the units of a layer.
    """

    def update(updates, state, params=None):
        def one(update, param):
            limit = clip * jnp.maximum(floor, jnp.linalg.norm(param.ravel()))
            return update / jnp.maximum(1.0, jnp.linalg.norm(update.ravel()) / limit)

        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class LaPropState(NamedTuple):
    """Number of updates, second moment of the gradient, momentum of the scaled gradient."""

    updates: jax.Array
    second_moment: PyTree
    momentum: PyTree


def scale_by_laprop(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-20) -> optax.GradientTransformation:
    """Momentum of the gradient already divided by its root mean square, both without bias.

    v = beta2 v + (1 - beta2) g^2;  u = g / (sqrt(v / (1 - beta2^n)) + eps)
    m = beta1 m + (1 - beta1) u;    update = m / (1 - beta1^n)
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LaPropState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        number = state.updates + 1
        second = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * g**2, state.second_moment, updates)
        scaled = jax.tree.map(lambda g, v: g / (jnp.sqrt(v / (1.0 - beta2**number)) + eps), updates, second)
        momentum = jax.tree.map(lambda m, u: beta1 * m + (1.0 - beta1) * u, state.momentum, scaled)
        return jax.tree.map(lambda m: m / (1.0 - beta1**number), momentum), LaPropState(number, second, momentum)

    return optax.GradientTransformation(init, update)


def laprop(learning_rate: float, warmup_updates: int, clip: float) -> optax.GradientTransformation:
    """AGC, LaProp, and a learning rate that rises linearly from 0 over `warmup_updates`."""
    schedule = optax.linear_schedule(0.0, learning_rate, warmup_updates) if warmup_updates else learning_rate
    return optax.chain(adaptive_clip(clip), scale_by_laprop(), optax.scale_by_learning_rate(schedule))
