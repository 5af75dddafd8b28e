"""The environment protocol and what a policy sees of it at one step.

Legend: `B` environments. The protocol is the gymnax 1.x interface, without importing gymnax (and the plotting libraries
it loads): subclass `Environment` and write `reset_env`, `step_env`, `is_truncated`, `observation_space`,
`action_space` and `default_params`. `vector.py` does the auto-resetting.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from .spaces import Box, Discrete, MultiDiscrete, Space, part_names

__all__ = ["EnvParams", "EnvState", "Environment", "Outcome", "Timestep", "longest_episode", "null_action"]


@struct.dataclass
class EnvState:
    """What an environment remembers from step to step; subclasses add their own fields.

    Attributes:
        time: int32; steps taken since the episode began.
    """

    time: Int[Array, ""] | int


@struct.dataclass
class EnvParams:
    """Numbers of an environment that may change without a new environment.

    Attributes:
        max_steps_in_episode: the episode is truncated after that many steps.
    """

    max_steps_in_episode: int = 1


class Environment:
    """One environment, pure functions over an explicit state.

    `observation` is always that of the state reached, never of a new episode.

    Attributes:
        can_truncate: False where no limit ever ends an episode; rollouts then spare themselves the value beyond one.
    """

    can_truncate: bool = True

    @property
    def name(self) -> str:
        """Name for messages; the class's unless overridden."""
        return type(self).__name__

    @property
    def default_params(self) -> Any:
        """The parameters used where none are given."""
        return EnvParams()

    def reset_env(self, key: Key[Array, ""], params: Any) -> tuple[Any, Any]:
        """Begins an episode: `(observation, state)`."""
        raise NotImplementedError(f"{self.name} must define reset_env(key, params) -> (observation, state)")

    def step_env(self, key: Key[Array, ""], state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, dict]:
        """Takes one action, never resets: `(observation, state, reward, terminated, info)`."""
        raise NotImplementedError(
            f"{self.name} must define step_env(key, state, action, params) -> (observation, state, reward, terminated, "
            "info)"
        )

    def is_truncated(self, state: Any, params: Any) -> Bool[Array, ""]:
        """Whether the state that `step_env` returned ends the episode by a limit; terminated wins where both hold."""
        if not self.can_truncate:
            return jnp.asarray(False)
        return jnp.asarray(state.time >= params.max_steps_in_episode)

    def sample_task(self, key: Key[Array, ""], params: Any) -> Any:
        """Parameters of a task drawn for a meta-episode (see `trials.py`): `params` where there is one task alone."""
        del key
        return params

    def observation_space(self, params: Any) -> Space:
        """What `reset_env` and `step_env` observe."""
        raise NotImplementedError(f"{self.name} must define observation_space(params) -> Space")

    def action_space(self, params: Any) -> Space:
        """What `step_env` takes."""
        raise NotImplementedError(f"{self.name} must define action_space(params) -> Space")

    def reset_pool_size(self, num_steps: int) -> int:
        """How many start states to draw ahead, per environment, for `num_steps` steps; 0 draws one at every step.

        `reset_env` runs at every step under `vmap`, wanted or not, so an environment whose reset is costly returns the
        number of episodes that can end within `num_steps` (or as many as it can afford: the pool is used in turn).
        """
        del num_steps
        return 0

    def reset(self, key: Key[Array, ""], params: Any = None) -> tuple[Any, Any]:
        """`reset_env`, for code written for gymnax."""
        return self.reset_env(key, self.default_params if params is None else params)

    def step(self, key: Key[Array, ""], state: Any, action: Any, params: Any = None) -> tuple:
        """gymnax 1.x's `step`, for code written for it: begins a new episode where one ended. Not for `VectorEnv`.

        Returns:
            `(observation, state, reward, terminated, truncated, info)`; observation and state are those of the new
            episode where one ended, and `info["final_observation"]` is the one reached.
        """
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        reached, state, reward, terminated, info = self.step_env(step_key, state, action, params)
        truncated = self.is_truncated(state, params)
        fresh = self.reset_env(reset_key, params)
        ended = terminated | truncated
        observation, state = jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, (reached, state))
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": reached}
        return observation, state, reward, terminated, truncated, info


@struct.dataclass
class Timestep:
    """What a policy sees at step t, for `B` environments.

    Attributes:
        observation: the space's element, every leaf `[B, ...]`.
        reset: bool `[B]`; True when `observation` is the first of an episode.
        previous_action: the action taken at t-1, `[B, ...]`; where `reset`, null: -1 if discrete, 0 if continuous.
        previous_reward: float32 `[B]`; the reward that action yielded; 0 where `reset`.
    """

    observation: Any
    reset: Bool[Array, "..."]
    previous_action: Any
    previous_reward: Float[Array, "..."]


@struct.dataclass
class Outcome:
    """What the action at step t led to, for `B` environments.

    Attributes:
        reward: float32 `[B]`.
        terminated: bool `[B]`; the value beyond is 0. Wins where both flags were set.
        truncated: bool `[B]`; bootstrap from `final_observation`.
        final_observation: the observation reached, before any auto-reset, `[B, ...]`.
        episode_return: float32 `[B]`; sum of rewards since the episode began, this one included.
        episode_length: int32 `[B]`; steps since the episode began, this one included.
    """

    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    final_observation: Any
    episode_return: Float[Array, "..."]
    episode_length: Int[Array, "..."]

    @property
    def ended(self) -> Bool[Array, "..."]:
        """Whether the episode ended with this action: `reset` of the next timestep."""
        return self.terminated | self.truncated


def longest_episode(env: Any, params: Any) -> int | None:
    """Steps of an episode at most: `env.longest_episode(params)` where it has one, else the parameters' limit.

    None where there is no limit.
    """
    own = getattr(env, "longest_episode", None)
    limit = getattr(params, "max_steps_in_episode", None) if own is None else own(params)
    return None if limit is None else int(limit)


def null_action(space: Space) -> Any:
    """The previous action of a first step: -1 for every discrete part (its one-hot is all zeros), 0 for a Box.

    Raises:
        TypeError: for a part that is none of `hippodrome.envs`' Discrete, MultiDiscrete, Box.
    """

    def leaf(where: str, part: Any) -> jax.Array:
        if isinstance(part, Box):
            return jnp.zeros(part.shape, part.dtype)
        if isinstance(part, Discrete | MultiDiscrete):
            return jnp.full(part.shape, -1, jnp.int32)
        raise TypeError(
            f"action space{where} {part!r} ({type(part).__module__}) must be a Discrete, MultiDiscrete or Box of "
            "hippodrome.envs; wrap a gymnax environment in hippodrome.envs.adapters.gymnax_env.GymnaxAdapter"
        )

    parts = [leaf(where, part) for where, part in part_names(space)]
    return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(space.sample, jax.random.key(0))), parts)
