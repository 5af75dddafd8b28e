"""Spaces: what one observation or one action of one environment can be.

`sample(key)` and `contains(x)` are jittable. Composite spaces hold their parts in `spaces`: a tuple for `Tuple`, a dict
for `Dict`; their elements are plain tuples and dicts.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    import gymnasium

__all__ = ["Box", "Dict", "Discrete", "MultiDiscrete", "Space", "Tuple", "flat_spaces", "part_names", "to_gymnasium"]


class Space:
    """A set of elements."""

    def sample(self, key: jax.Array) -> Any:
        """A random element."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(key)")

    def contains(self, x: Any) -> jax.Array:
        """Whether `x` is an element, a bool scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define contains(x)")


class Discrete(Space):
    """The integers `range(n)`, int32 scalars.

    Args:
        n: number of values; at least 1.

    Raises:
        ValueError: if `n` is below 1.
    """

    def __init__(self, n: int):
        if n < 1:
            raise ValueError(f"n={n!r} must be at least 1")
        self.n = int(n)
        self.shape = ()
        self.dtype = jnp.dtype(jnp.int32)

    def __repr__(self) -> str:
        return f"Discrete({self.n})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw."""
        return jax.random.randint(key, (), 0, self.n, dtype=jnp.int32)

    def contains(self, x: Any) -> jax.Array:
        """Whether `x` is in `range(n)`."""
        x = jnp.asarray(x)
        return jnp.all((x >= 0) & (x < self.n))


class Box(Space):
    """Arrays of one shape with a lower and an upper bound for every element.

    Args:
        low: lower bound, a number or an array that broadcasts to `shape`; -inf where there is none.
        high: upper bound, inclusive; inf where there is none.
        shape: shape of an element; that of the bounds where None.
        dtype: its dtype.

    Raises:
        ValueError: if the bounds do not broadcast to the shape, or a lower one exceeds its upper one.
    """

    def __init__(self, low: Any, high: Any, shape: Sequence[int] | None = None, dtype: Any = jnp.float32):
        self.shape = np.broadcast_shapes(np.shape(low), np.shape(high)) if shape is None else tuple(shape)
        self.dtype = jnp.dtype(dtype)
        self.low = _bound("low", low, self.shape, self.dtype)
        self.high = _bound("high", high, self.shape, self.dtype)
        if (self.low > self.high).any():
            raise ValueError(f"low={low!r} must not exceed high={high!r} anywhere")

    def __repr__(self) -> str:
        low, high = (_short(bound) for bound in (self.low, self.high))
        return f"Box({low}, {high}, {self.shape}, {self.dtype.name})"

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform between the bounds; standard normal, clipped to the bounds, for elements that lack one."""
        if not jnp.issubdtype(self.dtype, jnp.floating):
            below = np.minimum(self.high.astype(np.int64), np.iinfo(np.int32).max - 1) + 1
            return jax.random.randint(key, self.shape, self.low.astype(np.int32), below.astype(np.int32)).astype(
                self.dtype
            )
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        low, high = np.where(bounded, self.low, 0), np.where(bounded, self.high, 1)
        uniform_key, normal_key = jax.random.split(key)
        uniform = low + jax.random.uniform(uniform_key, self.shape) * (high - low)
        normal = jax.random.normal(normal_key, self.shape)
        return jnp.clip(jnp.where(bounded, uniform, normal), self.low, self.high).astype(self.dtype)

    def contains(self, x: Any) -> jax.Array:
        """Whether every element of `x` is within its bounds."""
        x = jnp.asarray(x)
        return jnp.all((x >= self.low) & (x <= self.high))


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


def flat_spaces(space: Space) -> list[Space]:
    """The leaf spaces of `space` in the order `jax.tree.leaves` visits its elements (dict parts by sorted name)."""
    return [leaf for _, leaf in part_names(space)]


def part_names(space: Space) -> list[tuple[str, Space]]:
    """The leaf spaces in the order of `flat_spaces`, each with its place: `['camera']['left']`, `[0]`; "" if alone."""
    parts = getattr(space, "spaces", None)
    if parts is None:
        return [("", space)]
    names: Any = sorted(parts) if isinstance(parts, Mapping) else range(len(parts))
    return [(f"[{name!r}]{below}", leaf) for name in names for below, leaf in part_names(parts[name])]


def to_gymnasium(space: Space) -> "gymnasium.Space":
    """The gymnasium space with the same elements.

    Raises:
        TypeError: for a space that is none of Discrete, MultiDiscrete, Box, Tuple, Dict.
    """
    import gymnasium  # here, not above: it takes a second that most programs need not spend

    parts = getattr(space, "spaces", None)
    if isinstance(parts, Mapping):
        return gymnasium.spaces.Dict({name: to_gymnasium(part) for name, part in parts.items()})
    if parts is not None:
        return gymnasium.spaces.Tuple([to_gymnasium(part) for part in parts])
    if isinstance(space, MultiDiscrete):
        return gymnasium.spaces.MultiDiscrete(space.nvec)
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    if isinstance(space, Box):
        return gymnasium.spaces.Box(space.low, space.high, space.shape, space.dtype)
    raise TypeError(f"space={space!r} must be Discrete, MultiDiscrete, Box, Tuple or Dict")


def _bound(name: str, bound: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(bound, dtype), shape).copy()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}={bound!r} must fit dtype={dtype} and broadcast to shape={shape}") from error


def _short(bound: np.ndarray) -> str:
    if bound.size and (bound == bound.flat[0]).all():
        return repr(bound.flat[0].item())
    return np.array2string(bound, threshold=6)
