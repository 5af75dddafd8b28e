"""Rotation of pairs of features by angles."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(x: Float[Array, "... n"], angle: Float[Array, "... S"]) -> Float[Array, "... n"]:
    """The first 2S features of x as S neighbouring pairs, each turned by its angle; the others unchanged.

    Source: Su et al. 2021 (RoFormer), equation 34.
    """
    width = 2 * angle.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    first, second = turned[..., ::2], turned[..., 1::2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pairs = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return jnp.concatenate([pairs.reshape(*pairs.shape[:-2], width), rest], axis=-1)


def position_angles(positions: Float[Array, "..."], width: int) -> Float[Array, "... width/2"]:
    """Angles of positions at `width / 2` frequencies, 10,000^(-2i / width)."""
    frequencies = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    return positions[..., None] * frequencies
