"""HigherLower: will the next card rank higher or lower than this one? (POPGym, Morad et al. 2023)."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete

from .cards import NUM_RANKS, count_cards, episodes_within, rank_of, shuffled_cards

HIGHER, LOWER = 0, 1
NUM_GUESSES = 2


@struct.dataclass
class HigherLowerState(EnvState):
    """Attributes: `time`, steps taken; `ranks`, int8 `[N]` in the order dealt."""

    ranks: Int[Array, " N"]


class HigherLower(Environment):
    """One card a step; the action guesses whether the next card ranks higher (0) or lower (1).

    An episode shows `N = 52 num_decks` cards in `N - 1` steps. A right guess is worth `1 / N`, a wrong one minus that,
    and two cards of the same rank 0 whatever the guess: no return can reach 1.

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

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], HigherLowerState]:
        """Shuffles the decks and shows the first card."""
        ranks = rank_of(shuffled_cards(key, self.num_decks)).astype(jnp.int8)
        return ranks[0].astype(jnp.int32), HigherLowerState(time=jnp.zeros((), jnp.int32), ranks=ranks)

    def step_env(self, key, state: HigherLowerState, action, params: EnvParams):
        """Shows the next card and scores the guess about it."""
        worth = 1.0 / self.num_cards
        time = state.time + 1
        shown, drawn = state.ranks[state.time], state.ranks[time]
        right = (drawn > shown) == (action == HIGHER)
        reward = jnp.where(drawn == shown, 0.0, jnp.where(right, worth, -worth))
        return drawn.astype(jnp.int32), dataclasses.replace(state, time=time), reward, time == self.num_cards - 1, {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """The rank shown."""
        return Discrete(NUM_RANKS)

    def action_space(self, params: EnvParams) -> Discrete:
        """The guess: 0 higher, 1 lower."""
        return Discrete(NUM_GUESSES)
