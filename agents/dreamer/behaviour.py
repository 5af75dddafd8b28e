"""Actor and critic: imagination from replayed beliefs, lambda-returns, and the losses on both.

Legend: `H` imagined steps, `M` starting points, `L` steps of a window, `N` windows, `S` imagination stride.
Source: Hafner et al. 2023 (DreamerV3), sections on critic and actor learning.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hippodrome.agents.core import ReplayStep
from hippodrome.agents.normalization import pmean
from hippodrome.agents.returns import lambda_returns
from hippodrome.memory.latents import gumbel_noise

from .twohot import two_hot_loss, two_hot_mean
from .world_model import Beliefs


class Imagined(NamedTuple):
    """Imagined trajectories; step 0 is where they start.

    Attributes:
        features: deter and stoch, `[H+1, M, D]`.
        actor_features: what the actor saw, `[H+1, M, D']`.
        action: raw actions, leaves `[H, M, ...]`.
    """

    features: Float[Array, "H+1 M D"]
    actor_features: Float[Array, "H+1 M D'"]
    action: Any


def starting_points(agent: Any, beliefs: Beliefs) -> tuple[Any, Float[Array, "M D"]]:
    """The carries that imagination starts from and the memory's outputs there, windows and steps on one axis."""
    stride = agent.config.imagination_stride
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), beliefs.carries)
    if beliefs.raw_stoch is not None:
        raw = beliefs.raw_stoch[stride - 1 :: stride]
        flat = flat.replace(stoch=raw.reshape(-1, raw.shape[-1]))
    deter = beliefs.latents.deter[stride - 1 :: stride]
    return jax.lax.stop_gradient((flat, deter.reshape(-1, deter.shape[-1])))


def imagine(agent: Any, params: Any, carry: Any, deter: Float[Array, "M D"], key: Key[Array, ""]) -> Imagined:
    """Let the actor act in the world model for H steps; no gradient flows through it."""
    params = jax.lax.stop_gradient(params)
    num_starts = deter.shape[0]

    def step(carried, step_key):
        carry, deter = carried
        action_key, latent_key = jax.random.split(step_key)
        actor_features = agent.actor_features(carry, deter)
        outputs, log_std = agent.policy(params, actor_features)
        keys = jax.random.split(action_key, num_starts)
        action = jax.vmap(agent.distribution.sample)(outputs, log_std, keys)
        noise = gumbel_noise(latent_key, agent.rssm.noise_shape(num_starts))
        encoded = agent.encode_actions(agent.distribution.to_env(action))
        next_carry, next_deter = agent.rssm.apply(params["rssm"], carry, encoded, noise, method="imagine")
        features = jnp.concatenate([deter, carry.stoch], axis=-1)
        return (next_carry, next_deter), (features, actor_features, action)

    keys = jax.random.split(key, agent.config.imagination_horizon)
    (carry, deter), (features, actor_features, action) = jax.lax.scan(step, (carry, deter), keys)
    last = jnp.concatenate([deter, carry.stoch], axis=-1), agent.actor_features(carry, deter)
    features, actor_features = (
        jnp.concatenate([each, end[None]]) for each, end in zip((features, actor_features), last, strict=True)
    )
    return Imagined(features, actor_features, action)


def actor_critic_losses(
    agent: Any,
    params: Any,
    slow_critic: Any,
    scale: Float[Array, ""],
    imagined: Imagined,
    start_continuation: Float[Array, " M"],
) -> tuple[dict[str, Float[Array, "H M"]], Float[Array, "H M"], dict[str, Float[Array, ""]]]:
    """The losses on imagined steps, the lambda-returns there, and metrics.

    Args:
        agent, params: whose.
        slow_critic: the critic's averaged parameters.
        scale: what advantages are divided by.
        imagined: where.
        start_continuation: 0 where a trajectory starts at the end of an episode, else the discount.
    """
    config, stop = agent.config, jax.lax.stop_gradient
    reward = two_hot_mean(agent.apply("reward", params, imagined.features), agent.bins)
    continuation = jax.nn.sigmoid(agent.apply("continuation", params, imagined.features)[..., 0])
    continuation = jnp.concatenate([start_continuation[None], continuation[1:]])
    logits = agent.apply("critic", params, imagined.features)
    value = two_hot_mean(logits, agent.bins)
    returns = stop(
        lambda_returns(reward[1:], value[1:], jnp.zeros(value[1:].shape, bool), continuation[1:], config.return_lambda)
    )
    # How likely a step is to be reached; the discount of the start belongs to no imagined step.
    weight = stop(jnp.cumprod(continuation, axis=0) / config.gamma)[:-1]
    advantage = stop((returns - value[:-1]) / scale)
    outputs, log_std = agent.policy(params, imagined.actor_features[:-1])
    log_prob = agent.distribution.log_prob(outputs, log_std, imagined.action)
    entropy = agent.distribution.entropy(outputs, log_std)
    losses = {
        "actor": -weight * (log_prob * advantage + config.entropy_coef * entropy),
        "critic": weight * _critic_loss(agent, logits[:-1], returns, slow_critic, imagined.features[:-1]),
    }
    metrics = {
        "entropy": entropy.mean(),
        "advantage_scale": scale,
        "imagined_return": returns.mean(),
        "imagined_reward": reward[1:].mean(),
        "value": value.mean(),
    }
    return losses, returns, metrics


def replay_critic_loss(
    agent: Any, params: Any, slow_critic: Any, beliefs: Beliefs, steps: ReplayStep, returns: Float[Array, "H M"]
) -> Float[Array, "L-1 N"]:
    """The critic's loss on replayed steps; its gradient reaches the world model.

    Lambda-returns of the recorded rewards. What stands beyond a step is the imagined return from there, where
    imagination started there, else the critic's value; nothing is learnt at the last step of an episode, nor across it.
    """
    config = agent.config
    features = beliefs.latents.features
    logits = agent.apply("critic", params, features)
    stride, (length, num_windows) = config.imagination_stride, steps.reset.shape
    beyond = two_hot_mean(logits, agent.bins)
    beyond = beyond.at[stride - 1 :: stride].set(returns[0].reshape(length // stride, num_windows))
    targets = lambda_returns(
        steps.reward[1:], beyond[1:], steps.last[1:], config.gamma * (1.0 - steps.terminal[1:]), config.return_lambda
    )
    losses = _critic_loss(agent, logits[:-1], jax.lax.stop_gradient(targets), slow_critic, features[:-1])
    return jnp.where(steps.last[:-1], 0.0, losses)


def _critic_loss(agent, logits, targets, slow_critic, features):
    slow = agent.modules["critic"].apply(slow_critic, jax.lax.stop_gradient(features))
    slow_value = two_hot_mean(slow, agent.bins)
    distance = two_hot_loss(logits, slow_value, agent.bins)
    return two_hot_loss(logits, targets, agent.bins) + agent.config.slow_critic_coef * distance


def percentile_range(
    low: Float[Array, ""],
    high: Float[Array, ""],
    returns: Float[Array, "H M"],
    rate: float,
    axis_name: str | tuple[str, ...] | None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The averages of the 5th and 95th percentile of the returns, moved towards those of this batch."""
    now = pmean(jnp.percentile(returns, jnp.array([5.0, 95.0])), axis_name)
    return low + rate * (now[0] - low), high + rate * (now[1] - high)
