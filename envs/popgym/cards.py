"""A shuffled stack of cards as arrays: card `i` of a 52-card deck has suit `i % 4`, colour `i % 2`, rank `i // 4`.

Legend: `N` cards, 52 times the number of decks; a card is an index in `range(N)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

DECK_SIZE = 52
NUM_COLORS = 2
NUM_SUITS = 4
NUM_RANKS = 13


def count_cards(num_decks: int) -> int:
    """`N`, the number of cards in that many decks.

    Raises:
        ValueError: for fewer than one deck.
    """
    if num_decks < 1:
        raise ValueError(f"num_decks={num_decks} must be at least 1")
    return DECK_SIZE * num_decks


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


def card_kind(deck_type: str) -> tuple[Callable[[jax.Array], jax.Array], int]:
    """What tells cards apart: a function of the card, and how many values it takes.

    Args:
        deck_type: `"colors"`, `"suits"` or `"ranks"`.

    Raises:
        ValueError: for anything else.
    """
    kinds = {"colors": (color_of, NUM_COLORS), "suits": (suit_of, NUM_SUITS), "ranks": (rank_of, NUM_RANKS)}
    if deck_type not in kinds:
        raise ValueError(f"deck_type={deck_type!r} must be one of {', '.join(kinds)}")
    return kinds[deck_type]


def episodes_within(num_steps: int, episode_length: int) -> int:
    """The most episodes of that fixed length that can end within `num_steps` steps."""
    return -(-num_steps // episode_length)
