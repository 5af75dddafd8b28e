"""gymnasium environments behind this library's interface: they step in Python, on the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces as theirs

from hippodrome.envs.host import HostEnvironment, HostParams
from hippodrome.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from .gymnasium_copy import CopyFactory, dtype_of

_FLOAT32 = np.finfo(np.float32)
_INT32 = np.iinfo(np.int32)


def make_gymnasium(gymnasium_id: str, **kwargs: Any) -> "GymnasiumEnv":
    """The environment that `gymnasium.make(gymnasium_id, **kwargs)` makes.

    Raises:
        ValueError: where gymnasium cannot make it, with gymnasium's words, or for a space that has no counterpart.
    """
    given = f" with {kwargs!r}" if kwargs else ""
    try:
        env = gymnasium.make(gymnasium_id, **kwargs)
    except Exception as error:  # whatever an environment's constructor raises
        raise ValueError(
            f"'gymnasium/{gymnasium_id}' cannot be made{given}: {type(error).__name__}: {error}"
        ) from error
    # The specification, unlike the id, means something in a worker that imported nothing else.
    spec: Any = env.spec
    make = partial(gymnasium.make, spec, disable_env_checker=True)
    return GymnasiumEnv(make, name=f"gymnasium/{gymnasium_id}", example=env)


class GymnasiumEnv(HostEnvironment):
    """A gymnasium environment as one of this library's, for `HostVectorEnv`.

    Floats become float32, whole numbers wider than 32 bits int32, bool uint8; Discrete spaces count from 0 and
    MultiBinary and MultiDiscrete spaces of any shape are MultiDiscrete vectors of ours. The environment is given back
    what its own spaces hold.

    Args:
        make: makes one environment; given `max_episode_steps` where `max_steps_in_episode` is not the environment's.
        name: for messages.
        example: one that was made, which is closed; made by `make` where None.

    Raises:
        ValueError: for a space, or a part of one, that has no counterpart here.
    """

    def __init__(
        self, make: Callable[..., gymnasium.Env], *, name: str = "of yours", example: gymnasium.Env | None = None
    ):
        env = make() if example is None else example
        try:
            self._name = name
            self._make = make
            self._observation_space = from_gymnasium(env.observation_space, f"{name}: observation space")
            self._action_space = from_gymnasium(env.action_space, f"{name}: action space")
            self._limit = None if env.spec is None else env.spec.max_episode_steps
        finally:
            env.close()

    @property
    def name(self) -> str:
        """Its id."""
        return self._name

    @property
    def default_params(self) -> HostParams:
        """`max_steps_in_episode` as gymnasium registered it; None where it did not."""
        return HostParams(max_steps_in_episode=self._limit)

    def copy_factory(self, params: HostParams) -> CopyFactory:
        """Makes one environment with its limit; -1 is gymnasium's word for none."""
        limit = params.max_steps_in_episode
        if limit == self._limit:
            return CopyFactory(self._make, None)
        return CopyFactory(self._make, -1 if limit is None else limit)

    def observation_space(self, params: Any) -> Space:
        """gymnasium's, converted."""
        return self._observation_space

    def action_space(self, params: Any) -> Space:
        """gymnasium's, converted."""
        return self._action_space


def from_gymnasium(space: gymnasium.Space, path: str = "space") -> Space:
    """The space of this library whose elements stand for those of a gymnasium space, see `GymnasiumEnv`.

    Args:
        space: of gymnasium.
        path: how messages call it.

    Raises:
        ValueError: for a space that is none of gymnasium's Discrete, MultiDiscrete, MultiBinary, Box, Dict and Tuple,
            is empty, or holds integers beyond 32 bits.
    """
    if isinstance(space, theirs.Dict) and space.spaces:
        return Dict({name: from_gymnasium(part, f"{path}[{name!r}]") for name, part in space.spaces.items()})
    if isinstance(space, theirs.Tuple) and space.spaces:
        return Tuple([from_gymnasium(part, f"{path}[{index}]") for index, part in enumerate(space.spaces)])
    if isinstance(space, theirs.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, theirs.MultiDiscrete | theirs.MultiBinary | theirs.Box) and np.prod(space.shape) == 0:
        raise ValueError(f"{path} {space} has no elements; leave it out by a wrapper")
    if isinstance(space, theirs.MultiDiscrete):
        return MultiDiscrete(space.nvec.reshape(-1))
    if isinstance(space, theirs.MultiBinary):
        return MultiDiscrete(np.full(int(np.prod(space.shape)), 2))
    if isinstance(space, theirs.Box):
        return _box(space, path)
    raise ValueError(
        f"{path} {space} must be one of gymnasium's Discrete, MultiDiscrete, MultiBinary, Box, Dict and Tuple, not "
        f"empty; wrap the environment in one that leaves it out or writes it as numbers"
    )


def _box(space: theirs.Box, path: str) -> Box:
    dtype = dtype_of(space)
    low, high = space.low, space.high
    if dtype.kind == "f":
        low, high = (
            np.where(np.abs(bound) >= _FLOAT32.max, np.copysign(np.inf, bound), bound) for bound in (low, high)
        )
    elif dtype == np.int32 and (low.astype(object).min() < _INT32.min or high.astype(object).max() > _INT32.max):
        raise ValueError(
            f"{path} {space} holds integers beyond 32 bits; wrap the environment in one that gives closer bounds or "
            "float32"
        )
    return Box(low, high, space.shape, dtype)
