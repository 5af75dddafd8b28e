"""MultiarmedBandit: find the arm that pays most often (POPGym, Morad et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete

from .cards import episodes_within


@struct.dataclass
class MultiarmedBanditState(EnvState):
    """Attributes: `time`, arms pulled; `chances`, float32 `[arms]`, how likely each arm pays."""

    chances: Float[Array, " arms"]


class MultiarmedBandit(Environment):
    """The action pulls an arm; the observation says whether it paid. The chances are drawn anew for each episode.

    Each arm's chance is uniform in [0, 1). A pull that pays is worth `1 / T`, one that does not minus that. The episode
    is truncated after `T` pulls. The first observation is 0; knowing which arm was pulled takes the previous action.

    Args:
        num_bandits: number of arms.
        episode_length: `T`.

    Raises:
        ValueError: if either is below 1.
    """

    def __init__(self, num_bandits: int = 10, episode_length: int = 200):
        if num_bandits < 1 or episode_length < 1:
            raise ValueError(f"num_bandits={num_bandits} and episode_length={episode_length} must be at least 1")
        self.num_bandits = num_bandits
        self.episode_length = episode_length

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `T`."""
        return EnvParams(max_steps_in_episode=self.episode_length)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets chances of its own."""
        return episodes_within(num_steps, self.episode_length)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], MultiarmedBanditState]:
        """Draws the chances."""
        chances = jax.random.uniform(key, (self.num_bandits,))
        return jnp.zeros((), jnp.int32), MultiarmedBanditState(time=jnp.zeros((), jnp.int32), chances=chances)

    def step_env(self, key: Key[Array, ""], state: MultiarmedBanditState, action, params: EnvParams):
        """Pulls arm `action`."""
        paid = jax.random.uniform(key) < state.chances[action]
        worth = 1.0 / params.max_steps_in_episode
        reward = jnp.where(paid, worth, -worth)
        return paid.astype(jnp.int32), dataclasses.replace(state, time=state.time + 1), reward, jnp.asarray(False), {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """Whether the last pull paid."""
        return Discrete(2)

    def action_space(self, params: EnvParams) -> Discrete:
        """The arm to pull."""
        return Discrete(self.num_bandits)
