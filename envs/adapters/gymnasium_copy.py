"""One gymnasium environment as a copy that `Copies` steps; without JAX, as workers are to start quickly."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

# Whole numbers that JAX holds as they are; wider ones become int32.
NARROW_INTEGERS = ("uint8", "int8", "uint16", "int16", "int32")


class GymnasiumCopy:
    """A gymnasium environment whose observations and actions are lists of arrays, see `HostCopy`."""

    def __init__(self, env: gymnasium.Env):
        self.env = env
        self.observation_space, self.action_space = env.observation_space, env.action_space

    def reset(self, seed: int | None) -> list[np.ndarray]:
        """Begins an episode and observes."""
        observation, _ = self.env.reset(seed=seed)
        return leaves_of(self.observation_space, observation)

    def step(self, action: list[np.ndarray]) -> tuple[list[np.ndarray], float, bool, bool]:
        """Takes one action: observation, reward, terminated, truncated."""
        observation, reward, terminated, truncated, _ = self.env.step(element_of(self.action_space, iter(action)))
        return leaves_of(self.observation_space, observation), float(reward), bool(terminated), bool(truncated)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


class CopyFactory:
    """Makes copies: `make(**limit)` with `max_episode_steps` only where the limit is not the environment's own."""

    def __init__(self, make: Callable[..., gymnasium.Env], max_episode_steps: int | None):
        self.make = make
        self.limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}

    def __call__(self) -> GymnasiumCopy:
        """One copy."""
        return GymnasiumCopy(self.make(**self.limit))


def dtype_of(box: spaces.Box) -> np.dtype:
    """The dtype of a Box's elements here: float32 for floats, uint8 for bool, int32 for wider integers."""
    dtype = np.dtype(box.dtype)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return dtype if dtype.name in NARROW_INTEGERS else np.dtype(np.int32)


def leaves_of(space: Any, value: Any, path: str = "observation") -> list[np.ndarray]:
    """An element as arrays, one for each part in the order of `flat_spaces`; discrete ones count from 0.

    Raises:
        ValueError: naming the part whose shape, dtype or value is not the space's.
    """
    if isinstance(space, spaces.Dict):
        return [
            leaf for name in sorted(space.spaces) for leaf in leaves_of(space[name], value[name], f"{path}[{name!r}]")
        ]
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, value, strict=True)
        return [leaf for index, (part, each) in enumerate(parts) for leaf in leaves_of(part, each, f"{path}[{index}]")]
    array = np.asarray(value)
    shape = () if isinstance(space, spaces.Discrete) else space.shape
    if array.shape != shape:
        raise ValueError(f"{path} has shape {array.shape}, but its space {space} has {shape}")
    dtype = dtype_of(space) if isinstance(space, spaces.Box) else np.dtype(np.int32)
    if array.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
        raise ValueError(f"{path} has dtype {array.dtype}, but its space {space} holds {dtype}")
    if isinstance(space, spaces.Box):
        return [array.astype(dtype)]
    start, count = (0, 2) if isinstance(space, spaces.MultiBinary) else (space.start, _counts(space))
    index = array.astype(np.int64) - start
    if (index < 0).any() or (index >= count).any():
        raise ValueError(f"{path}={value!r} is not in its space {space}")
    return [index.astype(np.int32).reshape(() if isinstance(space, spaces.Discrete) else -1)]


def element_of(space: Any, leaves: Iterator[np.ndarray]) -> Any:
    """The element that `leaves_of` takes apart, as gymnasium writes it."""
    if isinstance(space, spaces.Dict):
        found = {name: element_of(space[name], leaves) for name in sorted(space.spaces)}
        return {name: found[name] for name in space.spaces}
    if isinstance(space, spaces.Tuple):
        return tuple(element_of(part, leaves) for part in space.spaces)
    leaf = np.asarray(next(leaves))
    if isinstance(space, spaces.Discrete):
        return np.int64(int(leaf) + int(space.start))
    leaf = leaf.reshape(space.shape).astype(space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return leaf + space.start
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        return np.clip(leaf, space.low, space.high)  # float32 may have rounded a bound outwards
    return leaf


def _counts(space: Any) -> Any:
    return space.n if isinstance(space, spaces.Discrete) else space.nvec
