"""CountRecall: how often has the queried kind of card been dealt so far? (POPGym, Morad et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, MultiDiscrete

from .cards import card_kind, count_cards, episodes_within, shuffled_cards


@struct.dataclass
class CountRecallState(EnvState):
    """Attributes: `time`, steps taken; `dealt` and `queried`, int8 `[N]` kinds in order; `counts`, int32 `[kinds]`.

    `counts` holds how often each kind has been dealt, the card now shown included.
    """

    dealt: Int[Array, " N"]
    queried: Int[Array, " N"]
    counts: Int[Array, " kinds"]


class CountRecall(Environment):
    """Each step shows a card and asks about a kind of card: the action is how many of that kind have been dealt.

    The count includes the card shown with the question. The questions come from a second shuffle of the same decks.
    An episode shows `N = 52 num_decks` pairs in `N - 1` steps; a right answer is worth `1 / (N - 1)`, a wrong one
    minus that.

    Args:
        num_decks: decks shuffled together.
        deck_type: what is counted: `"colors"` (2 kinds), `"suits"` (4) or `"ranks"` (13).
        paper_era: True withholds the largest answer, `N / kinds`, as POPGym did when its tables were published.

    Raises:
        ValueError: for a `deck_type` that is none of these.
    """

    can_truncate = False

    def __init__(self, num_decks: int = 1, deck_type: str = "colors", paper_era: bool = False):
        self.num_decks = num_decks
        self.num_cards = count_cards(num_decks)
        self.kind_of, self.num_kinds = card_kind(deck_type)
        self.num_answers = self.num_cards // self.num_kinds + (0 if paper_era else 1)

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode ends by itself after `N - 1` steps."""
        return EnvParams(max_steps_in_episode=self.num_cards - 1)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets decks of its own."""
        return episodes_within(num_steps, self.num_cards - 1)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, " 2"], CountRecallState]:
        """Shuffles the cards and the questions, and shows the first of each."""
        dealt_key, queried_key = jax.random.split(key)
        dealt = self.kind_of(shuffled_cards(dealt_key, self.num_decks)).astype(jnp.int8)
        queried = self.kind_of(shuffled_cards(queried_key, self.num_decks)).astype(jnp.int8)
        counts = (jnp.arange(self.num_kinds) == dealt[0]).astype(jnp.int32)
        state = CountRecallState(time=jnp.zeros((), jnp.int32), dealt=dealt, queried=queried, counts=counts)
        return _observe(state), state

    def step_env(self, key, state: CountRecallState, action, params: EnvParams):
        """Scores the answer to the question shown and shows the next card and question."""
        worth = 1.0 / (self.num_cards - 1)
        right = action == state.counts[state.queried[state.time]]
        time = state.time + 1
        counts = state.counts + (jnp.arange(self.num_kinds) == state.dealt[time])
        state = dataclasses.replace(state, time=time, counts=counts)
        return _observe(state), state, jnp.where(right, worth, -worth), time == self.num_cards - 1, {}

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        """The kind of the card dealt, and the kind asked about."""
        return MultiDiscrete([self.num_kinds, self.num_kinds])

    def action_space(self, params: EnvParams) -> Discrete:
        """The count answered."""
        return Discrete(self.num_answers)


def _observe(state: CountRecallState) -> Int[Array, " 2"]:
    return jnp.stack([state.dealt[state.time], state.queried[state.time]]).astype(jnp.int32)
