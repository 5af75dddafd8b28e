"""The PPO objective, its options under the field's names, and what is measured beside it.

Legend: `T` steps, `B` environments of the minibatch.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

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


def advantage_scale(
    advantage: Float[Array, "T B"], order: Int[Array, "M N"], kind: str, axis_name: str | None
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """What the advantages of each minibatch are centred by and multiplied with, over all devices.

    For all minibatches at once, before the first: devices then wait for each other twice in an update.

    Args:
        advantage: of the rollout.
        order: the environments of each minibatch.
        kind: over what they get mean 0 and deviation 1: "minibatch", "batch" or "none".
        axis_name: of the devices.
    """
    num_minibatches = order.shape[0]
    if kind == "none":
        return jnp.zeros(num_minibatches), jnp.ones(num_minibatches)
    # [T, M, N], or everything as one.
    parts = advantage[:, order] if kind == "minibatch" else advantage[:, None]
    mean = pmean(parts.mean((0, 2)), axis_name)
    variance = pmean(jnp.square(parts - mean[:, None]).mean((0, 2)), axis_name)
    scale = jax.lax.rsqrt(variance + 1e-8)
    return jnp.broadcast_to(mean, num_minibatches), jnp.broadcast_to(scale, num_minibatches)


def ppo_loss(
    config: Any,
    log_prob: Float[Array, "T B"],
    entropy: Float[Array, "T B"],
    value: Float[Array, "T B"],
    targets: Targets,
    entropy_coef: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`policy_loss + value_coef value_loss - entropy_coef entropy`, and its parts as metrics.

    `approx_kl` is the low-variance estimator `mean(ratio - 1 - log ratio)` (Schulman 2020).
    """
    log_ratio = log_prob - targets.log_prob
    losses = {
        "policy_loss": policy_loss(log_ratio, targets.advantage, config.clip_eps, config.dual_clip),
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
