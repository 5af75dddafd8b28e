"""Batch-major data, `[B, T, ...]`, through a time-major memory: by two transposes, or by `vmap`.

A memory takes x `[T, *batch, d_in]` and reset `[T, *batch]`, with as many batch axes as there are, none included. So a
batch-major batch goes in either with time moved to the front and back again, or element by element under `jax.vmap`,
where an element is a sequence without batch axes. Carries have the batch first in both. Replay buffers and language
data are often laid out this way.

Run: uv run python examples/batch_major.py

Legend: B sequences, T steps, F features.
"""

import jax
import jax.numpy as jnp

from hippodrome.memory import make_memory

NUM_SEQUENCES, NUM_STEPS, NUM_FEATURES = 4, 24, 6

memory = make_memory("s5", d_model=16, d_state=16, num_layers=2)


def apply_transposed(params, carry, x, reset):
    """x `[B, T, F]`, reset `[B, T]`: the carry, leaves `[B, ...]`, and the output `[B, T, d_model]`."""
    carry, y = memory.apply(params, carry, jnp.moveaxis(x, 1, 0), jnp.moveaxis(reset, 1, 0))
    return carry, jnp.moveaxis(y, 0, 1)


def apply_mapped(params, carry, x, reset):
    """The same by vmap over the sequences; parameters are shared."""
    return jax.vmap(memory.apply, in_axes=(None, 0, 0, 0))(params, carry, x, reset)


def main() -> float:
    """Both ways, in one piece and in two with the carry handed on; returns the largest difference."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (NUM_SEQUENCES, NUM_STEPS, NUM_FEATURES))
    # The first step begins an episode, and each sequence has others begin at its own steps.
    reset = jax.random.bernoulli(keys[1], 0.1, (NUM_SEQUENCES, NUM_STEPS)).at[:, 0].set(True)
    carry = memory.initial_carry((NUM_SEQUENCES,))
    params = jax.jit(memory.init)(keys[2], carry, jnp.moveaxis(x, 1, 0), jnp.moveaxis(reset, 1, 0))

    transposed = jax.jit(apply_transposed)(params, carry, x, reset)
    mapped = jax.jit(apply_mapped)(params, carry, x, reset)

    half = NUM_STEPS // 2
    run = jax.jit(apply_transposed)
    middle, first = run(params, carry, x[:, :half], reset[:, :half])
    last, second = run(params, middle, x[:, half:], reset[:, half:])
    pieces = last, jnp.concatenate([first, second], axis=1)

    difference = max(
        float(jnp.abs(one - other).max())
        for way in (mapped, pieces)
        for one, other in zip(jax.tree.leaves(way), jax.tree.leaves(transposed), strict=True)
    )
    print(f"y {transposed[1].shape}; largest difference between the ways: {difference:.1e}")
    assert transposed[1].shape == (NUM_SEQUENCES, NUM_STEPS, 16) and difference < 1e-5
    return difference


if __name__ == "__main__":
    main()
