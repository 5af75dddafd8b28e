"""The PPO objective, its options under the field's names, and what is measured beside it.

Legend: `T` steps, `B` environments of the minibatch.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from .normalization import pmean


@struct.dataclass
class Targets:
    """What a minibatch is trained towards, `[T, B]`.

    Attributes:
        log_prob: of the action, under the policy that acted.
        value: V(observation) when it acted.
        advantage: generalised advantage estimate.
        value_target: advantage + value.
    """

    log_prob: Float[Array, "T B"]
    value: Float[Array, "T B"]
    advantage: Float[Array, "T B"]
    value_target: Float[Array, "T B"]


def policy_loss(
    log_ratio: Float[Array, "T B"],
    advantage: Float[Array, "T B"],
    clip_eps: float,
    dual_clip: float | None = None,
) -> Float[Array, ""]:
    """Clipped surrogate, to be minimised (Schulman et al. 2017, eq. 7).

    `-mean(min(ratio A, clip(ratio, 1 - eps, 1 + eps) A))`; where `dual_clip` = c > 1 is given and A < 0, the inner term
    is kept above `c A` (Ye et al. 2020, eq. 5).
    """
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage)
    if dual_clip is not None:
        surrogate = jnp.where(advantage < 0, jnp.maximum(surrogate, dual_clip * advantage), surrogate)
    return -surrogate.mean()


def value_loss(
    value: Float[Array, "T B"],
    targets: Targets,
    kind: Literal["mse", "huber"],
    value_clip_eps: float | None,
) -> Float[Array, ""]:
    """Half squared error (or Huber of width 1) to the value target.

    With `value_clip_eps`, the larger of the error and that of the value kept within that distance of the old one.
    """

    def error(prediction):
        difference = prediction - targets.value_target
        if kind == "huber":
            size = jnp.abs(difference)
            return jnp.where(size <= 1.0, 0.5 * difference**2, size - 0.5)
        return 0.5 * difference**2

    loss = error(value)
    if value_clip_eps is not None:
        near_old = targets.value + jnp.clip(value - targets.value, -value_clip_eps, value_clip_eps)
        loss = jnp.maximum(loss, error(near_old))
    return loss.mean()


def normalized_advantage(advantage: Float[Array, "T B"], axis_name: str | None) -> Float[Array, "T B"]:
    """Mean 0, standard deviation 1, over everything in it and over all devices."""
    centred = advantage - pmean(advantage.mean(), axis_name)
    return centred * jax.lax.rsqrt(pmean((centred**2).mean(), axis_name) + 1e-8)


def ppo_loss(
    config: Any,
    log_prob: Float[Array, "T B"],
    entropy: Float[Array, "T B"],
    value: Float[Array, "T B"],
    targets: Targets,
    entropy_coef: Any,
    axis_name: str | None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`policy_loss + value_coef value_loss - entropy_coef entropy`, and its parts as metrics.

    `approx_kl` is the low-variance estimator `mean(ratio - 1 - log ratio)` (Schulman 2020).
    """
    advantage = targets.advantage
    if config.normalize_advantage == "minibatch":
        advantage = normalized_advantage(advantage, axis_name)
    log_ratio = log_prob - targets.log_prob
    losses = {
        "policy_loss": policy_loss(log_ratio, advantage, config.clip_eps, config.dual_clip),
        "value_loss": value_loss(value, targets, config.value_loss, config.value_clip_eps),
        "entropy": entropy.mean(),
    }
    total = losses["policy_loss"] + config.value_coef * losses["value_loss"] - entropy_coef * losses["entropy"]
    ratio = jnp.exp(log_ratio)
    metrics = {
        "loss": total,
        **losses,
        "approx_kl": jnp.mean(ratio - 1.0 - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1.0) > config.clip_eps),
    }
    return total, metrics
