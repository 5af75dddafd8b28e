"""Discrete latents: groups of one-hot categories, sampled with straight-through gradients.

Legend: `G` groups, `C` classes of a group. Source: Hafner et al. 2021 (DreamerV2), algorithm 1; Hafner et al. 2023
(DreamerV3), section on the world model.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def uniform_mix(logits: Float[Array, "... C"], mix: float) -> Float[Array, "... C"]:
    """Log probabilities of `(1 - mix) softmax(logits) + mix / C`, normalised; `mix` 0 is log softmax."""
    if mix == 0.0:
        return jax.nn.log_softmax(logits)
    return jnp.log((1.0 - mix) * jax.nn.softmax(logits) + mix / logits.shape[-1])


def gumbel_noise(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """What `straight_through` adds to log probabilities to sample."""
    return jax.random.gumbel(key, shape)


def straight_through(
    log_probs: Float[Array, "*B G C"], noise: Float[Array, "*B G C"] | None = None
) -> Float[Array, "*B G C"]:
    """One-hot samples whose gradient is that of the probabilities.

    Args:
        log_probs: of each category.
        noise: Gumbel noise; None takes the most likely category.
    """
    chosen = jnp.argmax(log_probs if noise is None else log_probs + noise, axis=-1)
    sample = jax.nn.one_hot(chosen, log_probs.shape[-1], dtype=log_probs.dtype)
    probs = jnp.exp(log_probs)
    return sample + probs - jax.lax.stop_gradient(probs)


def categorical_kl(left: Float[Array, "*B G C"], right: Float[Array, "*B G C"]) -> Float[Array, "*B"]:
    """KL(left || right) in nats from log probabilities, summed over the groups."""
    probs = jnp.exp(left)
    return jnp.sum(jnp.where(probs > 0, probs * (left - right), 0.0), axis=(-2, -1))


def groups_entropy(log_probs: Float[Array, "*B G C"]) -> Float[Array, "*B"]:
    """Entropy in nats, summed over the groups."""
    probs = jnp.exp(log_probs)
    return -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=(-2, -1))
