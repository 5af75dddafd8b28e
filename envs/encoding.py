"""Elements of spaces as flat numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from .spaces import Box, Discrete, MultiDiscrete, Space, flat_spaces


def encoded_width(leaf: Any) -> int:
    """Features that `encode_leaf` makes of a leaf space."""
    if isinstance(leaf, Discrete):
        return int(leaf.n)
    if isinstance(leaf, MultiDiscrete):
        return int(leaf.nvec.sum())
    return math.prod(leaf.shape)


def encode_leaf(leaf: Any, value: jax.Array) -> jax.Array:
    """An element of a leaf space, `[..., *shape]`, as `[..., F]`: one-hot, or flat numbers (uint8 divided by 255)."""
    if isinstance(leaf, Discrete):
        return jax.nn.one_hot(value, int(leaf.n), dtype=jnp.float32)
    if isinstance(leaf, MultiDiscrete):
        parts = [jax.nn.one_hot(value[..., i], int(n), dtype=jnp.float32) for i, n in enumerate(leaf.nvec)]
        return jnp.concatenate(parts, axis=-1)
    flat = value.reshape(*value.shape[: value.ndim - len(leaf.shape)], -1)
    return flat.astype(jnp.float32) / (255.0 if leaf.dtype == jnp.uint8 else 1.0)


def encode_action(leaf: Any, value: jax.Array) -> jax.Array:
    """The same for an action; a Box in units where its bounds are -1 and 1, or 0 where they are the same."""
    encoded = encode_leaf(leaf, value)
    if isinstance(leaf, Box):
        low = jnp.broadcast_to(jnp.asarray(leaf.low, jnp.float32), leaf.shape).reshape(-1)
        high = jnp.broadcast_to(jnp.asarray(leaf.high, jnp.float32), leaf.shape).reshape(-1)
        # A null action (0) stays 0 only where the bounds are symmetric; the first-step flag tells it apart.
        # An action that is fixed says nothing.
        width = jnp.where(high > low, 0.5 * (high - low), 1.0)
        return (encoded - 0.5 * (low + high)) / width
    return encoded


def space_width(space: Space) -> int:
    """Features that `encode` makes of any space."""
    return sum(map(encoded_width, flat_spaces(space)))


def encode(space: Space, value: Any) -> jax.Array:
    """An element of any space as one vector `[..., F]`, part by part."""
    leaves = zip(flat_spaces(space), jax.tree.leaves(value), strict=True)
    return jnp.concatenate([encode_leaf(leaf, part) for leaf, part in leaves], axis=-1)
