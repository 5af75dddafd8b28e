"""The actor's output as an action distribution: uniform mix for discrete parts, a bounded Gaussian for Boxes.

Legend: `A` width of the policy's parameters, `S` of its standard deviations.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hippodrome.agents.distributions import ActionDistribution
from hippodrome.envs import Box, MultiDiscrete
from hippodrome.memory.latents import uniform_mix

MIN_STD, MAX_STD = 0.1, 1.0


def policy_parameters(
    distribution: ActionDistribution, outputs: Float[Array, "... A+S"], mix: float
) -> tuple[Float[Array, "... A"], Float[Array, "... S"]]:
    """What `ActionDistribution` takes, from the outputs of the actor's head.

    Discrete parts: log probabilities mixed with the uniform distribution. Box parts: the mean through tanh, the
    standard deviation between .1 and 1, near the latter at first (Hafner et al. 2023, the code published with it).
    """
    at, parts = 0, []
    for leaf, width in zip(distribution.leaves, distribution.widths, strict=True):
        part = outputs[..., at : at + width]
        at += width
        if isinstance(leaf, Box):
            parts.append(jnp.tanh(part))
            continue
        start = 0
        for size in leaf.nvec.tolist() if isinstance(leaf, MultiDiscrete) else [width]:
            parts.append(uniform_mix(part[..., start : start + size], mix))
            start += size
    std = MIN_STD + (MAX_STD - MIN_STD) * jax.nn.sigmoid(outputs[..., at:] + 2.0)
    return jnp.concatenate(parts, axis=-1), jnp.log(std)
