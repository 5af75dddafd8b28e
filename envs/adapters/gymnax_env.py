"""gymnax 1.x environments behind this library's protocol: the spaces, dtypes and shapes they should have had."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces as gymnax_spaces
from gymnax.environments.environment import Environment as GymnaxEnvironment

from hippodrome.envs.core import Environment
from hippodrome.envs.spaces import Box, Dict, Discrete, Space, Tuple

# gymnax writes "unbounded" as the largest float32.
_UNBOUNDED = float(np.finfo(np.float32).max)


def make_gymnax(gymnax_id: str, **kwargs: Any) -> "GymnaxAdapter":
    """The gymnax environment of that id (gymnax's own, e.g. `CartPole-v1`), adapted; `kwargs` go to its constructor."""
    env, _ = gymnax.make(gymnax_id, **kwargs)
    return GymnaxAdapter(env)


class GymnaxAdapter(Environment):
    """A gymnax environment as one of this library's.

    Observations get the dtype and shape of their space, rewards float32, flags bool. The bounds of four observation
    spaces that do not hold what gymnax observes are corrected, and their observations clipped to them (rounding apart,
    that changes nothing). Dynamics, rewards and episode lengths are gymnax's.

    Args:
        env: an instance of a gymnax 1.x environment.

    Raises:
        ValueError: if it overrides gymnax's auto-resetting `step`, which nothing here calls.
    """

    def __init__(self, env: GymnaxEnvironment):
        if type(env).step is not GymnaxEnvironment.step:
            raise ValueError(
                f"gymnax environment {env.name} overrides step(), which is never called here; "
                "its behaviour must live in step_env(), reset_env() and is_truncated()"
            )
        self.env = env
        self._bounds = _BOUNDS.get(type(env))

    @property
    def name(self) -> str:
        """gymnax's name for it."""
        return self.env.name

    @property
    def default_params(self) -> Any:
        """gymnax's parameters."""
        return self.env.default_params

    def reset_env(self, key, params):
        """Begins an episode."""
        observation, state = self.env.reset_env(key, params)
        return self._observed(observation, params), state

    def step_env(self, key, state, action, params):
        """Takes one action, never resets."""
        observation, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return self._observed(observation, params), state, reward, jnp.asarray(terminated, bool).reshape(()), info

    def observe(self, state, params) -> Any:
        """What a state looks like."""
        return self._observed(self.env.get_obs(state, params), params)

    def is_truncated(self, state, params) -> jax.Array:
        """gymnax's time limit."""
        return jnp.asarray(self.env.is_truncated(state, params), bool).reshape(())

    def observation_space(self, params) -> Space:
        """gymnax's, converted; with bounds that hold. Its parameters must be concrete, under `jit` too."""
        with jax.ensure_compile_time_eval():  # gymnax computes bounds with jnp, which `jit` would trace
            space = self.env.observation_space(params)
            if self._bounds is None:
                return from_gymnax(space)
            return Box(*self._bounds(self.env, params), space.shape, space.dtype)

    def action_space(self, params) -> Space:
        """gymnax's, converted. Its parameters must be concrete, under `jit` too."""
        with jax.ensure_compile_time_eval():
            return from_gymnax(self.env.action_space(params))

    def _observed(self, observation: Any, params: Any) -> Any:
        space = self.env.observation_space(params)
        observation = _like(observation, space)
        return observation if self._bounds is None else jnp.clip(observation, *self._bounds(self.env, params))


def from_gymnax(space: gymnax_spaces.Space) -> Space:
    """The space of this library with the same elements.

    Raises:
        TypeError: for a space that is none of gymnax's Discrete, Box, Tuple, Dict.
    """
    if isinstance(space, gymnax_spaces.Discrete):
        return Discrete(space.n)
    if isinstance(space, gymnax_spaces.Box):
        low, high = (
            np.where(np.abs(bound) >= _UNBOUNDED, np.copysign(np.inf, bound), bound)
            for bound in (np.asarray(space.low), np.asarray(space.high))
        )
        return Box(low, high, space.shape, space.dtype)
    if isinstance(space, gymnax_spaces.Tuple):
        return Tuple([from_gymnax(part) for part in space.spaces])
    if isinstance(space, gymnax_spaces.Dict):
        return Dict({name: from_gymnax(part) for name, part in space.spaces.items()})
    raise TypeError(f"space={space!r} must be one of gymnax's Discrete, Box, Tuple, Dict")


def _like(observation: Any, space: gymnax_spaces.Space) -> Any:
    if isinstance(space, gymnax_spaces.Tuple):
        return tuple(_like(part, child) for part, child in zip(observation, space.spaces, strict=True))
    if isinstance(space, gymnax_spaces.Dict):
        parts = observation if isinstance(observation, Mapping) else vars(observation)
        return {name: _like(parts[name], child) for name, child in space.spaces.items()}
    return jnp.asarray(observation, space.dtype).reshape(space.shape)


def _memory_chain_bounds(env: Any, params: Any) -> tuple[Any, Any]:
    # Time left, query, and the context as -1 or 1; gymnax says 0 to 2 for all of them.
    return np.array([0.0, 0.0] + env.num_bits * [-1.0]), np.array(
        [1.0, max(env.num_bits - 1, 0)] + env.num_bits * [1.0]
    )


def _umbrella_chain_bounds(env: Any, params: Any) -> tuple[Any, Any]:
    # As gymnax says; its time left ends at -1.5e-8 instead of 0.
    return np.zeros(3 + env.n_distractor), np.ones(3 + env.n_distractor)


def _meta_maze_bounds(env: Any, params: Any) -> tuple[Any, Any]:
    # The last two are the previous reward (up to 10, gymnax says 1) and the time (from -1 where it is normalised).
    num_flags = env.rf_size**2 + env.num_actions
    rewards = jnp.asarray([params.reward, params.punishment], jnp.float32)
    least, most = jnp.minimum(rewards, 0).sum(), jnp.maximum(rewards, 0).sum()
    low = [*(num_flags * [0.0]), least, _first_time(params)]
    return jnp.asarray(low), jnp.asarray([*(num_flags * [1.0]), most, params.max_steps_in_episode])


def _gaussian_bandit_bounds(env: Any, params: Any) -> tuple[Any, Any]:
    # The previous reward is a normal variable, the time begins at -1 where it is normalised; gymnax says 0 for both.
    low = [-jnp.inf, 0.0, 0.0, _first_time(params)]
    return jnp.asarray(low), jnp.asarray([jnp.inf, 1.0, 1.0, params.max_steps_in_episode])


def _first_time(params: Any) -> jax.Array:
    return jnp.where(params.normalize_time, -1.0, 0.0)


_BOUNDS: dict[type, Callable[[Any, Any], tuple[Any, Any]]] = {
    gymnax.environments.bsuite.MemoryChain: _memory_chain_bounds,
    gymnax.environments.bsuite.UmbrellaChain: _umbrella_chain_bounds,
    gymnax.environments.misc.MetaMaze: _meta_maze_bounds,
    gymnax.environments.misc.GaussianBandit: _gaussian_bandit_bounds,
}
