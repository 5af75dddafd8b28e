"""Overwrite against a dictionary that replays what was shown."""

import jax
import numpy as np
import pytest

from hippodrome.envs import VectorEnv, check_env, environment_keys, make


def test_conforms():
    check_env(make("hippodrome/Overwrite", length=9), num_steps=40)


def test_a_dictionary_earns_one_and_guesses_what_chance_gives():
    env = make("hippodrome/Overwrite")
    envs = VectorEnv(env)
    state = jax.jit(envs.reset)(environment_keys(jax.random.key(0), 0, 64))
    step = jax.jit(envs.step)
    guesses = np.random.default_rng(0)
    held = np.zeros((64, 8), int)
    returns = []
    for time in range(208):
        timestep = state.timestep
        written, value, asked = np.asarray(timestep.observation).T
        assert np.asarray(timestep.reset).all() == (time % 104 == 0)
        held[np.asarray(timestep.reset)] = 0
        held[np.arange(64), written] = value
        # Half of the copies answer by the dictionary, the others guess.
        action = np.where(np.arange(64) < 32, held[np.arange(64), asked], guesses.integers(4, size=64))
        state, outcome = step(state, action)
        if np.asarray(outcome.terminated).all():
            returns.append(np.asarray(outcome.episode_return))
    knows, guessed = np.split(np.stack(returns), 2, axis=1)
    np.testing.assert_allclose(knows, 1.0, atol=1e-5)
    # 64 episodes of 104 guesses: a standard error of 0.011.
    assert abs(guessed.mean() + 0.5) < 0.05


@pytest.mark.parametrize("wrong", [{"num_keys": 0}, {"num_values": 1}, {"length": 0}])
def test_sizes_that_make_no_task_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        make("hippodrome/Overwrite", **wrong)
