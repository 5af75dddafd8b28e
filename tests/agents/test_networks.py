"""Timesteps as features, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents.networks import Featurizer
from hippodrome.envs import Box, Discrete, MultiDiscrete, Space, Timestep, Tuple
from hippodrome.envs.encoding import encode_action

INPUTS = ("previous_action", "previous_reward", "first_step")


def features(featurizer: Featurizer, timestep: Timestep) -> np.ndarray:
    parts = [featurizer.observation(timestep.observation), *featurizer.policy_inputs(timestep)]
    return np.concatenate(parts, axis=-1)


def test_discrete_observation_and_action_by_hand():
    featurizer = Featurizer(Tuple((Discrete(2), MultiDiscrete([2, 3]))), Discrete(3), INPUTS)
    timestep = Timestep(
        observation=(jnp.array([1, 0]), jnp.array([[0, 2], [1, 1]])),
        reset=jnp.array([False, True]),
        previous_action=jnp.array([2, -1]),
        previous_reward=jnp.array([0.5, 0.0]),
    )
    expected = [
        [0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0.5, 0],
        # The null previous action (-1) is all zeros, which no action is.
        [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0.0, 1],
    ]
    np.testing.assert_allclose(features(featurizer, timestep), expected)
    assert featurizer.num_features == 12
    assert not featurizer.is_continuous.any()


def test_box_action_is_scaled_to_its_bounds_and_uint8_to_one():
    featurizer = Featurizer(Box(0, 255, (1, 2), jnp.uint8), Box(0.0, 4.0, (1,)), ("previous_action",))
    timestep = Timestep(
        observation=jnp.array([[[0, 255]]], jnp.uint8),
        reset=jnp.array([False]),
        previous_action=jnp.array([[3.0]]),
        previous_reward=jnp.zeros(1),
    )
    np.testing.assert_allclose(features(featurizer, timestep), [[0.0, 1.0, 0.5]])
    assert featurizer.is_continuous.all()


def test_an_action_that_is_fixed_is_zero():
    encoded = encode_action(Box(np.array([-1.0, 2.0]), np.array([1.0, 2.0])), jnp.array([0.5, 2.0]))
    assert encoded.tolist() == [0.5, 0.0]


def test_inputs_can_be_left_out():
    featurizer = Featurizer(Discrete(2), Discrete(2), ())
    timestep = Timestep(jnp.array([1]), jnp.array([True]), jnp.array([-1]), jnp.zeros(1))
    np.testing.assert_allclose(features(featurizer, timestep), [[0, 1]])
    assert featurizer.num_features == 2


def test_unknown_space_is_refused():
    with pytest.raises(ValueError, match="cannot be encoded"):
        Featurizer(Space(), Discrete(2), ())
