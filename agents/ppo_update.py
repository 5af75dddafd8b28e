"""One PPO update: targets from a rollout, then epochs of minibatches over whole environments.

Legend: `T` steps, `B` environments, `F` features, `S` shards, `M` minibatches.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from .core import Rollout
from .normalization import RunningStatistics, pmean, update_statistics
from .optimizers import steps_taken
from .ppo_loss import Targets, advantage_scale, ppo_loss
from .returns import generalized_advantage, next_values


def learn(agent: Any, state: Any, batch: Rollout, key: Key[Array, ""]) -> tuple[Any, dict[str, Float[Array, ""]]]:
    """The update of `PPO.learn`: returns the new state and the metrics, averaged over the minibatches applied.

    The statistics of observations are updated after the passes, so that the policy that learns sees what the policy
    that acted saw and the first ratio is exactly 1.
    """
    config = agent.config
    reward, reward_statistics, discounted_return = _scaled_reward(agent, state, batch)
    targets = _targets(config, batch, reward)
    entropy_coef = agent.entropy_schedule(steps_taken(state.optimizer))
    params = state.params
    features = agent.features(params, batch.timestep)
    sequence = (features, batch.timestep.reset, batch.decision.action, targets)
    order = _minibatch_order(agent, key, batch.last_value.shape[0])
    scales = advantage_scale(targets.advantage, order, config.normalize_advantage, agent.axis_name)

    def minibatch_step(carried, inputs):
        network, optimizer, stopped = carried
        envs, centre, scale = inputs
        *part, goal = jax.tree.map(lambda leaf: leaf[:, envs], sequence)
        part = (*part, dataclasses.replace(goal, advantage=scale * (goal.advantage - centre)))
        start = jax.tree.map(lambda leaf: leaf[envs], batch.initial_carry)
        grads, metrics = jax.grad(_loss, argnums=1, has_aux=True)(agent, network, start, part, entropy_coef)
        grads, metrics = pmean((grads, metrics), agent.axis_name)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, new_optimizer = agent.optimizer.update(grads["params"], optimizer, network["params"])
        new = ({"params": optax.apply_updates(network["params"], updates)}, new_optimizer)
        if config.target_kl is not None:
            stopped = stopped | (metrics["approx_kl"] > 1.5 * config.target_kl)
            new = jax.tree.map(lambda n, o: jnp.where(stopped, o, n), new, (network, optimizer))
        network, optimizer = new
        return (network, optimizer, stopped), (metrics, ~stopped)

    (network, optimizer, _), (metrics, applied) = jax.lax.scan(
        minibatch_step, (params.network, state.optimizer, jnp.asarray(False)), (order, *scales)
    )
    metrics = {name: _applied_mean(values, applied) for name, values in metrics.items()}
    metrics["minibatches_applied"] = applied.sum().astype(jnp.float32)
    metrics["explained_variance"] = _explained_variance(targets, agent.axis_name)

    observation_statistics = _observation_statistics(agent, params, batch)
    new_state = dataclasses.replace(
        state,
        params=dataclasses.replace(params, network=network, observation_statistics=observation_statistics),
        optimizer=optimizer,
        reward_statistics=reward_statistics,
        discounted_return=discounted_return,
    )
    return new_state, metrics


def _loss(agent: Any, network: Any, start: Any, part: Any, entropy_coef: Any) -> tuple[Float[Array, ""], dict]:
    features, reset, action, targets = part
    _, outputs, log_std, value = agent.network.apply(network, start, features, reset)
    log_prob = agent.distribution.log_prob(outputs, log_std, action)
    entropy = agent.distribution.entropy(outputs, log_std)
    return ppo_loss(agent.config, log_prob, entropy, value, targets, entropy_coef)


def _targets(config: Any, batch: Rollout, reward: Float[Array, "T B"]) -> Targets:
    outcome, value = batch.outcome, batch.decision.value
    terminated, truncated = outcome.terminated, outcome.truncated
    if config.truncation_is_terminal:
        terminated, truncated = terminated | truncated, jnp.zeros_like(truncated)
    beyond = next_values(value, batch.last_value, batch.final_value, terminated, truncated)
    advantage = generalized_advantage(reward, value, beyond, terminated | truncated, config.gamma, config.gae_lambda)
    return Targets(batch.decision.log_prob, value, advantage, advantage + value)


def _scaled_reward(
    agent: Any, state: Any, batch: Rollout
) -> tuple[Float[Array, "T B"], RunningStatistics | None, Float[Array, " B"] | None]:
    """Rewards divided by the running standard deviation of the discounted return (Engstrom et al. 2020), clipped."""
    reward = batch.outcome.reward
    if state.reward_statistics is None:
        return reward, None, None

    def discount_step(discounted, inputs):
        reward_t, ended_t = inputs
        discounted = agent.config.gamma * discounted + reward_t
        return jnp.where(ended_t, 0.0, discounted), discounted

    last, discounted = jax.lax.scan(discount_step, state.discounted_return, (reward, batch.outcome.ended))
    statistics = update_statistics(state.reward_statistics, discounted, agent.axis_name)
    scaled = jnp.clip(reward * jax.lax.rsqrt(statistics.variance + 1e-8), -10.0, 10.0)
    return scaled, statistics, last


def _observation_statistics(agent: Any, params: Any, batch: Rollout) -> RunningStatistics | None:
    if params.observation_statistics is None:
        return None
    observation = agent.featurizer.observation(batch.timestep.observation)
    return update_statistics(params.observation_statistics, observation, agent.axis_name)


def _minibatch_order(agent: Any, key: Key[Array, ""], num_envs: int) -> Int[Array, "M N"]:
    """Which environments make up each minibatch of the update: every shard gives each the same share.

    A shard's order depends on the key and its global index alone, so that W devices with B environments each and one
    with W B in W shards draw the same minibatches.
    """
    config, num_shards = agent.config, agent.num_shards
    per_shard = num_envs // num_shards
    first_shard = 0 if agent.axis_name is None else jax.lax.axis_index(agent.axis_name) * num_shards

    def shard_order(shard):
        keys = jax.random.split(jax.random.fold_in(key, first_shard + shard), config.num_epochs)
        order = jax.vmap(lambda k: jax.random.permutation(k, per_shard))(keys)
        return shard * per_shard + order.reshape(config.num_epochs * config.num_minibatches, -1)

    return jnp.concatenate([shard_order(shard) for shard in range(num_shards)], axis=1)


def _applied_mean(values: Float[Array, " M"], applied: Array) -> Float[Array, ""]:
    """The mean over the minibatches applied; over all where the first one already stopped the update."""
    weight = jnp.where(applied.any(), applied, True).astype(values.dtype)
    return jnp.sum(jnp.where(weight > 0, values, 0.0)) / weight.sum()


def _explained_variance(targets: Targets, axis_name: str | None) -> Float[Array, ""]:
    """`1 - var(value_target - value) / var(value_target)`."""
    both = jnp.stack([targets.value_target - targets.value, targets.value_target])
    centred = both - pmean(both.mean((1, 2)), axis_name)[:, None, None]
    unexplained, total = pmean(jnp.square(centred).mean((1, 2)), axis_name)
    return 1.0 - unexplained / (total + 1e-8)
