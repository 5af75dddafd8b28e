"""Dreamer over any memory.

Legend: `L` steps of a window, `N` windows, `B` environments, `K` steps between stored carries. Sources: Hafner et al.
2023 (DreamerV3); Samsami et al. 2024 (R2I) for state-space memories with parallel posteriors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key

from hippodrome.agents.core import Decision, Feedback, ReplayBatch, register_agent
from hippodrome.agents.distributions import ActionDistribution
from hippodrome.agents.normalization import pmean
from hippodrome.envs import Timestep, flat_spaces
from hippodrome.envs.encoding import encode_action, space_width
from hippodrome.memory import build_memory
from hippodrome.memory.latents import gumbel_noise
from hippodrome.memory.rssm import RSSM, RSSMCarry, memory_view

from .actor import policy_parameters
from .behaviour import actor_critic_losses, imagine, percentile_range, replay_critic_loss, starting_points
from .config import SHAPE_FIELDS, DreamerConfig
from .networks import build_modules, has_images, observation_problems
from .optimizer import laprop
from .twohot import two_hot_mean, value_bins
from .world_model import weighted_sum, world_model_loss


@struct.dataclass
class DreamerState:
    """The learner's state.

    Attributes:
        params: variables of each module by name.
        slow_critic: the average of the critic's.
        target: averages of encoder, rssm and projection; () where none are kept.
        optimizer: optax state.
        return_low, return_high: averages of the 5th and 95th percentile of imagined returns.
        reward_range: the smallest and the largest reward replayed so far.
        updates: int32; updates done.
    """

    params: dict[str, Any]
    slow_critic: Any
    target: Any
    optimizer: Any
    return_low: Float[Array, ""]
    return_high: Float[Array, ""]
    reward_range: tuple[Float[Array, ""], Float[Array, ""]]
    updates: Array


@register_agent("dreamer", DreamerConfig)
class Dreamer:
    """A world model learnt from replay, an actor and a critic learnt in it (see the agent protocol in `core.py`).

    Args:
        config: hyper-parameters.
        memory_config: of the sequence model.
        observation_space: Discrete, MultiDiscrete, Box (uint8 images `[height, width, channels]`), Dict or Tuple of
            them.
        action_space: any space `ActionDistribution` takes.
        num_updates: not used: the learning rate does not depend on the length of the run.
        axis_name: axes of devices and shards that gradients are averaged over; None where there is one of each.
        num_shards: not used: a batch of windows is of one shard.

    Raises:
        ValueError: for a space it cannot encode, or a `mask_ratio` without a picture to hide.
    """

    learns_from_replay = True
    shape_fields = SHAPE_FIELDS

    def __init__(
        self,
        config: DreamerConfig,
        memory_config: Any,
        observation_space: Any,
        action_space: Any,
        *,
        num_updates: int = 1,
        axis_name: str | tuple[str, ...] | None = None,
        num_shards: int = 1,
    ):
        del num_updates, num_shards
        problems = observation_problems(observation_space)
        if config.mask_ratio and not has_images(observation_space):
            problems.append(
                f"mask_ratio={config.mask_ratio} must be 0 with the observation space {observation_space!r}, which "
                "has no pictures to hide: leave agent.mask_ratio out"
            )
        if problems:
            raise ValueError("; ".join(problems))
        self.config = config
        self.axis_name = axis_name
        self.observation_space = observation_space
        self.action_space = action_space
        self.distribution = ActionDistribution(action_space)
        self.bins = config.reward_unit * value_bins(config.value_bins)
        self.rssm = RSSM(
            build_memory(memory_config),
            groups=config.latent_groups,
            classes=config.latent_classes,
            hidden=config.hidden,
            posterior=config.posterior,
            mix=config.uniform_mix,
        )
        num_outputs = self.distribution.num_outputs + self.distribution.num_log_stds
        self.modules = build_modules(config, observation_space, num_outputs)
        self.optimizer = laprop(config.learning_rate, config.warmup_updates, config.gradient_clip)
        self._action_leaves = flat_spaces(action_space)
        self._action_width = space_width(action_space)

    def init(self, key: Key[Array, ""], num_envs: int) -> DreamerState:
        """Fresh parameters and optimiser."""
        del num_envs
        keys = dict(zip([*self.modules, "rssm", "space"], jax.random.split(key, len(self.modules) + 2), strict=True))
        sample = jax.tree.map(lambda leaf: leaf[None, None], self.observation_space.sample(keys["space"]))
        carry = self.rssm.initial_carry((1,))
        encoder = self.modules["encoder"]
        params = {"encoder": encoder.init(keys["encoder"], sample)}
        embedding: Any = encoder.apply(params["encoder"], sample)
        action, reset = jnp.zeros((1, 1, self._action_width)), jnp.ones((1, 1), bool)
        noise = jnp.zeros(self.rssm.noise_shape(1, 1))
        params["rssm"] = self.rssm.init(keys["rssm"], carry, embedding, action, reset, noise, method="observe")
        deter = jnp.zeros((1, self.rssm.memory.d_model))
        features = jnp.concatenate([deter, carry.stoch], axis=-1)
        inputs = {"actor": self.actor_features(carry, deter), "embedding_projection": embedding[0]}
        for name in self.modules:
            if name != "encoder":
                params[name] = self.modules[name].init(keys[name], inputs.get(name, features))
        return DreamerState(
            params=params,
            slow_critic=jax.tree.map(jnp.copy, params["critic"]),
            target=jax.tree.map(jnp.copy, self._averaged(params)),
            optimizer=self.optimizer.init(params),
            return_low=jnp.zeros(()),
            return_high=jnp.zeros(()),
            reward_range=(jnp.full((), jnp.inf, jnp.float32), jnp.full((), -jnp.inf, jnp.float32)),
            updates=jnp.zeros((), jnp.int32),
        )

    def with_params(self, state: DreamerState, params: dict[str, Any]) -> DreamerState:
        """A fresh state with other parameters: the averages of critic, encoder and rssm begin at them too."""
        return dataclasses.replace(
            state,
            params=params,
            slow_critic=jax.tree.map(jnp.copy, params["critic"]),
            target=jax.tree.map(jnp.copy, self._averaged(params)),
        )

    def initial_carry(self, num_envs: int) -> RSSMCarry:
        """Zeros; a stream begins with `reset` True."""
        return self.rssm.initial_carry((num_envs,))

    def act(
        self, params: Any, carry: RSSMCarry, timestep: Timestep, key: Key[Array, " B"], *, deterministic: bool = False
    ) -> tuple[RSSMCarry, Decision]:
        """Samples latent and action; deterministic takes the most likely of both."""
        latent_key, action_key = jax.vmap(lambda k: tuple(jax.random.split(k)))(key)
        noise = None
        if not deterministic:
            noise = jax.vmap(lambda k: gumbel_noise(k, self.rssm.noise_shape()))(latent_key)
        carry, latents = self._observe(params, carry, timestep, noise)
        outputs, log_std = self.policy(params, self.actor_features(carry, latents.deter))
        if deterministic:
            action = self.distribution.mode(outputs, log_std)
        else:
            action = jax.vmap(self.distribution.sample)(outputs, log_std, action_key)
        log_prob = self.distribution.log_prob(outputs, log_std, action)
        value = two_hot_mean(self.apply("critic", params, latents.features), self.bins)
        return carry, Decision(action, self.distribution.to_env(action), log_prob, value)

    def value(self, params: Any, carry: RSSMCarry, timestep: Timestep) -> Float[Array, " B"]:
        """V(observation) under this carry and the most likely latent."""
        _, latents = self._observe(params, carry, timestep, None)
        return two_hot_mean(self.apply("critic", params, latents.features), self.bins)

    def learn(
        self, state: DreamerState, batch: ReplayBatch, key: Key[Array, ""]
    ) -> tuple[DreamerState, dict[str, Float[Array, ""]], Feedback]:
        """One update of everything from replayed windows; what replay is to keep of it comes beside."""
        reward_range = self._reward_range(state, batch)
        grads, (metrics, feedback, returns) = jax.grad(self._loss, has_aux=True)(
            state.params, state, reward_range, batch, key
        )
        grads, metrics = pmean((grads, metrics), self.axis_name)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        config = self.config
        low, high = percentile_range(state.return_low, state.return_high, returns, config.return_rate, self.axis_name)
        state = DreamerState(
            params=params,
            slow_critic=_moved(state.slow_critic, params["critic"], config.slow_critic_rate),
            target=_moved(state.target, self._averaged(params), config.target_rate),
            optimizer=optimizer,
            return_low=low,
            return_high=high,
            reward_range=reward_range,
            updates=state.updates + 1,
        )
        return state, metrics, feedback

    def _loss(self, params, state, reward_range, batch, key):
        config = self.config
        model_key, imagine_key = jax.random.split(key)
        model_loss, (model_losses, metrics, beliefs) = world_model_loss(
            self, params, state.target, reward_range, batch, model_key
        )
        carry, deter = starting_points(self, beliefs)
        imagined = imagine(self, params, carry, deter, imagine_key)
        stride = config.imagination_stride
        start = config.gamma * (1.0 - batch.steps.terminal[stride - 1 :: stride].reshape(-1))
        low, high = state.return_low, state.return_high
        scale = jnp.maximum(config.reward_unit, high - low)
        # The world model learns from replay alone: its heads' parameters are constants in imagination.
        frozen = {**jax.lax.stop_gradient(params), "actor": params["actor"], "critic": params["critic"]}
        losses, returns, behaviour_metrics = actor_critic_losses(
            self, frozen, state.slow_critic, scale, imagined, start
        )
        replay_critic = replay_critic_loss(self, params, state.slow_critic, beliefs, batch.steps, returns)
        means = {name: term.mean() for name, term in {**model_losses, **losses, "replay_critic": replay_critic}.items()}
        total = model_loss + means["actor"] + means["critic"] + config.replay_value_coef * means["replay_critic"]
        metrics |= {f"{name}_loss": mean for name, mean in means.items()} | behaviour_metrics | {"loss": total}
        priority = weighted_sum(config, model_losses).mean(0)
        return total, (metrics, self._feedback(beliefs, priority), returns)

    def _feedback(self, beliefs, priority) -> Feedback:
        config = self.config
        every = config.carry_steps // config.imagination_stride
        return jax.lax.stop_gradient(
            Feedback(jax.tree.map(lambda leaf: leaf[every - 1 :: every], beliefs.carries), priority)
        )

    def _averaged(self, params: dict[str, Any]) -> Any:
        """What of the parameters the raw branch has averages of."""
        if not self.config.has_target:
            return ()
        return {name: params[name] for name in ("encoder", "rssm", "projection") if name in params}

    def _reward_range(self, state: DreamerState, batch: ReplayBatch) -> tuple[Array, Array]:
        reward, (low, high) = batch.steps.reward, state.reward_range
        found = jnp.minimum(low, reward.min()), jnp.maximum(high, reward.max())
        if self.axis_name is None:
            return found
        return jax.lax.pmin(found[0], self.axis_name), jax.lax.pmax(found[1], self.axis_name)

    def state_partition(self, split: PartitionSpec) -> Any:
        """The same on every device."""
        del split
        return PartitionSpec()

    def apply(self, name: str, params: Any, *args: Any) -> Any:
        """A module by name."""
        return self.modules[name].apply(params[name], *args)

    def encode_actions(self, action: Any) -> Float[Array, "... A"]:
        """Environment actions as the world model sees them."""
        leaves = jax.tree.leaves(action)
        return jnp.concatenate(
            [encode_action(leaf, value) for leaf, value in zip(self._action_leaves, leaves, strict=True)], axis=-1
        )

    def actor_features(self, carry: RSSMCarry, deter: Float[Array, "*B D"]) -> Float[Array, "*B F"]:
        """What the actor sees, by `actor_input`."""
        choice = self.config.actor_input
        parts = [carry.stoch]
        if choice != "hidden":
            parts.append(deter)
        if choice != "output":
            parts.append(memory_view(carry))
        return jnp.concatenate(parts, axis=-1)

    def policy(self, params: Any, actor_features: Float[Array, "... F"]) -> tuple[Array, Array]:
        """The parameters of the action distribution."""
        outputs = self.apply("actor", params, actor_features)
        return policy_parameters(self.distribution, outputs, self.config.uniform_mix)

    def _observe(self, params: Any, carry: RSSMCarry, timestep: Timestep, noise: Any) -> tuple[RSSMCarry, Any]:
        embedding = self.apply("encoder", params, timestep.observation)
        action = self.encode_actions(timestep.previous_action)
        step: Callable[..., Any] = self.rssm.apply
        return step(params["rssm"], carry, embedding, action, timestep.reset, noise, method="step")


def _moved(average: Any, new: Any, rate: float) -> Any:
    return jax.tree.map(lambda old, now: old + rate * (now - old), average, new)
