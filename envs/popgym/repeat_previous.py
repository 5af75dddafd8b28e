"""RepeatPrevious: say the suit of the card seen some steps ago (POPGym, Morad et al. 2023)."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete

from .cards import DECK_SIZE, NUM_SUITS, episodes_within, shuffled_cards, suit_of


@struct.dataclass
class RepeatPreviousState(EnvState):
    """Attributes: `time`, steps taken; `suits`, int32 `[N]` in the order dealt."""

    suits: Int[Array, " N"]


class RepeatPrevious(Environment):
    """One card a step; the action names the suit of the card shown `lag` steps before the current one.

    An episode shows `N = 52 num_decks` cards in `N - 1` steps. A right answer is worth `1 / (N - k)`, a wrong one minus
    that; answers before a card is due are worth 0.

    Args:
        num_decks: decks shuffled together.
        k: the task's number; `popgym` 1.0.7 counts the current card as 1, so the true lag is `k - 1`.
        paper_era: True makes the lag `k`, as in popjaxrl and the published S5 numbers.
    """

    can_truncate = False

    def __init__(self, num_decks: int = 1, k: int = 4, paper_era: bool = False):
        self.num_cards = DECK_SIZE * num_decks
        if not 1 <= k < self.num_cards:
            raise ValueError(f"k={k} must be at least 1 and below the number of cards, {self.num_cards}")
        self.num_decks = num_decks
        self.k = k
        self.lag = k if paper_era else k - 1

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode ends by itself after `N - 1` steps."""
        return EnvParams(max_steps_in_episode=self.num_cards - 1)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a deck of its own."""
        return episodes_within(num_steps, self.num_cards - 1)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], RepeatPreviousState]:
        """Shuffles the decks and shows the first card."""
        suits = suit_of(shuffled_cards(key, self.num_decks))
        return suits[0], RepeatPreviousState(time=jnp.zeros((), jnp.int32), suits=suits)

    def step_env(self, key, state: RepeatPreviousState, action, params: EnvParams):
        """Scores the answer against the card `lag` steps before the one shown, and shows the next."""
        worth = 1.0 / (self.num_cards - self.k)
        right = action == state.suits[jnp.maximum(state.time - self.lag, 0)]
        reward = jnp.where(state.time >= self.lag, jnp.where(right, worth, -worth), 0.0)
        time = state.time + 1
        return state.suits[time], dataclasses.replace(state, time=time), reward, time == self.num_cards - 1, {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """The suit shown."""
        return Discrete(NUM_SUITS)

    def action_space(self, params: EnvParams) -> Discrete:
        """The suit answered."""
        return Discrete(NUM_SUITS)
