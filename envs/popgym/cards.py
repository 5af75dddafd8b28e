"""A shuffled stack of cards as arrays: card `i` of a 52-card deck has suit `i % 4`, colour `i % 2`, rank `i // 4`.

Legend: `N` cards, 52 times the number of decks; a card is an index in `range(N)`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

DECK_SIZE = 52
NUM_COLORS = 2
NUM_SUITS = 4
NUM_RANKS = 13


def shuffled_cards(key: Key[Array, ""], num_decks: int) -> Int[Array, " N"]:
    """The card indices of `num_decks` decks in random order, in the order they are dealt."""
    return jax.random.permutation(key, DECK_SIZE * num_decks).astype(jnp.int32)


def suit_of(card: Int[Array, "..."]) -> Int[Array, "..."]:
    """Suit, 0 to 3."""
    return card % NUM_SUITS


def color_of(card: Int[Array, "..."]) -> Int[Array, "..."]:
    """Colour, 0 or 1."""
    return card % NUM_COLORS


def rank_of(card: Int[Array, "..."]) -> Int[Array, "..."]:
    """Rank, 0 to 12."""
    return card % DECK_SIZE // NUM_SUITS


def episodes_within(num_steps: int, episode_length: int) -> int:
    """The most episodes of that fixed length that can end within `num_steps` steps."""
    return -(-num_steps // episode_length)
