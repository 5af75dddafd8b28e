"""The world model's loss on a replayed window, and the beliefs it holds along it.

Legend: `L` steps of a window, `N` windows, `S` imagination stride.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hippodrome.agents.core import ReplayBatch
from hippodrome.memory.latents import categorical_kl, groups_entropy, gumbel_noise
from hippodrome.memory.rssm import Latents, RSSMCarry

from .networks import reconstruction_loss
from .robust import barlow_loss, bisimulation_loss, latent_reconstruction_loss, mask_images
from .twohot import two_hot_loss


class Beliefs(NamedTuple):
    """What the world model makes of a window.

    Attributes:
        latents: at each step, leaves `[L, N, ...]`.
        carries: after steps S-1, 2S-1, ..., L-1, leaves `[L/S, N, ...]`.
        embedding: `[L, N, E]`, of the observations, masked where they are.
        raw_stoch: `[L, N, Z]`; latents by the averaged parameters from unmasked observations. None without them.
    """

    latents: Latents
    carries: RSSMCarry
    embedding: Float[Array, "L N E"]
    raw_stoch: Float[Array, "L N Z"] | None

    @property
    def raw_features(self) -> Float[Array, "L N D+Z"]:
        """Features of the raw branch: the masked branch's deter and the raw latents."""
        assert self.raw_stoch is not None
        return jnp.concatenate([self.latents.deter, self.raw_stoch], axis=-1)


def world_model_loss(
    agent: Any,
    params: Any,
    target: Any,
    reward_range: tuple[Array, Array],
    batch: ReplayBatch,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, "L N"]], dict[str, Float[Array, ""]], Beliefs]]:
    """The mean of the weighted terms; beside it the terms as they are, what is measured, and the beliefs.

    Args:
        agent, params: whose.
        target: averaged variables; () where none are kept.
        reward_range: the smallest and the largest reward replayed so far.
        batch: the windows.
        key: of latents, masks and pairs.
    """
    observe_key, pair_key = jax.random.split(key)
    beliefs = observe_window(agent, params, target, batch, observe_key)
    losses, metrics = world_model_losses(agent, params, target, reward_range, batch, beliefs, pair_key)
    return weighted_sum(agent.config, losses).mean(), (losses, metrics, beliefs)


def weighted_sum(config: Any, losses: dict[str, Float[Array, "L N"]]) -> Float[Array, "L N"]:
    """The terms of the world model's loss by their coefficients."""
    weights = {
        "dynamics": config.dynamics_coef,
        "representation": config.representation_coef,
        "reward": config.reward_coef,
        "reconstruction": config.reconstruction_coef,
        "latent": config.latent_coef,
        "bisimulation": config.bisimulation_coef,
        "barlow": config.barlow_coef,
    }
    return jnp.stack([weights.get(name, 1.0) * term for name, term in losses.items()]).sum(0)


def observe_window(agent: Any, params: Any, target: Any, batch: ReplayBatch, key: Key[Array, ""]) -> Beliefs:
    """Encode the window, masked where configured, and run the recurrent state-space model over it.

    Args:
        agent, params: whose.
        target: averaged variables of encoder and rssm; () where none are kept.
        batch: the window.
        key: of the latents and the masks.
    """
    steps, config = batch.steps, agent.config
    noise_key, raw_key, mask_key = jax.random.split(key, 3)
    noise = gumbel_noise(noise_key, agent.rssm.noise_shape(*steps.reset.shape))
    observation = steps.observation
    if config.mask_ratio:
        observation = mask_images(agent.observation_space, observation, mask_key, config)
    embedding = agent.apply("encoder", params, observation)
    action = agent.encode_actions(steps.previous_action)
    inputs = batch.carry, embedding, action, steps.reset, noise
    carries, latents = agent.rssm.apply(params["rssm"], *inputs, stride=config.imagination_stride, method="observe")
    raw_stoch = None
    if config.has_target:
        raw_noise = gumbel_noise(raw_key, noise.shape)
        raw_embedding = agent.apply("encoder", target, steps.observation)
        raw_stoch = agent.rssm.apply(target["rssm"], latents.deter, raw_embedding, raw_noise, method="posterior_at")
        raw_stoch = jax.lax.stop_gradient(raw_stoch)
    return Beliefs(latents, carries, embedding, raw_stoch)


