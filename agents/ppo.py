"""Recurrent PPO over any memory: whole-rollout backpropagation through the memory from a stored carry.

Legend: `T` steps of a rollout, `B` environments, `F` features. Sources: Schulman et al. 2017 (PPO); Lu et al. 2023
(structured state-space models for in-context reinforcement learning) for the network and the resets inside the rollout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Key
from typing_extensions import Doc

from hippodrome.envs import Timestep
from hippodrome.memory import build_memory

from .core import Decision, Rollout, register_agent
from .distributions import ActionDistribution
from .networks import ActorCritic, Branch, Featurizer, PolicyInput
from .normalization import RunningStatistics, initial_statistics, normalize
from .optimizers import Schedule, coefficient_schedule, make_optimizer
from .ppo_update import learn

_ACTIVATIONS = {"relu": nn.relu, "leaky_relu": nn.leaky_relu, "tanh": nn.tanh, "gelu": nn.gelu, "silu": nn.silu}


@dataclass(frozen=True)
class PPOConfig:
    """Recurrent PPO; the names are the field's."""

    kind: Literal["ppo"] = "ppo"
    num_steps: Annotated[int, Doc("steps of a rollout, per environment")] = 128
    num_epochs: Annotated[int, Doc("passes over a rollout")] = 4
    num_minibatches: Annotated[int, Doc("parts a pass is split in, by environments")] = 8
    learning_rate: Annotated[float, Doc("of Adam")] = 3e-4
    learning_rate_schedule: Annotated[Schedule, Doc("how it goes over the run")] = "constant"
    warmup_updates: Annotated[int, Doc("updates over which the learning rate rises from 0")] = 0
    ssm_learning_rate_factor: Annotated[float, Doc("times the learning rate, for state-space parameters")] = 1.0
    weight_decay: Annotated[float, Doc("decoupled; none for state-space parameters")] = 0.0
    adam_eps: Annotated[float, Doc("epsilon of Adam")] = 1e-5
    max_grad_norm: Annotated[float, Doc("the gradient is clipped to this norm")] = 0.5
    gamma: Annotated[float, Doc("discount")] = 0.99
    gae_lambda: Annotated[float, Doc("0 is one-step TD, 1 is Monte Carlo")] = 0.95
    clip_eps: Annotated[float, Doc("the probability ratio is clipped to 1 +- this")] = 0.2
    dual_clip: Annotated[float | None, Doc("bound of the surrogate at negative advantages, above 1")] = None
    value_coef: Annotated[float, Doc("weight of the value loss")] = 0.5
    value_loss: Annotated[Literal["mse", "huber"], Doc("error of the value")] = "mse"
    value_clip_eps: Annotated[float | None, Doc("how far from the old value its loss lets it go")] = None
    entropy_coef: Annotated[float, Doc("weight of the entropy bonus")] = 0.0
    entropy_schedule: Annotated[Schedule, Doc("how it goes over the run")] = "constant"
    normalize_advantage: Annotated[Literal["minibatch", "batch", "none"], Doc("over what")] = "minibatch"
    target_kl: Annotated[float | None, Doc("an update stops once approx_kl passes 1.5 times this")] = None
    truncation_is_terminal: Annotated[bool, Doc("no bootstrap at a time limit, as papers that merged the two")] = False
    normalize_observation: Annotated[bool, Doc("running mean and variance of continuous observations")] = False
    normalize_reward: Annotated[bool, Doc("divide by the running deviation of the discounted return")] = False
    share_memory: Annotated[bool, Doc("actor and critic over one memory")] = True
    inputs: Annotated[tuple[PolicyInput, ...], Doc("what the policy sees beside the observation")] = (
        "previous_action",
        "previous_reward",
        "first_step",
    )
    encoder_sizes: Annotated[tuple[int, ...], Doc("widths of the encoder; none given: no encoder")] = (128,)
    head_sizes: Annotated[tuple[int, ...], Doc("hidden widths of actor and critic heads")] = (128,)
    activation: Annotated[Literal["relu", "leaky_relu", "tanh", "gelu", "silu"], Doc("of encoder and heads")] = "silu"
    initial_log_std: Annotated[float, Doc("of a Gaussian policy, in units where the bounds are -1 and 1")] = 0.0
    state_dependent_std: Annotated[bool, Doc("the policy head gives the deviation of Box actions too")] = False
    precision: Annotated[Literal["float32", "bfloat16"], Doc("of activations; parameters stay float32")] = "float32"

    def __post_init__(self) -> None:
        errors = [
            f"{name}={getattr(self, name)} must be {rule}"
            for name, rule, holds in (
                *((name, "at least 1", lambda v: v >= 1) for name in ("num_steps", "num_epochs", "num_minibatches")),
                *((name, "positive", lambda v: v > 0) for name in ("learning_rate", "adam_eps", "max_grad_norm")),
                *((name, "between 0 and 1", lambda v: 0 <= v <= 1) for name in ("gamma", "gae_lambda")),
                ("clip_eps", "positive", lambda v: v > 0),
                ("dual_clip", "above 1, or null", lambda v: v is None or v > 1),
                ("value_clip_eps", "positive, or null", lambda v: v is None or v > 0),
                ("target_kl", "positive, or null", lambda v: v is None or v > 0),
                ("warmup_updates", "at least 0", lambda v: v >= 0),
                ("weight_decay", "at least 0", lambda v: v >= 0),
                ("ssm_learning_rate_factor", "at least 0", lambda v: v >= 0),
                ("encoder_sizes", "positive widths", lambda v: all(size >= 1 for size in v)),
                ("head_sizes", "positive widths", lambda v: all(size >= 1 for size in v)),
            )
            if not holds(getattr(self, name))
        ]
        if errors:
            raise ValueError("; ".join(errors))


