"""Spaces: the gymnax classes where they work, and the ones gymnax lacks (MultiDiscrete) or gets wrong (Tuple, Dict).

A space describes one observation or action of one environment; `sample(key)` and `contains(x)` are jittable. Composite
spaces hold their parts in `spaces`: a tuple for `Tuple`, a dict for `Dict`; their elements are plain tuples and dicts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Discrete, Space

__all__ = ["Box", "Dict", "Discrete", "MultiDiscrete", "Space", "Tuple", "flat_spaces", "to_gymnasium"]


class MultiDiscrete(Space):
    """A vector of independent categorical values: element i lies in `range(nvec[i])`.

    Args:
        nvec: number of categories of each element; all at least 1.

    Raises:
        ValueError: if `nvec` is empty, not one-dimensional, or holds a number below 1.
    """

    def __init__(self, nvec: Sequence[int] | np.ndarray):
        values = np.asarray(nvec, dtype=np.int32)
        if values.ndim != 1 or values.size == 0 or (values < 1).any():
            raise ValueError(f"nvec={nvec!r} must be a non-empty list of numbers of categories, each at least 1")
        self.nvec = values
        self.shape = values.shape
        self.dtype = jnp.dtype(jnp.int32)

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.nvec.tolist()})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw, int32 of shape `[len(nvec)]`."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), dtype=jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """Whether every element of `x` is within its range."""
        x = jnp.asarray(x)
        return jnp.all((x >= 0) & (x < jnp.asarray(self.nvec)))


class Tuple(Space):
    """A fixed-length tuple of spaces; its elements are Python tuples."""

    def __init__(self, spaces: Sequence[Space]):
        self.spaces = tuple(spaces)

    def __repr__(self) -> str:
        return f"Tuple({self.spaces!r})"

    def sample(self, key: jax.Array) -> tuple:
        """An independent draw from each part."""
        keys = jax.random.split(key, len(self.spaces))
        return tuple(space.sample(part) for space, part in zip(self.spaces, keys, strict=True))

    def contains(self, x: Any) -> jax.Array:
        """Whether every part of `x` is within its space."""
        parts = [space.contains(part) for space, part in zip(self.spaces, x, strict=True)]
        return jnp.all(jnp.stack([jnp.asarray(part) for part in parts]))


class Dict(Space):
    """A mapping from names to spaces; its elements are plain dicts with the same names."""

    def __init__(self, spaces: Mapping[str, Space]):
        self.spaces = dict(spaces)

    def __repr__(self) -> str:
        return f"Dict({self.spaces!r})"

    def sample(self, key: jax.Array) -> dict:
        """An independent draw from each part."""
        keys = jax.random.split(key, len(self.spaces))
        return {name: space.sample(part) for (name, space), part in zip(self.spaces.items(), keys, strict=True)}

    def contains(self, x: Any) -> jax.Array:
        """Whether `x` has the same names and every part is within its space."""
        if set(x) != set(self.spaces):
            return jnp.asarray(False)
        return jnp.all(jnp.stack([jnp.asarray(space.contains(x[name])) for name, space in self.spaces.items()]))


def flat_spaces(space: Any) -> list[Any]:
    """The leaf spaces of `space` in the order `jax.tree.leaves` visits its elements (dict parts by sorted name)."""
    parts = getattr(space, "spaces", None)
    if parts is None:
        return [space]
    children = [parts[name] for name in sorted(parts)] if isinstance(parts, Mapping) else list(parts)
    return [leaf for child in children for leaf in flat_spaces(child)]


def to_gymnasium(space: Any) -> gymnasium.Space:
    """The gymnasium space with the same elements.

    Raises:
        TypeError: for a space that is none of Discrete, MultiDiscrete, Box, Tuple, Dict.
    """
    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        return gymnasium.spaces.Dict({name: to_gymnasium(part) for name, part in parts.items()})
    if parts is not None:
        return gymnasium.spaces.Tuple([to_gymnasium(part) for part in parts])
    if isinstance(space, MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete(space.nvec)
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(int(space.n))
    if isinstance(space, Box):
        dtype = np.dtype(space.dtype)
        low = np.broadcast_to(np.asarray(space.low, dtype), space.shape)
        high = np.broadcast_to(np.asarray(space.high, dtype), space.shape)
        return gymnasium.spaces.Box(low, high, space.shape, dtype)
    raise TypeError(f"space={space!r} must be Discrete, MultiDiscrete, Box, Tuple or Dict")