def world_model_losses(
    agent: Any,
    params: Any,
    target: Any,
    reward_range: tuple[Array, Array],
    batch: ReplayBatch,
    beliefs: Beliefs,
    key: Key[Array, ""],
) -> tuple[dict[str, Float[Array, "L N"]], dict[str, Float[Array, ""]]]:
    """The terms of the loss at each step, by name, and what is measured beside them.

    The two KLs are summed over the groups first and clipped below at `free_nats` for each step. Rewards belong to the
    step whose observation they came with; the continuation is 0 where that observation ended the episode, else the
    discount.

    Args:
        agent, params: whose.
        target: averaged variables; () where none are kept.
        reward_range: the smallest and the largest reward replayed so far.
        batch, beliefs: the window and what the model makes of it.
        key: of the pairs that are compared.
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
    losses |= _representation_losses(agent, params, target, reward_range, steps, beliefs, key)
    metrics = {
        "kl": dynamics.mean(),
        "prior_entropy": groups_entropy(latents.prior).mean(),
        "posterior_entropy": groups_entropy(latents.posterior).mean(),
    }
    return losses, metrics


def _representation_losses(agent, params, target, reward_range, steps, beliefs, key) -> dict[str, Array]:
    """The losses of `robust.py` that are switched on."""
    config, losses = agent.config, {}
    features = beliefs.latents.features
    if config.latent_coef:
        projected = agent.apply("projection", params, features)
        wanted = agent.apply("projection", target, beliefs.raw_features)
        losses["latent"] = latent_reconstruction_loss(projected, wanted)
    if config.bisimulation_coef:
        losses["bisimulation"] = _bisimulation(config, reward_range, steps, beliefs, key)
    if config.barlow_coef:
        left = agent.apply("projection", params, features).reshape(-1, config.projection_size)
        right = agent.apply("embedding_projection", params, beliefs.embedding).reshape(-1, config.projection_size)
        losses["barlow"] = jnp.broadcast_to(barlow_loss(left, right), steps.reset.shape)
    return losses


def _bisimulation(config, reward_range, steps, beliefs, key) -> Float[Array, "L N"]:
    """`bisimulation_loss` of every step and one other of the batch; 0 where the episode goes no further."""
    low, high = reward_range
    reward = 2.0 * (steps.reward - low) / jnp.maximum(high - low, 1e-3)
    expected = jnp.exp(beliefs.latents.prior).reshape(beliefs.raw_stoch.shape)
    following = jnp.concatenate([beliefs.latents.deter, expected], axis=-1)

    def flat(x, shift):
        return (x[1:] if shift else x[:-1]).reshape(-1, *x.shape[2:])

    other = jax.random.permutation(key, flat(steps.reward, 1).size)
    loss = bisimulation_loss(
        flat(beliefs.latents.features, 0),
        flat(beliefs.raw_features, 0),
        flat(following, 1),
        jax.lax.stop_gradient(flat(following, 1)),
        flat(reward, 1),
        other,
        config.gamma,
    )
    goes_on = ~flat(steps.reset, 1)
    loss = jnp.where(goes_on & goes_on[other], loss, 0.0).reshape(-1, steps.reset.shape[1])
    return jnp.concatenate([loss, jnp.zeros_like(loss[:1])])


def _binary_cross_entropy(logits: Float[Array, "..."], target: Float[Array, "..."]) -> Float[Array, "..."]:
    return -(target * jax.nn.log_sigmoid(logits) + (1.0 - target) * jax.nn.log_sigmoid(-logits))
