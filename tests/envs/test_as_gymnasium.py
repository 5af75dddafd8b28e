"""This library's environments by gymnasium: its own checks, and the same episodes."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check

from hippodrome.envs import VectorEnv, environment_keys, list_envs, make
from hippodrome.envs.as_gymnasium import gymnasium_id

IDS = ("popgym/RepeatPreviousEasy", "gymnax/Pendulum-v1", "hippodrome/Empty-5x5", "meta/PointNavigation")


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_s_own_check_passes(env_id, recwarn):
    env = gymnasium.make(gymnasium_id(env_id))
    gymnasium_check(env.unwrapped, skip_render_check=True)
    assert not [
        each for each in recwarn if "max_episode_steps" not in str(each.message) and "Box" not in str(each.message)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [each for each in list_envs() if not each.startswith("meta/Playground")])
def test_every_environment_passes_it(env_id):
    gymnasium_check(gymnasium.make(gymnasium_id(env_id)).unwrapped, skip_render_check=True)


def test_every_environment_is_registered():
    # Other tests register environments of their own.
    suites = ("popgym", "popgym-paper", "gymnax", "hippodrome", "meta")
    names = {gymnasium_id(env_id) for env_id in list_envs() if env_id.partition("/")[0] in suites}
    assert {"hippodrome/popgym.RepeatPreviousEasy", "hippodrome/gymnax.CartPole-v1", "hippodrome/Empty-5x5"} <= names
    assert names <= set(gymnasium.registry)


def test_an_episode_is_that_of_the_environment():
    theirs, env = gymnasium.make("hippodrome/popgym.RepeatPreviousEasy"), make("popgym/RepeatPreviousEasy")
    params = env.default_params
    observation, _ = theirs.reset(seed=5)
    key, reset_key = jax.random.split(jax.random.key(5))
    expected, state = env.reset_env(reset_key, params)
    step, steps = jax.jit(env.step_env), 0
    while True:
        assert observation == expected and isinstance(observation, np.int64)
        action = steps % 4
        observation, reward, terminated, truncated, _ = theirs.step(action)
        key, step_key = jax.random.split(key)
        expected, state, expected_reward, ended, _ = step(step_key, state, jnp.asarray(action), params)
        steps += 1
        assert reward == float(expected_reward) and terminated == bool(ended)
        assert truncated == (bool(env.is_truncated(state, params)) and not terminated)
        if terminated or truncated:
            break
    assert steps > 40


def test_copies_step_together_and_begin_anew_in_the_same_step():
    theirs = gymnasium.make_vec("hippodrome/gymnax.CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    envs = VectorEnv(make("gymnax/CartPole-v1"))
    observation, _ = theirs.reset(seed=2)
    state = envs.reset(environment_keys(jax.random.key(2), 0, 3))
    step, ended = jax.jit(envs.step), 0
    for _ in range(30):
        # Two programs, compiled apart: the last bit may differ.
        np.testing.assert_allclose(observation, state.timestep.observation, rtol=1e-5, atol=1e-7)
        observation, reward, terminated, truncated, info = theirs.step(np.ones(3, np.int64))
        state, outcome = step(state, jnp.ones(3, jnp.int32))
        np.testing.assert_array_equal(terminated, outcome.terminated)
        np.testing.assert_array_equal(reward, outcome.reward)
        assert not truncated.any()
        if terminated.any():
            ended += 1
            np.testing.assert_allclose(info["final_obs"], outcome.final_observation, rtol=1e-5, atol=1e-7)
            np.testing.assert_array_equal(info["_final_obs"], terminated)
    assert ended > 0 and observation.shape == (3, 4)


def test_a_step_needs_a_reset():
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("hippodrome/Empty-5x5").unwrapped.step(0)
