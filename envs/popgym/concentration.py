"""Concentration: turn cards over two by two and find the pairs (POPGym, Morad et al. 2023)."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, MultiDiscrete

from .cards import card_kind, count_cards, episodes_within, shuffled_cards

NOTHING = -1


@struct.dataclass
class ConcentrationState(EnvState):
    """Attributes: `time`, cards turned; `kinds`, int8 `[N]`; `face_up`, bool `[N]`; `first`, int32 position or -1.

    `face_up` marks the pairs found; `first` is the card turned over that awaits its partner.
    """

    kinds: Int[Array, " N"]
    face_up: Bool[Array, " N"]
    first: Int[Array, ""]


class Concentration(Environment):
    """`N` cards lie face down; the action turns one over; two of a kind stay up, others turn back.

    The observation shows every card: its kind where it lies face up or is being turned, the number of kinds elsewhere.
    A pair found is worth `2 / N`. A pair that differs, or one card turned twice, costs `2 / T`; turning over a card
    that is already up costs `1 / T` for each card then in hand and ends the turn. The episode ends when all cards
    are up (terminated) or after `T = ceil(2 N - N / (2 N - 1))` cards (truncated).

    Args:
        num_decks: decks laid out; `N = 52 num_decks`.
        deck_type: what makes a pair: `"colors"` (2 kinds) or `"ranks"` (13).

    Raises:
        ValueError: for a `deck_type` whose cards do not pair off.
    """

    def __init__(self, num_decks: int = 1, deck_type: str = "ranks"):
        self.num_decks = num_decks
        self.num_cards = count_cards(num_decks)
        self.kind_of, self.num_kinds = card_kind(deck_type)
        if self.num_cards // self.num_kinds % 2:
            raise ValueError(f"deck_type={deck_type!r} with num_decks={num_decks} leaves a card without a partner")

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `T`, the number of cards that may be turned."""
        turns = math.ceil(2 * self.num_cards - self.num_cards / (2 * self.num_cards - 1))
        return EnvParams(max_steps_in_episode=turns)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a layout of its own."""
        return episodes_within(num_steps, self.num_cards)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, " N"], ConcentrationState]:
        """Lays the shuffled cards out face down."""
        state = ConcentrationState(
            time=jnp.zeros((), jnp.int32),
            kinds=self.kind_of(shuffled_cards(key, self.num_decks)).astype(jnp.int8),
            face_up=jnp.zeros(self.num_cards, bool),
            first=jnp.full((), NOTHING, jnp.int32),
        )
        return self._observe(state, state.face_up), state

    def step_env(self, key, state: ConcentrationState, action, params: EnvParams):
        """Turns over the card at position `action`."""
        positions = jnp.arange(self.num_cards)
        in_hand = (positions == action) | (positions == state.first)
        second = state.first != NOTHING
        already_up = state.face_up[action]
        same_kind = state.kinds[action] == state.kinds[state.first]
        pair = second & ~already_up & same_kind & (action != state.first)

        cost = -1.0 / params.max_steps_in_episode
        penalty = jnp.where(second, 2 * cost, jnp.where(already_up, cost, 0.0))
        reward = jnp.where(pair, 2.0 / self.num_cards, penalty)
        observation = self._observe(state, state.face_up | in_hand)
        state = dataclasses.replace(
            state,
            time=state.time + 1,
            face_up=state.face_up | (in_hand & pair),
            first=jnp.where(second | already_up, NOTHING, action).astype(jnp.int32),
        )
        return observation, state, reward, jnp.all(state.face_up), {}

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        """For each card its kind, or the number of kinds where it lies face down."""
        return MultiDiscrete(np.full(self.num_cards, self.num_kinds + 1))

    def action_space(self, params: EnvParams) -> Discrete:
        """The position of the card to turn over."""
        return Discrete(self.num_cards)

    def _observe(self, state: ConcentrationState, visible: Bool[Array, " N"]) -> Int[Array, " N"]:
        return jnp.where(visible, state.kinds, self.num_kinds).astype(jnp.int32)
