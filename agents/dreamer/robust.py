"""Latents that keep what matters for control: masking, latent reconstruction, bisimulation, redundancy reduction.

Legend: `L` steps of a window, `N` windows, `F` feature width, `K` width of a projection. Sources: "Learning latent
dynamic robust representations for world models" (HRSSM, ICML 2024); Zang et al. 2022 (SimSR); Zbontar et al. 2021
(Barlow Twins), for world models R2-Dreamer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from hippodrome.envs import flat_spaces

from .networks import is_image

MID_GREY = 128
BARLOW_OFF_DIAGONAL = 5e-3


def cube_mask(
    key: Key[Array, ""], shape: tuple[int, int, int, int], *, ratio: float, patch: int, frames: int
) -> Bool[Array, "L N height width"]:
    """True where a picture is hidden: square patches, each with probability `ratio`, drawn anew every few frames.

    Args:
        key: of the draw.
        shape: L, N, height, width.
        ratio: share hidden.
        patch: pixels of a side; patches at the edge are cut off.
        frames: steps a draw lasts.
    """
    length, number, height, width = shape
    grid = (-(-length // frames), number, -(-height // patch), -(-width // patch))
    hidden = jax.random.bernoulli(key, ratio, grid)
    for axis, (size, extent) in enumerate(zip((frames, 1, patch, patch), shape, strict=True)):
        hidden = jax.lax.slice_in_dim(jnp.repeat(hidden, size, axis=axis), 0, extent, axis=axis)
    return hidden


def mask_images(space: Any, observation: Any, key: Key[Array, ""], config: Any) -> Any:
    """The observation with cubes of its pictures set to mid-grey; vectors are left as they are."""
    leaves, structure = jax.tree.flatten(observation)
    for index, (leaf_space, value) in enumerate(zip(flat_spaces(space), leaves, strict=True)):
        if is_image(leaf_space):
            hidden = cube_mask(
                jax.random.fold_in(key, index),
                value.shape[:4],
                ratio=config.mask_ratio,
                patch=config.mask_patch,
                frames=config.mask_frames,
            )
            leaves[index] = jnp.where(hidden[..., None], jnp.asarray(MID_GREY, value.dtype), value)
    return jax.tree.unflatten(structure, leaves)


def latent_reconstruction_loss(projected: Float[Array, "L N K"], target: Float[Array, "L N K"]) -> Float[Array, "L N"]:
    """Squared distance of the two directions, `2 - 2 cos`; no gradient reaches the target."""
    return 2.0 - 2.0 * cosine(projected, jax.lax.stop_gradient(target))


def bisimulation_loss(
    features: Float[Array, "M F"],
    raw_features: Float[Array, "M F"],
    next_features: Float[Array, "M F"],
    raw_next_features: Float[Array, "M F"],
    reward: Float[Array, " M"],
    other: Array,
    gamma: float,
) -> Float[Array, " M"]:
    """How far the distance of two states is from their difference in behaviour (Huber loss).

    Distance: `1 - cos` of the masked features of one and the raw features of the other; what it should be:
    `abs(reward - reward') + gamma (1 - cos)` of what is expected next. No gradient reaches the latter.

    Args:
        features, raw_features: of the masked and the raw branch at each state.
        next_features, raw_next_features: expected at the next step.
        reward: of the step to there, scaled to [0, 2].
        other: int `[M]`, with which state each is compared.
        gamma: discount.
    """
    distance = 1.0 - cosine(features, jax.lax.stop_gradient(raw_features)[other])
    further = 1.0 - cosine(next_features, raw_next_features[other])
    target = jax.lax.stop_gradient(jnp.abs(reward - reward[other]) + gamma * further)
    error = jnp.abs(distance - target)
    return jnp.where(error <= 1.0, 0.5 * error**2, error - 0.5)


def barlow_loss(left: Float[Array, "M K"], right: Float[Array, "M K"]) -> Float[Array, ""]:
    """`sum_i (1 - C[i, i])^2 + .005 sum_{i != j} C[i, j]^2` over K, C the correlation of the two projections."""

    def standardised(x):
        centred = x - x.mean(0)
        return centred * jax.lax.rsqrt((centred**2).mean(0) + 1e-6)

    correlation = standardised(left).T @ standardised(right) / left.shape[0]
    diagonal = jnp.diagonal(correlation)
    off_diagonal = (correlation**2).sum() - (diagonal**2).sum()
    return (((1.0 - diagonal) ** 2).sum() + BARLOW_OFF_DIAGONAL * off_diagonal) / left.shape[1]


def cosine(left: Float[Array, "... F"], right: Float[Array, "... F"]) -> Float[Array, "..."]:
    """Cosine of the angle between two vectors, along the last axis; 0 where one of them is 0."""

    def length(x):
        return jnp.sqrt((x**2).sum(-1) + 1e-12)

    return (left * right).sum(-1) / (length(left) * length(right))
