"""The world model's loss on a replayed window, and the beliefs it holds along it.

Legend: `L` steps of a window, `N` windows, `S` imagination stride.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hippodrome.agents.core import ReplayBatch
from hippodrome.memory.latents import categorical_kl, groups_entropy
from hippodrome.memory.rssm import Latents, RSSMCarry, observe_in_chunks

from .networks import reconstruction_loss
from .twohot import two_hot_loss


class Beliefs(NamedTuple):
    """What the world model makes of a window.

    Attributes:
        latents: at each step, leaves `[L, N, ...]`.
        carries: after steps S-1, 2S-1, ..., L-1, leaves `[L/S, N, ...]`.
    """

    latents: Latents
    carries: RSSMCarry


def observe_window(agent: Any, params: Any, batch: ReplayBatch, noise: Float[Array, "L N G C"]) -> Beliefs:
    """Encode the window and run the recurrent state-space model over it."""
    steps = batch.steps
    embedding = agent.apply("encoder", params, steps.observation)
    action = agent.encode_actions(steps.previous_action)
    carries, latents = observe_in_chunks(
        agent.rssm,
        params["rssm"],
        batch.carry,
        (embedding, action, steps.reset, noise),
        stride=agent.config.imagination_stride,
    )
    return Beliefs(latents, carries)


def world_model_losses(
    agent: Any, params: Any, batch: ReplayBatch, beliefs: Beliefs
) -> tuple[dict[str, Float[Array, "L N"]], dict[str, Float[Array, ""]]]:
    """The terms of the loss at each step, by name, and what is measured beside them.

    The two KLs are summed over the groups first and clipped below at `free_nats` for each step. Rewards belong to the
    step whose observation they came with; the continuation is 0 where that observation ended the episode, else the
    discount.
    """
    config, steps, latents = agent.config, batch.steps, beliefs.latents
    stop = jax.lax.stop_gradient
    dynamics = categorical_kl(stop(latents.posterior), latents.prior)
    representation = categorical_kl(latents.posterior, stop(latents.prior))
    features = latents.features
    continuation = (1.0 - steps.terminal) * config.gamma
    logits = agent.apply("continuation", params, features)[..., 0]
    losses = {
        "dynamics": jnp.maximum(dynamics, config.free_nats),
        "representation": jnp.maximum(representation, config.free_nats),
        "reward": two_hot_loss(agent.apply("reward", params, features), steps.reward, agent.bins),
        "continuation": _binary_cross_entropy(logits, continuation),
    }
    if config.reconstruction_coef:
        outputs = agent.apply("decoder", params, features)
        losses["reconstruction"] = reconstruction_loss(agent.observation_space, outputs, steps.observation)
    metrics = {
        "kl": dynamics.mean(),
        "prior_entropy": groups_entropy(latents.prior).mean(),
        "posterior_entropy": groups_entropy(latents.posterior).mean(),
    }
    return losses, metrics


def _binary_cross_entropy(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    return -(target * jax.nn.log_sigmoid(logits) + (1.0 - target) * jax.nn.log_sigmoid(-logits))
