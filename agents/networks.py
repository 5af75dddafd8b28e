"""From a timestep to policy and value: features, encoder, memory, heads.

Legend: `T` steps, `B` environments, `F` features, `A` policy head width.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from hippodrome.envs import Box, Discrete, MultiDiscrete, Timestep, flat_spaces, part_names
from hippodrome.envs.encoding import encode, encode_action, encoded_width, space_width

# Of log standard deviations that depend on the state: a ratio of densities stays a number.
LOG_STD_RANGE = (-5.0, 2.0)

PolicyInput = Literal["previous_action", "previous_reward", "first_step"]


class Featurizer:
    """Any timestep as one flat float32 vector: discrete parts one-hot, Box parts as they are (uint8 divided by 255).

    The vector is the observation followed by the policy inputs named: previous action (null is all zeros; Box actions
    scaled so that the bounds are -1 and 1), previous reward, first-step flag.

    Args:
        observation_space: any space of `hippodrome.envs`.
        action_space: likewise.
        inputs: which of the policy inputs to append, in this order.

    Raises:
        ValueError: for an observation space it cannot encode.
    """

    def __init__(self, observation_space: Any, action_space: Any, inputs: Sequence[PolicyInput]):
        self.observation_space = observation_space
        observation_leaves = flat_spaces(observation_space)
        self.action_leaves = flat_spaces(action_space)
        self.inputs = tuple(inputs)
        for where, leaf in part_names(observation_space):
            if not isinstance(leaf, Discrete | MultiDiscrete | Box):
                raise ValueError(
                    f"observation space{where} {leaf!r} cannot be encoded; use Discrete, MultiDiscrete, Box, or a "
                    "Tuple or Dict of them"
                )
        self.num_observation_features = space_width(observation_space)
        input_widths = {
            "previous_action": space_width(action_space),
            "previous_reward": 1,
            "first_step": 1,
        }
        self.num_features = self.num_observation_features + sum(input_widths[name] for name in self.inputs)
        # Only continuous features are normalised: a one-hot keeps its meaning.
        self.is_continuous = np.concatenate(
            [np.full(encoded_width(leaf), isinstance(leaf, Box)) for leaf in observation_leaves]
        )

    def observation(self, observation: Any) -> Float[Array, "... F"]:
        """The observation part alone."""
        return encode(self.observation_space, observation)

    def policy_inputs(self, timestep: Timestep) -> list[Float[Array, "... K"]]:
        """The policy inputs to append."""
        available = {
            "previous_action": lambda: [
                encode_action(leaf, value)
                for leaf, value in zip(self.action_leaves, jax.tree.leaves(timestep.previous_action), strict=True)
            ],
            "previous_reward": lambda: [timestep.previous_reward[..., None]],
            "first_step": lambda: [timestep.reset[..., None].astype(jnp.float32)],
        }
        return [part for name in self.inputs for part in available[name]()]


class MLP(nn.Module):
    """Dense layers with an activation after each; orthogonal initialisation of gain sqrt(2).

    Attributes:
        sizes: width of each layer.
        activation: applied after each.
        dtype: of the computation; parameters are float32.
    """

    sizes: Sequence[int]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... F"]) -> Float[Array, "... D"]:
        """Maps the last axis."""
        for size in self.sizes:
            x = nn.Dense(size, kernel_init=nn.initializers.orthogonal(math.sqrt(2)), dtype=self.dtype)(x)
            x = self.activation(x)
        return x


class Branch(nn.Module):
    """Encoder, memory and one or more heads: features to head outputs, by the memory contract.

    Attributes:
        memory: a module of the memory contract.
        encoder_sizes: widths of the encoder's layers.
        head_sizes: widths of the hidden layers of each head.
        outputs: name -> (width, gain of the last layer's orthogonal initialisation) of each head.
        activation: of encoder and heads.
        dtype: of encoder and heads; head outputs are float32.
    """

    memory: nn.Module
    encoder_sizes: Sequence[int]
    head_sizes: Sequence[int]
    outputs: dict[str, tuple[int, float]]
    activation: Callable[[jax.Array], jax.Array]
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder = MLP(self.encoder_sizes, self.activation, self.dtype)
        self.heads = {name: MLP(self.head_sizes, self.activation, self.dtype) for name in self.outputs}
        self.last = {
            name: nn.Dense(width, kernel_init=nn.initializers.orthogonal(gain), dtype=self.dtype)
            for name, (width, gain) in self.outputs.items()
        }

    def __call__(
        self, carry: Any, features: Float[Array, "T B F"], reset: Bool[Array, "T B"]
    ) -> tuple[Any, dict[str, Float[Array, "T B N"]]]:
        """A whole sequence."""
        carry, y = self.memory(carry, self.encoder(features), reset)
        return carry, self._read(y)

    def step(
        self, carry: Any, features: Float[Array, "B F"], reset: Bool[Array, " B"]
    ) -> tuple[Any, dict[str, Float[Array, "B N"]]]:
        """One step of the same."""
        carry, y = self.memory.step(carry, self.encoder(features), reset)
        return carry, self._read(y)

    def _read(self, y: jax.Array) -> dict[str, jax.Array]:
        return {name: self.last[name](self.heads[name](y)).astype(jnp.float32) for name in self.outputs}


class ActorCritic(nn.Module):
    """Policy and value over one shared memory, or over one memory each.

    Attributes:
        actor: the branch with the head "policy", and "value" too where `critic` is None.
        critic: the branch with the head "value".
        num_log_stds: log standard deviations of the policy (Box actions).
        initial_log_std: what they start at.
        state_dependent_std: they are the last outputs of the head "policy", within `LOG_STD_RANGE`, in place of
            parameters of their own.
    """

    actor: Branch
    critic: Branch | None
    num_log_stds: int
    initial_log_std: float
    state_dependent_std: bool = False

    def setup(self) -> None:
        if not self.state_dependent_std:
            self.log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (self.num_log_stds,))

    def __call__(self, carry: Any, features: Float[Array, "T B F"], reset: Bool[Array, "T B"]):
        """Returns (carry, policy outputs [T, B, A], log_std [T, B, S], value [T, B])."""
        return self._run(carry, features, reset, "__call__")

    def step(self, carry: Any, features: Float[Array, "B F"], reset: Bool[Array, " B"]):
        """One step of the same: policy outputs [B, A], log_std [B, S], value [B]."""
        return self._run(carry, features, reset, "step")

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Any:
        """A pair (actor's carry, critic's carry or ())."""
        critic_carry = () if self.critic is None else self.critic.memory.initial_carry(batch_shape)
        return self.actor.memory.initial_carry(batch_shape), critic_carry

    def _run(self, carry: Any, features: jax.Array, reset: jax.Array, method: str):
        actor_carry, critic_carry = carry
        actor_carry, heads = getattr(self.actor, method)(actor_carry, features, reset)
        if self.critic is None:
            value = heads["value"]
        else:
            critic_carry, critic_heads = getattr(self.critic, method)(critic_carry, features, reset)
            value = critic_heads["value"]
        outputs, log_std = self._policy(heads["policy"])
        return (actor_carry, critic_carry), outputs, log_std, value[..., 0]

    def _policy(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.state_dependent_std:
            outputs, log_std = jnp.split(outputs, [outputs.shape[-1] - self.num_log_stds], axis=-1)
            return outputs, jnp.clip(self.initial_log_std + log_std, *LOG_STD_RANGE)
        return outputs, jnp.broadcast_to(self.log_std, (*outputs.shape[:-1], self.num_log_stds))