@struct.dataclass
class PPOParams:
    """What a policy needs: the network's parameters and the statistics its observations are normalised with."""

    network: Any
    observation_statistics: RunningStatistics | None


@struct.dataclass
class PPOState:
    """The learner's state.

    Attributes:
        params: see `PPOParams`.
        optimizer: optax state.
        reward_statistics: of the discounted return; None unless rewards are normalised.
        discounted_return: float32 `[B]`; the running discounted return of each environment, likewise.
    """

    params: PPOParams
    optimizer: Any
    reward_statistics: RunningStatistics | None
    discounted_return: Float[Array, " B"] | None


@register_agent("ppo", PPOConfig)
class PPO:
    """Recurrent PPO (see the agent protocol in `core.py`).

    Args:
        config: hyper-parameters.
        memory_config: of the memory; with `share_memory` False, actor and critic have one each.
        observation_space: any space the featurizer encodes.
        action_space: any space `ActionDistribution` takes.
        num_updates: updates of the whole run, for the schedules.
        axis_name: device axis that gradients and statistics are averaged over; None on one device.
        num_shards: how many parts of the environments take an equal share of every minibatch; the shards of this
            process where `axis_name` is given.
    """

    shape_fields = ("encoder_sizes", "head_sizes", "share_memory", "inputs")

    def __init__(
        self,
        config: PPOConfig,
        memory_config: Any,
        observation_space: Any,
        action_space: Any,
        *,
        num_updates: int,
        axis_name: str | None = None,
        num_shards: int = 1,
    ):
        self.config = config
        self.axis_name = axis_name
        self.num_shards = num_shards
        self.featurizer = Featurizer(observation_space, action_space, config.inputs)
        self.distribution = ActionDistribution(action_space)
        self.observation_space = observation_space
        self.action_space = action_space
        self.dtype = jnp.dtype(config.precision)
        self.network = _network(config, memory_config, self.distribution, self.dtype)
        steps_per_update = config.num_epochs * config.num_minibatches
        self.schedule = coefficient_schedule(
            config.learning_rate_schedule,
            config.learning_rate,
            config.warmup_updates * steps_per_update,
            num_updates * steps_per_update,
        )
        self.entropy_schedule = coefficient_schedule(
            config.entropy_schedule, config.entropy_coef, 0, num_updates * steps_per_update
        )
        self.optimizer = make_optimizer(
            self.schedule,
            max_grad_norm=config.max_grad_norm,
            adam_eps=config.adam_eps,
            weight_decay=config.weight_decay,
            ssm_learning_rate_factor=config.ssm_learning_rate_factor,
        )

    def init(self, key: Key[Array, ""], num_envs: int) -> PPOState:
        """Fresh parameters, optimiser and statistics."""
        num_features = self.featurizer.num_features
        features = jnp.zeros((1, 1, num_features), self.dtype)
        network = self.network.init(key, self.initial_carry(1), features, jnp.ones((1, 1), bool))
        observation_statistics = (
            initial_statistics((self.featurizer.num_observation_features,))
            if self.config.normalize_observation
            else None
        )
        normalizes_reward = self.config.normalize_reward
        return PPOState(
            params=PPOParams(network, observation_statistics),
            optimizer=self.optimizer.init(network["params"]),
            reward_statistics=initial_statistics(()) if normalizes_reward else None,
            discounted_return=jnp.zeros(num_envs) if normalizes_reward else None,
        )

    def initial_carry(self, num_envs: int) -> Any:
        """Zeros, no parameters needed; a stream begins with `reset` True."""
        return self.network.initial_carry((num_envs,))

    def act(
        self, params: PPOParams, carry: Any, timestep: Timestep, key: Key[Array, " B"], *, deterministic: bool = False
    ) -> tuple[Any, Decision]:
        """Samples (or takes the mode of) the policy; `key` holds one key per environment, unused if deterministic."""
        carry, outputs, log_std, value = self._step(params, carry, timestep)
        if deterministic:
            action = self.distribution.mode(outputs, log_std)
        else:
            action = jax.vmap(self.distribution.sample)(outputs, log_std, key)
        log_prob = self.distribution.log_prob(outputs, log_std, action)
        return carry, Decision(action, self.distribution.to_env(action), log_prob, value)

    def value(self, params: PPOParams, carry: Any, timestep: Timestep) -> Float[Array, " B"]:
        """V(observation) under this carry."""
        return self._step(params, carry, timestep)[3]

    def _step(self, params: PPOParams, carry: Any, timestep: Timestep) -> tuple[Any, Array, Array, Array]:
        """One step of the network: the carry, the policy head's output, log_std and the value."""
        features = self.features(params, timestep)
        # Any: flax's type of `apply` leaves open whether the outputs come with a state.
        outputs: Any = self.network.apply(params.network, carry, features, timestep.reset, method="step")
        return outputs

    def features(self, params: PPOParams, timestep: Timestep) -> Float[Array, "... F"]:
        """The network's input: the observation (normalised where asked) and the policy inputs."""
        observation = self.featurizer.observation(timestep.observation)
        if params.observation_statistics is not None:
            scaled = normalize(params.observation_statistics, observation)
            observation = jnp.where(self.featurizer.is_continuous, scaled, observation)
        parts = [observation, *self.featurizer.policy_inputs(timestep)]
        return jnp.concatenate(parts, axis=-1).astype(self.dtype)

    def learn(self, state: PPOState, batch: Rollout, key: Key[Array, ""]) -> tuple[PPOState, dict]:
        """`num_epochs` passes over the rollout in `num_minibatches` parts each; see `ppo_update.py`."""
        return learn(self, state, batch, key)

    def state_partition(self, split: PartitionSpec) -> Any:
        """Only the running discounted returns belong to environments; the rest is the same on every device."""
        everywhere = PartitionSpec()
        prefix: Callable[..., Any] = PPOState  # of specs, each in place of arrays
        return prefix(everywhere, everywhere, everywhere, split)


def _network(config: PPOConfig, memory_config: Any, distribution: ActionDistribution, dtype: Any) -> ActorCritic:
    num_outputs = distribution.num_outputs + config.state_dependent_std * distribution.num_log_stds
    heads = {"policy": (num_outputs, 0.01)}
    value_head = {"value": (1, 1.0)}
    shared = dict(
        encoder_sizes=config.encoder_sizes,
        head_sizes=config.head_sizes,
        activation=_ACTIVATIONS[config.activation],
        dtype=dtype,
    )
    if config.share_memory:
        actor, critic = Branch(build_memory(memory_config), outputs={**heads, **value_head}, **shared), None
    else:
        actor = Branch(build_memory(memory_config), outputs=heads, **shared)
        critic = Branch(build_memory(memory_config), outputs=value_head, **shared)
    return ActorCritic(actor, critic, distribution.num_log_stds, config.initial_log_std, config.state_dependent_std)
