"""MuJoCo Playground behind the protocol; only where the extra `playground` is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import check_env, make


def test_without_playground_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mujoco_playground", None)
    with pytest.raises(ValueError, match=r"playground/PointMass needs MuJoCo Playground.*--extra playground"):
        make("playground/PointMass")


@pytest.mark.slow
def test_it_steps_as_playground_does():
    registry = pytest.importorskip("mujoco_playground").registry
    env, own = make("playground/PointMass", max_steps=3), registry.load("PointMass", config_overrides={"impl": "jax"})
    key, action = jax.random.key(0), jnp.array([0.5, -1.0])
    observation, state = jax.jit(env.reset_env)(key, env.default_params)
    expected = jax.jit(own.reset)(key)
    np.testing.assert_allclose(observation, expected.obs)
    step, own_step = jax.jit(env.step_env), jax.jit(own.step)
    for index in range(3):
        observation, state, reward, terminated, _ = step(key, state, action, env.default_params)
        expected = own_step(expected, action)
        np.testing.assert_allclose(observation, expected.obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reward, expected.reward, rtol=1e-5, atol=1e-6)
        assert not terminated and bool(env.is_truncated(state, env.default_params)) == (index == 2)
    check_env(env, num_steps=10)
    with pytest.raises(ValueError, match="playground has no environment 'Point'"):
        make("playground/Point")


@pytest.mark.slow
def test_the_suite_of_the_s5_paper_steps():
    pytest.importorskip("mujoco_playground")
    env = make("meta/Playground", trials=2, max_steps=2, members=("PointMass", "CartpoleBalance"))
    params = env.default_params
    observation, state = jax.jit(env.reset_env)(jax.random.key(0), params)
    assert observation["observation"].shape == (12,) and env.action_space(params).shape == (2,)
    step, ends = jax.jit(env.step_env), []
    for index in range(4):
        _, state, reward, done, _ = step(jax.random.key(index), state, jnp.array([0.3, 0.1]), params)
        assert np.isfinite(reward)
        ends.append(bool(done))
    assert ends == [False, False, False, True] and int(state.trial) == 2
