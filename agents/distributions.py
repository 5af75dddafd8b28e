"""Action distributions: one for any action space, a product over its leaves.

Legend: `A` width of the policy head's output, all leaves concatenated. Categorical leaves read logits; Box leaves
read a mean in units where the bounds are -1 and 1, with a log standard deviation of their own (one for all states, or
with the leading axes of the outputs).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hippodrome.envs import Box, Discrete, MultiDiscrete, flat_spaces, part_names

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def categorical_log_prob(logits: Float[Array, "... N"], action: Any) -> Float[Array, "..."]:
    """`log softmax(logits)[action]`."""
    return jnp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]


def categorical_entropy(logits: Float[Array, "... N"]) -> Float[Array, "..."]:
    """`-sum p log p` in nats; a category of probability 0 adds 0."""
    log_probs = jax.nn.log_softmax(logits)
    probs = jnp.exp(log_probs)
    return -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1)


def gaussian_log_prob(
    mean: Float[Array, "... N"], log_std: Float[Array, "... N"], value: Float[Array, "... N"]
) -> Float[Array, "..."]:
    """Log density of a diagonal Gaussian, summed over its N dimensions."""
    z = (value - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * z**2 - log_std - _HALF_LOG_2PI, axis=-1)


def gaussian_entropy(log_std: Float[Array, "... N"]) -> Float[Array, "..."]:
    """Entropy of a diagonal Gaussian in nats, `sum(log_std + log(2 pi e) / 2)`."""
    return jnp.sum(log_std + 0.5 + _HALF_LOG_2PI, axis=-1)


class ActionDistribution:
    """The distribution over an action space that a policy head of width `num_outputs` parametrises.

    Actions come in two forms. The *raw* one is what was sampled and what `log_prob` takes: for a Box leaf, the Gaussian
    sample before clipping, in units where the bounds are -1 and 1. `to_env` gives the one the environment takes:
    clipped and scaled to the bounds. Discrete leaves are the same in both.

    Args:
        space: Discrete, MultiDiscrete, Box, or Tuple/Dict of them.

    Raises:
        ValueError: for a Box without finite bounds, or a space of another type.
    """

    def __init__(self, space: Any):
        self.space = space
        self.leaves = flat_spaces(space)
        self._structure = jax.tree.structure(jax.eval_shape(space.sample, jax.random.key(0)))
        for where, leaf in part_names(space):
            _check_action_leaf(where, leaf)
        self.widths = [_leaf_width(leaf) for leaf in self.leaves]
        self.num_outputs = sum(self.widths)
        self.num_log_stds = sum(
            width for leaf, width in zip(self.leaves, self.widths, strict=True) if isinstance(leaf, Box)
        )

    def sample(self, outputs: Float[Array, " A"], log_std: Float[Array, " S"], key: Key[Array, ""]) -> Any:
        """A raw action for one environment (`vmap` for more)."""
        keys = jax.random.split(key, len(self.leaves))
        actions = []
        for (leaf, part, std), leaf_key in zip(self._parts(outputs, log_std), keys, strict=True):
            if isinstance(leaf, Box):
                noise = jax.random.normal(leaf_key, part.shape)
                actions.append((part + jnp.exp(std) * noise).reshape(leaf.shape))
            elif isinstance(leaf, MultiDiscrete):
                part_keys = jax.random.split(leaf_key, len(leaf.nvec))
                draws = [jax.random.categorical(k, p) for k, p in zip(part_keys, _split(part, leaf), strict=True)]
                actions.append(jnp.stack(draws).astype(jnp.int32))
            else:
                actions.append(jax.random.categorical(leaf_key, part).astype(jnp.int32))
        return jax.tree.unflatten(self._structure, actions)

    def mode(self, outputs: Float[Array, "... A"], log_std: Float[Array, "... S"]) -> Any:
        """The most likely raw action."""
        actions = []
        for leaf, part, _ in self._parts(outputs, log_std):
            if isinstance(leaf, Box):
                actions.append(part.reshape(*part.shape[:-1], *leaf.shape))
            elif isinstance(leaf, MultiDiscrete):
                best = [jnp.argmax(p, axis=-1) for p in _split(part, leaf)]
                actions.append(jnp.stack(best, axis=-1).astype(jnp.int32))
            else:
                actions.append(jnp.argmax(part, axis=-1).astype(jnp.int32))
        return jax.tree.unflatten(self._structure, actions)

    def log_prob(
        self, outputs: Float[Array, "... A"], log_std: Float[Array, "... S"], action: Any
    ) -> Float[Array, "..."]:
        """Log probability (density for Box leaves) of a raw action, summed over the leaves."""
        total: Array | float = 0.0
        for (leaf, part, std), value in zip(self._parts(outputs, log_std), jax.tree.leaves(action), strict=True):
            if isinstance(leaf, Box):
                total += gaussian_log_prob(part, std, value.reshape(part.shape))
            elif isinstance(leaf, MultiDiscrete):
                total += sum(categorical_log_prob(p, value[..., i]) for i, p in enumerate(_split(part, leaf)))
            else:
                total += categorical_log_prob(part, value)
        return jnp.asarray(total)

    def entropy(self, outputs: Float[Array, "... A"], log_std: Float[Array, "... S"]) -> Float[Array, "..."]:
        """Entropy in nats, summed over the leaves."""
        total = jnp.zeros(outputs.shape[:-1])
        for leaf, part, std in self._parts(outputs, log_std):
            if isinstance(leaf, Box):
                total += gaussian_entropy(std)
            elif isinstance(leaf, MultiDiscrete):
                total += sum(categorical_entropy(p) for p in _split(part, leaf))
            else:
                total += categorical_entropy(part)
        return total

    def to_env(self, action: Any) -> Any:
        """The action the environment takes: Box leaves clipped to [-1, 1] and scaled to their bounds."""

        def leaf_to_env(leaf: Any, value: jax.Array) -> jax.Array:
            if not isinstance(leaf, Box):
                return value
            low, high = jnp.asarray(leaf.low), jnp.asarray(leaf.high)
            return (low + 0.5 * (jnp.clip(value, -1.0, 1.0) + 1.0) * (high - low)).astype(leaf.dtype)

        values = [leaf_to_env(leaf, v) for leaf, v in zip(self.leaves, jax.tree.leaves(action), strict=True)]
        return jax.tree.unflatten(self._structure, values)

    def _parts(self, outputs: jax.Array, log_std: jax.Array) -> list[tuple[Any, jax.Array, jax.Array]]:
        parts, output_at, std_at = [], 0, 0
        for leaf, width in zip(self.leaves, self.widths, strict=True):
            std_width = width if isinstance(leaf, Box) else 0
            parts.append((leaf, outputs[..., output_at : output_at + width], log_std[..., std_at : std_at + std_width]))
            output_at += width
            std_at += std_width
        return parts


def _split(logits: jax.Array, leaf: MultiDiscrete) -> list[jax.Array]:
    return jnp.split(logits, np.cumsum(leaf.nvec)[:-1].tolist(), axis=-1)


def _leaf_width(leaf: Any) -> int:
    if isinstance(leaf, Discrete):
        return int(leaf.n)
    if isinstance(leaf, MultiDiscrete):
        return int(leaf.nvec.sum())
    return math.prod(leaf.shape)


def _check_action_leaf(where: str, leaf: Any) -> None:
    if isinstance(leaf, Box):
        if not (np.isfinite(np.asarray(leaf.low)).all() and np.isfinite(np.asarray(leaf.high)).all()):
            raise ValueError(
                f"action space{where} {leaf!r} has no finite bounds; actions are scaled to their bounds, so give the "
                "Box finite low and high (wrap the environment)"
            )
    elif not isinstance(leaf, Discrete | MultiDiscrete):
        raise ValueError(
            f"action space{where} {leaf!r} must be Discrete, MultiDiscrete, Box, or a Tuple or Dict of them"
        )
