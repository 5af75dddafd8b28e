"""A trained agent as a policy anybody can call: one step in, one action out; and policies of one's own by name.

Legend: `B` environments.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Key

from hippodrome.agents import Agent
from hippodrome.envs import Box, Timestep, check_batch, null_action, part_names
from hippodrome.training.errors import ConfigError


@struct.dataclass
class PolicyCarry:
    """What a policy remembers between steps: the agent's carry and the action it took last (`[B, ...]`)."""

    memory: Any
    previous_action: Any


class Policy:
    """A trained agent with its parameters.

    `carry, action = policy(carry, observation, reward, reset, key=None)`: `reset` is True where `observation` is the
    first of an episode (all True at the first call); `reward` is what the last action yielded, ignored where `reset`.
    The step is jitted on first use; it can also be traced inside a jitted function.

    Args:
        agent: its pure functions.
        params: its parameters.
        observation_space, action_space: of the environment, to check what is given and for the null action.
    """

    def __init__(self, agent: Agent, params: Any, observation_space: Any, action_space: Any):
        self.agent = agent
        self.params = params
        self.observation_space = observation_space
        self.action_space = action_space

    def initial_carry(self, num_envs: int) -> PolicyCarry:
        """The carry before the first step. Raises ValueError for fewer than one environment."""
        if not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs={num_envs!r} must be an integer of at least 1")
        null = null_action(self.action_space)
        repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_envs, *leaf.shape)), null)
        return PolicyCarry(self.agent.initial_carry(num_envs), repeated)

    def __call__(
        self,
        carry: PolicyCarry,
        observation: Any,
        reward: Float[Array, " B"],
        reset: Bool[Array, " B"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[PolicyCarry, Any]:
        """One step: the carry to hand on and the action for the environment, leaves `[B, ...]`.

        Args:
            carry: from `initial_carry` or the last call.
            observation: leaves `[B, ...]`.
            reward: `[B]`.
            reset: bool `[B]`.
            key: to sample the action; without one it is the most likely one.

        Raises:
            ValueError: if `carry` is not one of this policy's, `reset` or `reward` has not one number for each of its
                environments, `observation` is not an element of the space for each, or it holds a number that is not
                finite or out of a discrete space or a picture's range (judged where it is in host memory, and not
                while it is traced).
        """
        if not isinstance(carry, PolicyCarry):
            raise ValueError(f"carry is a {type(carry).__name__}; begin with that of initial_carry(num_envs)")
        if jnp.issubdtype(jnp.result_type(reset), jnp.inexact):
            raise ValueError(f"reset has dtype {jnp.result_type(reset)}, expected bool")
        reset = jnp.asarray(reset, bool)
        num_envs = jax.tree.leaves(carry.previous_action)[0].shape[0]
        if reset.shape != (num_envs,):
            raise ValueError(f"reset has shape {reset.shape}, expected ({num_envs},), one flag for each environment")
        check_batch("observation", observation, self.observation_space, num_envs)
        if jnp.shape(reward) != (num_envs,):
            raise ValueError(f"reward has shape {jnp.shape(reward)}, expected ({num_envs},), one for each environment")
        _require_values(observation, self.observation_space)
        return _step(self.agent, self.action_space, self.params, carry, observation, reward, reset, key)


def load_callable(target: str, env: str) -> Any:
    """The policy that `module:policy` names, for an environment. Raises ConfigError if it lacks the protocol."""
    module_name, _, attribute = target.partition(":")
    try:
        policy = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{target!r} names no policy: {error}; write module:policy, importable from here") from error
    is_factory = isinstance(policy, type) or not hasattr(policy, "initial_carry")
    if is_factory and callable(policy):
        policy = policy(env=env) if _takes_env(policy) else policy()
    if not (callable(policy) and hasattr(policy, "initial_carry")):
        raise ConfigError(
            f"{target!r} must have initial_carry(num_envs) and be called as policy(carry, observation, reward, reset, "
            "key=None) -> (carry, action)"
        )
    return policy


def _takes_env(factory: Callable) -> bool:
    """Whether it has a parameter `env`."""
    try:
        return "env" in inspect.signature(factory).parameters
    except ValueError:  # a builtin without a signature
        return False


def _require_values(observation: Any, space: Any) -> None:
    """Raise ValueError for a number that cannot be one of its part; what must be fetched is not looked at."""
    for (where, part), leaf in zip(part_names(space), jax.tree.leaves(observation), strict=True):
        if not _in_host_memory(leaf):
            continue
        if jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            _require_range(f"observation{where}", np.asarray(leaf), part)
            continue
        wrong = ~np.isfinite(np.asarray(leaf))
        if wrong.any():
            env = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"observation{where} holds {np.asarray(leaf)[wrong][0]} for environment {env}, but must be finite: the "
                "policy's memory would not be rid of it; mend the environment, or begin a new episode there"
            )


def _require_range(what: str, value: np.ndarray, part: Any) -> None:
    """Raise ValueError for an integer that is no choice of a discrete part, or out of the bounds of whole numbers."""
    low: Any = 0
    if isinstance(part, Box):
        if not jnp.issubdtype(part.dtype, jnp.integer):
            return
        low, high = part.low, part.high
    else:
        high = np.asarray(getattr(part, "nvec", getattr(part, "n", 0))) - 1
    wrong = (value < low) | (value > high)
    if wrong.any():
        env = int(np.argwhere(wrong)[0][0])
        raise ValueError(f"{what} holds {value[wrong][0]} for environment {env}, which is not in {part!r}")


def _in_host_memory(leaf: Any) -> bool:
    if isinstance(leaf, jax.core.Tracer):
        return False
    return not isinstance(leaf, jax.Array) or all(device.platform == "cpu" for device in leaf.devices())


@partial(jax.jit, static_argnums=(0, 1))
def _step(agent, action_space, params, carry, observation, reward, reset, key):
    def where_reset(null, value):
        return jnp.where(reset.reshape(reset.shape + (1,) * (value.ndim - 1)), null, value)

    timestep = Timestep(
        observation=observation,
        reset=reset,
        previous_action=jax.tree.map(where_reset, null_action(action_space), carry.previous_action),
        previous_reward=jnp.where(reset, 0.0, jnp.asarray(reward, jnp.float32)),
    )
    keys = jax.random.split(jax.random.key(0) if key is None else key, reset.shape[0])
    memory, decision = agent.act(params, carry.memory, timestep, keys, deterministic=key is None)
    return PolicyCarry(memory, decision.env_action), decision.env_action
