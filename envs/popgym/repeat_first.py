"""RepeatFirst: keep saying the suit of the first card (POPGym, Morad et al. 2023)."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete

from .cards import NUM_SUITS, count_cards, episodes_within, shuffled_cards, suit_of


@struct.dataclass
class RepeatFirstState(EnvState):
    """Attributes: `time`, steps taken; `suits`, int8 `[N]` in the order dealt."""

    suits: Int[Array, " N"]


class RepeatFirst(Environment):
    """One card a step; every action names the suit of the first.

    An episode shows `N = 52 num_decks` cards in `N - 1` steps, the answer to the first card included. A right answer
    is worth `1 / (N - 1)`, a wrong one minus that.

    Args:
        num_decks: decks shuffled together.
    """

    can_truncate = False

    def __init__(self, num_decks: int = 1):
        self.num_decks = num_decks
        self.num_cards = count_cards(num_decks)

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode ends by itself after `N - 1` steps."""
        return EnvParams(max_steps_in_episode=self.num_cards - 1)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a deck of its own."""
        return episodes_within(num_steps, self.num_cards - 1)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], RepeatFirstState]:
        """Shuffles the decks and shows the first card."""
        suits = suit_of(shuffled_cards(key, self.num_decks)).astype(jnp.int8)
        return suits[0].astype(jnp.int32), RepeatFirstState(time=jnp.zeros((), jnp.int32), suits=suits)

    def step_env(self, key, state: RepeatFirstState, action, params: EnvParams):
        """Scores the answer against the first card and shows the next."""
        worth = 1.0 / (self.num_cards - 1)
        reward = jnp.where(action == state.suits[0], worth, -worth)
        time = state.time + 1
        observation = state.suits[time].astype(jnp.int32)
        return observation, dataclasses.replace(state, time=time), reward, time == self.num_cards - 1, {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """The suit shown."""
        return Discrete(NUM_SUITS)

    def action_space(self, params: EnvParams) -> Discrete:
        """The suit answered."""
        return Discrete(NUM_SUITS)
