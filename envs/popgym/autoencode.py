"""Autoencode: watch the cards, then name their suits backwards (POPGym, Morad et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, Tuple

from .cards import NUM_SUITS, count_cards, episodes_within, shuffled_cards, suit_of

PLAY, WATCH = 0, 1
NUM_MODES = 2


@struct.dataclass
class AutoencodeState(EnvState):
    """Attributes: `time`, steps taken; `suits`, int8 `[N]` in the order shown."""

    suits: Int[Array, " N"]


class Autoencode(Environment):
    """`N` cards are shown one a step; then the actions name their suits, last card first.

    The observation is `(mode, suit)`. Mode PLAY (0) says that the coming answer is scored: it appears first together
    with the last card, whose suit is the first answer due. While playing, the suit shown is 0. An episode takes
    `2 N - 1` steps; a right answer is worth `1 / N`, a wrong one minus that.

    Args:
        num_decks: decks shuffled together; `N = 52 num_decks`.
    """

    can_truncate = False

    def __init__(self, num_decks: int = 1):
        self.num_decks = num_decks
        self.num_cards = count_cards(num_decks)

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode ends by itself after `2 N - 1` steps."""
        return EnvParams(max_steps_in_episode=2 * self.num_cards - 1)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a deck of its own."""
        return episodes_within(num_steps, 2 * self.num_cards - 1)

    def reset_env(self, key: Key[Array, ""], params: EnvParams):
        """Shuffles the decks and shows the first card."""
        suits = suit_of(shuffled_cards(key, self.num_decks)).astype(jnp.int8)
        state = AutoencodeState(time=jnp.zeros((), jnp.int32), suits=suits)
        return self._observe(state), state

    def step_env(self, key, state: AutoencodeState, action, params: EnvParams):
        """Shows the next card, or scores the answer once all have been shown."""
        last = self.num_cards - 1
        due = state.suits[jnp.minimum(2 * last - state.time, last)]
        worth = 1.0 / self.num_cards
        reward = jnp.where(state.time >= last, jnp.where(action == due, worth, -worth), 0.0)
        state = dataclasses.replace(state, time=state.time + 1)
        return self._observe(state), state, reward, state.time == 2 * self.num_cards - 1, {}

    def observation_space(self, params: EnvParams) -> Tuple:
        """The mode and the suit shown."""
        return Tuple((Discrete(NUM_MODES), Discrete(NUM_SUITS)))

    def action_space(self, params: EnvParams) -> Discrete:
        """The suit answered."""
        return Discrete(NUM_SUITS)

    def _observe(self, state: AutoencodeState) -> tuple[jax.Array, jax.Array]:
        last = self.num_cards - 1
        mode = jnp.where(state.time < last, WATCH, PLAY)
        suit = jnp.where(state.time <= last, state.suits[jnp.minimum(state.time, last)], 0)
        return mode.astype(jnp.int32), suit.astype(jnp.int32)
