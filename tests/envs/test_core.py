"""The environment protocol: defaults, messages, and gymnax's own way of stepping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import Environment, EnvParams, make

from .test_vector import STOP, Count


def test_defaults_and_missing_methods():
    env, key = Environment(), jax.random.key(0)
    assert env.name == "Environment" and env.default_params == EnvParams() and env.reset_pool_size(5) == 0
    for call, missing in [
        (lambda: env.reset_env(key, None), "reset_env"),
        (lambda: env.step_env(key, None, 0, None), "step_env"),
        (lambda: env.observation_space(None), "observation_space"),
        (lambda: env.action_space(None), "action_space"),
    ]:
        with pytest.raises(NotImplementedError, match=f"Environment must define {missing}"):
            call()


def test_step_resets_as_gymnax_does():
    env = Count()
    observation, state = env.reset(jax.random.key(0))
    assert observation[1] == 0
    observation, state, reward, terminated, truncated, info = env.step(jax.random.key(1), state, jnp.array(1))
    assert (observation[1], reward, bool(terminated), bool(truncated)) == (1, 1, False, False)
    observation, state, reward, terminated, truncated, info = env.step(jax.random.key(2), state, jnp.array(STOP))
    assert (observation[1], int(state.time), reward, bool(terminated), bool(truncated)) == (0, 0, 12, True, False)
    assert info["final_observation"][1] == 2 and bool(info["terminated"]) and not info["truncated"]
    _, state, _, _, truncated, _ = env.step(jax.random.key(3), state, jnp.array(0), EnvParams(max_steps_in_episode=1))
    assert bool(truncated) and int(state.time) == 0


def test_gymnax_style_training_loops_step_our_environments():
    env = make("popgym/RepeatPreviousEasy")
    observation, state = env.reset(jax.random.key(0))

    def step(carry, key):
        observation, state, _, terminated, truncated, _ = env.step(key, carry[1], carry[0])
        return (observation, state), terminated | truncated

    _, ended = jax.lax.scan(step, (observation, state), jax.random.split(jax.random.key(1), 110))
    np.testing.assert_array_equal(np.flatnonzero(ended), [50, 101])
