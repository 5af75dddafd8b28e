"""Acting: an agent in vectorised environments for a number of steps, recorded as a `Rollout` or for replay.

Legend: `T` steps, `B` environments.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Key

from hippodrome.agents import Agent, Decision, ReplayStep, Rollout
from hippodrome.envs import Outcome, Timestep, VectorEnv, VectorState, environment_keys


def collect(
    agent: Agent,
    envs: VectorEnv,
    params: Any,
    envs_state: VectorState,
    carry: Any,
    key: Key[Array, ""],
    *,
    num_steps: int,
    first_env: Int[Array, ""] | int = 0,
    bootstrap_truncation: bool = True,
) -> tuple[VectorState, Any, Rollout]:
    """`num_steps` steps of every environment; returns the environments' state, the carry handed on, and the record.

    Args:
        agent: who acts.
        envs: the environments.
        params: the agent's parameters.
        envs_state: where the environments are.
        carry: the agent's carry before the first step.
        key: of the action noise.
        num_steps: T.
        first_env: global index of the first environment, so that a run split over devices draws the same noise.
        bootstrap_truncation: evaluate V(final_observation) where an episode was cut off, under the carry before the
            reset and with the true previous action and reward; else `final_value` is all zeros.
    """
    num_envs = envs_state.timestep.reset.shape[0]
    envs_state = envs.begin_rollout(envs_state)
    initial_carry = carry

    def env_step(carried, keys):
        envs_state, carry = carried
        timestep = envs_state.timestep
        carry, decision = agent.act(params, carry, timestep, keys)
        envs_state, outcome = envs.step(envs_state, decision.env_action)
        final_value = jnp.zeros(num_envs)
        if bootstrap_truncation and envs.can_truncate:
            final_value = _final_value(agent, params, carry, decision, outcome)
        decision = dataclasses.replace(decision, env_action=None)
        outcome = dataclasses.replace(outcome, final_observation=None)
        return (envs_state, carry), (timestep, decision, outcome, final_value)

    (envs_state, carry), (timestep, decision, outcome, final_value) = jax.lax.scan(
        env_step, (envs_state, carry), _step_keys(key, num_steps, first_env, num_envs)
    )
    last_value = agent.value(params, carry, envs_state.timestep)
    return envs_state, carry, Rollout(timestep, decision, outcome, final_value, last_value, initial_carry)


@struct.dataclass
class Stream:
    """`T` steps of `B` environments as replay takes them: each step, then the one that ended an episode there, if any.

    Attributes:
        steps: leaves `[2T, B, ...]`.
        valid: bool `[2T, B]`; whether there is such a step.
        carries: the agent's carry from before each, leaves `[2T, B, ...]`.
    """

    steps: ReplayStep
    valid: Bool[Array, "2T B"]
    carries: Any


def record(
    agent: Agent,
    envs: VectorEnv,
    params: Any,
    envs_state: VectorState,
    carry: Any,
    key: Key[Array, ""],
    *,
    num_steps: int,
    first_env: Int[Array, ""] | int = 0,
) -> tuple[VectorState, Any, Stream, Outcome]:
    """`num_steps` steps of every environment for replay; arguments as of `collect`.

    Returns:
        The environments' state, the carry handed on, the steps, and the outcomes `[T, B]` without final observations.
    """
    num_envs = envs_state.timestep.reset.shape[0]
    envs_state = envs.begin_rollout(envs_state)

    def env_step(carried, keys):
        envs_state, carry = carried
        timestep = envs_state.timestep
        next_carry, decision = agent.act(params, carry, timestep, keys)
        envs_state, outcome = envs.step(envs_state, decision.env_action)
        never = jnp.zeros(num_envs, bool)
        step = replay_step(timestep)
        final = ReplayStep(
            observation=outcome.final_observation,
            reset=never,
            previous_action=decision.env_action,
            reward=outcome.reward,
            terminal=outcome.terminated,
            last=~never,
        )
        pairs = (step, final), (~never, outcome.ended), (carry, next_carry)
        steps, valid, carries = (jax.tree.map(lambda *two: jnp.stack(two), *pair) for pair in pairs)
        outcome = dataclasses.replace(outcome, final_observation=None)
        return (envs_state, next_carry), (Stream(steps, valid, carries), outcome)

    keys = _step_keys(key, num_steps, first_env, num_envs)
    (envs_state, carry), (stream, outcome) = jax.lax.scan(env_step, (envs_state, carry), keys)
    stream = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), stream)
    return envs_state, carry, stream, outcome


def replay_step(timestep: Timestep) -> ReplayStep:
    """What replay keeps of a timestep that ends nothing."""
    return ReplayStep(
        observation=timestep.observation,
        reset=timestep.reset,
        previous_action=timestep.previous_action,
        reward=timestep.previous_reward,
        terminal=jnp.zeros_like(timestep.reset),
        last=jnp.zeros_like(timestep.reset),
    )


def _step_keys(key: Key[Array, ""], num_steps: int, first_env: Any, num_envs: int) -> Key[Array, "T B"]:
    # All keys at once: drawn step by step they cost as much as a small network.
    return jax.vmap(lambda t: environment_keys(jax.random.fold_in(key, t), first_env, num_envs))(jnp.arange(num_steps))


def _final_value(agent: Agent, params: Any, carry: Any, decision: Decision, outcome: Outcome) -> Array:
    """V(final_observation) where truncated, 0 elsewhere; computed only at steps where some episode was truncated."""
    timestep = Timestep(
        observation=outcome.final_observation,
        reset=jnp.zeros_like(outcome.truncated),
        previous_action=decision.env_action,
        previous_reward=outcome.reward,
    )

    def evaluate(_):
        return jnp.where(outcome.truncated, agent.value(params, carry, timestep), 0.0)

    return jax.lax.cond(outcome.truncated.any(), evaluate, lambda _: jnp.zeros_like(outcome.reward), None)
