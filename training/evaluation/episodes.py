"""Exactly one episode in each of many environments, from a fixed key: the measure evaluation rests on.

Taking the first N episodes that finish would favour short ones; here every environment counts once, however long.

Legend: `N` environments, one episode each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hippodrome.agents import Agent
from hippodrome.envs import Outcome, VectorEnv, environment_keys, longest_episode, null_action
from hippodrome.training.errors import ConfigError, HippodromeError

FALLBACK_MAX_STEPS = 100_000


class EpisodeLimitError(HippodromeError):
    """An evaluation episode that does not end."""


def max_episode_steps(envs: VectorEnv) -> int:
    """Steps after which an episode must have ended: the environment's own limit, or a generous one if it has none."""
    limit = longest_episode(envs.env, envs.params)
    return FALLBACK_MAX_STEPS if limit is None else limit + 1


def agent_episodes(
    agent: Agent,
    envs: VectorEnv,
    params: Any,
    key: Key[Array, ""],
    *,
    num_episodes: int,
    deterministic: bool,
) -> tuple[Float[Array, " N"], Int[Array, " N"], Bool[Array, " N"]]:
    """Return, length and whether it ended, of one episode in each environment; pure, jit and vmap it over params."""
    env_key, act_key = jax.random.split(key)
    state = envs.reset(environment_keys(env_key, 0, num_episodes))
    limit = max_episode_steps(envs)

    def unfinished(loop):
        _, _, _, _, done, t = loop
        return ~done.all() & (t < limit)

    def episode_step(loop):
        state, carry, returns, lengths, done, t = loop
        keys = environment_keys(jax.random.fold_in(act_key, t), 0, num_episodes)
        carry, decision = agent.act(params, carry, state.timestep, keys, deterministic=deterministic)
        state, outcome = envs.step(state, decision.env_action)
        returns, lengths, done = _record(returns, lengths, done, outcome)
        return state, carry, returns, lengths, done, t + 1

    loop = (state, agent.initial_carry(num_episodes), *_empty(num_episodes), jnp.zeros((), jnp.int32))
    _, _, returns, lengths, done, _ = jax.lax.while_loop(unfinished, episode_step, loop)
    return returns, lengths, done


def policy_episodes(
    policy: Any, envs: VectorEnv, key: Key[Array, ""], *, num_episodes: int, deterministic: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for any callable of the `load_policy` protocol, which need not be traceable: a loop in Python."""
    env_key, act_key = jax.random.split(key)
    state = jax.jit(envs.reset)(environment_keys(env_key, 0, num_episodes))
    step = jax.jit(envs.step)
    record = jax.jit(_record)
    carry = policy.initial_carry(num_episodes)
    returns, lengths, done = _empty(num_episodes)
    for t in range(max_episode_steps(envs)):
        timestep = state.timestep
        step_key = None if deterministic else jax.random.fold_in(act_key, t)
        answer = policy(carry, timestep.observation, timestep.previous_reward, timestep.reset, key=step_key)
        carry, action = _checked(answer, envs, num_episodes) if t == 0 else answer
        state, outcome = step(state, action)
        returns, lengths, done = record(returns, lengths, done, outcome)
        if bool(done.all()):
            break
    return np.asarray(returns), np.asarray(lengths), np.asarray(done)


def _checked(answer: Any, envs: VectorEnv, num_episodes: int) -> tuple[Any, Any]:
    """A policy's answer, if it is a carry and an action that fits the action space; else ConfigError."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ConfigError(f"the policy returned {type(answer).__name__}; it must return the pair (carry, action)")
    null = jax.eval_shape(lambda: null_action(envs.action_space))
    expected = jax.tree.map(lambda leaf: ((num_episodes, *leaf.shape), np.dtype(leaf.dtype).kind), null)
    got = jax.tree.map(lambda leaf: (np.shape(leaf), np.asarray(leaf).dtype.kind), answer[1])
    # "i" and "u" are integers, "f" floats.
    same_kind = str(got).replace("'u'", "'i'") == str(expected)
    if not same_kind:
        raise ConfigError(f"the policy returned actions of (shape, kind) {got}; {envs.action_space!r} needs {expected}")
    return answer


def require_ended(done: np.ndarray, envs: VectorEnv) -> None:
    """Raises EpisodeLimitError if some episode did not end, since its return would be a guess."""
    if not done.all():
        raise EpisodeLimitError(
            f"{int((~done).sum())} of {done.size} evaluation episodes did not end within {max_episode_steps(envs)} "
            "steps; give the environment a limit, e.g. --env.params max_steps_in_episode=1000"
        )


def _empty(num_episodes: int) -> tuple[Array, Array, Array]:
    return jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32), jnp.zeros(num_episodes, bool)


def _record(returns: Array, lengths: Array, done: Array, outcome: Outcome) -> tuple[Array, Array, Array]:
    first_end = outcome.ended & ~done
    returns = jnp.where(first_end, outcome.episode_return, returns)
    lengths = jnp.where(first_end, outcome.episode_length, lengths)
    return returns, lengths, done | first_end
