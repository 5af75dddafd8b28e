"""Sequence tasks of seconds that tell memories apart before any reinforcement learning.

Each task draws sequences of tokens with a target where something has to be remembered. Every sequence is one episode.

Legend: T steps, B sequences.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

Sequences = tuple[Int[Array, "T B"], Int[Array, "T B"], Bool[Array, "T B"]]


@dataclasses.dataclass(frozen=True)
class Probe:
    """A task.

    Attributes:
        about: what solving it takes, in one line.
        num_tokens: of the input.
        num_targets: classes to predict.
        min_length: shortest T it can be drawn for.
        draw: `(key, T) -> (token [T], target [T], asked [T])` of one sequence; accuracy is over the steps asked.
    """

    about: str
    num_tokens: int
    num_targets: int
    min_length: int
    draw: Callable[[Key[Array, ""], int], tuple[Array, Array, Array]]

    def sample(self, key: Key[Array, ""], length: int, batch: int) -> Sequences:
        """`batch` sequences of `length` steps: tokens, targets and where they are asked, each `[T, B]`.

        Raises:
            ValueError: if `length` is below `min_length`.
        """
        if length < self.min_length:
            raise ValueError(f"length={length} must be at least {self.min_length}")
        return jax.vmap(lambda each: self.draw(each, length), out_axes=1)(jax.random.split(key, batch))


SYMBOLS = 8
COPIED = 4
PAIRS = 4
POINTS = 5


def _selective_copy(key, length):
    # Tokens 0 ... 7 are symbols, 8 is filler, 9 asks for the next one.
    where_key, symbol_key = jax.random.split(key)
    content = length - COPIED
    places = jnp.sort(jax.random.permutation(where_key, content)[:COPIED])
    symbols = jax.random.randint(symbol_key, (COPIED,), 0, SYMBOLS)
    tokens = jnp.full(length, SYMBOLS).at[places].set(symbols).at[content:].set(SYMBOLS + 1)
    asked = jnp.arange(length) >= content
    return tokens, jnp.zeros(length, jnp.int32).at[content:].set(symbols), asked


def _associative_recall(key, length):
    # Tokens 0 ... 7 are keys, 8 ... 15 values; every key is written once, then all are asked in another order.
    keys_key, values_key, order_key, filler_key = jax.random.split(key, 4)
    keys = jax.random.permutation(keys_key, SYMBOLS)[:PAIRS]
    values = jax.random.randint(values_key, (PAIRS,), 0, SYMBOLS)
    order = jax.random.permutation(order_key, PAIRS)
    written = jnp.stack([keys, SYMBOLS + values], axis=1).reshape(-1)
    # Filler between writing and asking: values without a key before them.
    filler = SYMBOLS + jax.random.randint(filler_key, (length - 3 * PAIRS,), 0, SYMBOLS)
    tokens = jnp.concatenate([written, filler, keys[order]])
    asked = jnp.arange(length) >= length - PAIRS
    return tokens, jnp.zeros(length, jnp.int32).at[length - PAIRS :].set(values[order]), asked


def _induction(key, length):
    # Token 8 stands twice, at a random place and at the end; what followed it first is asked.
    token_key, place_key = jax.random.split(key)
    tokens = jax.random.randint(token_key, (length,), 0, SYMBOLS)
    place = jax.random.randint(place_key, (), 0, length - 2)
    target = tokens[place + 1]
    tokens = tokens.at[place].set(SYMBOLS).at[-1].set(SYMBOLS)
    return tokens, jnp.zeros(length, jnp.int32).at[-1].set(target), jnp.arange(length) == length - 1


def _parity(key, length):
    bits = jax.random.bernoulli(key, shape=(length,)).astype(jnp.int32)
    return bits, jnp.cumsum(bits) % 2, jnp.ones(length, bool)


def _permutations(key, length):
    # Where a cup ends under swaps of the first two (1), turns of all five (2), or nothing (0): the group S5.
    moves = jnp.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [1, 2, 3, 4, 0]])
    tokens = jax.random.randint(key, (length,), 0, len(moves))

    def move(place, token):
        place = moves[token, place]
        return place, place

    return tokens, jax.lax.scan(move, jnp.zeros((), jnp.int32), tokens)[1], jnp.ones(length, bool)


def _overwriting(key, length):
    # A token writes a value to a key (key * 8 + value) or asks a key (32 + key): the value written last counts.
    kind_key, key_key, value_key = jax.random.split(key, 3)
    asks = jax.random.bernoulli(kind_key, 0.3, (length,))
    keys = jax.random.randint(key_key, (length,), 0, PAIRS)
    values = jax.random.randint(value_key, (length,), 0, SYMBOLS)

    def step(memory, now):
        ask, each, value = now
        memory = jnp.where(ask, memory, memory.at[each].set(value))
        return memory, memory[each]

    targets = jax.lax.scan(step, jnp.full(PAIRS, -1), (asks, keys, values))[1]
    tokens = jnp.where(asks, PAIRS * SYMBOLS + keys, keys * SYMBOLS + values)
    return tokens, jnp.maximum(targets, 0), asks & (targets >= 0)


PROBES = {
    "selective_copy": Probe("keep four symbols among filler, in order", 10, 8, 2 * COPIED, _selective_copy),
    "associative_recall": Probe("recall the values of four keys", 16, 8, 3 * PAIRS, _associative_recall),
    "induction": Probe("recall what followed a mark", 9, 8, 3, _induction),
    "parity": Probe("count ones modulo two", 2, 2, 1, _parity),
    "permutations": Probe("follow a cup through swaps and turns (S5 group)", 3, POINTS, 1, _permutations),
    "overwriting": Probe("recall the last of several values of a key", 36, 8, 2, _overwriting),
}
