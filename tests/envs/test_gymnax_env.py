"""gymnax environments behind our protocol: the same dynamics, spaces that hold."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import environment
from gymnax.environments import spaces as gymnax_spaces

from hippodrome.envs import Box, Dict, Discrete, Tuple, VectorEnv, check_env, list_envs, make
from hippodrome.envs.adapters.gymnax_env import GymnaxAdapter, from_gymnax

UNAVAILABLE = {"DeepSea-bsuite": "overrides gymnax's auto-resetting `step`", "MNISTBandit-bsuite": "downloads MNIST"}
# Their spaces, dtypes or rewards are wrong in gymnax; CartPole and FrozenLake stand for those that are not.
ROLLED = (
    "BernoulliBandit-misc",
    "CartPole-v1",
    "Catch-bsuite",
    "FourRooms-misc",
    "FrozenLake-misc",
    "GaussianBandit-misc",
    "MemoryChain-bsuite",
    "MetaMaze-misc",
    "UmbrellaChain-bsuite",
)


def test_every_gymnax_environment_is_offered_or_refused_with_a_reason():
    offered = {env_id.removeprefix("gymnax/") for env_id in list_envs("gymnax")}
    assert offered | set(UNAVAILABLE) == set(gymnax.registered_envs) and not offered & set(UNAVAILABLE)
    for name, reason in UNAVAILABLE.items():
        with pytest.raises(ValueError, match=f"'gymnax/{name}' is not offered: it .*{reason}"):
            make(f"gymnax/{name}")
    with pytest.raises(ValueError, match=r"DeepSea-bsuite overrides step\(\), which is never called here"):
        GymnaxAdapter(gymnax.make("DeepSea-bsuite")[0])


@pytest.mark.parametrize("env_id", list_envs("gymnax"))
def test_shapes_and_dtypes_are_those_of_the_spaces(env_id):
    env = make(env_id)
    params, key = env.default_params, jax.random.key(0)
    space, action_space = env.observation_space(params), env.action_space(params)
    element, action = (jax.eval_shape(each.sample, key) for each in (space, action_space))
    observation, state = jax.eval_shape(env.reset_env, key, params)
    next_observation, next_state, reward, terminated, _ = jax.eval_shape(env.step_env, key, state, action, params)
    assert observation == next_observation == element
    same = jax.tree.map(lambda one, other: (one.shape, one.dtype) == (other.shape, other.dtype), state, next_state)
    assert all(jax.tree.leaves(same))
    assert (reward.shape, reward.dtype, terminated.shape, terminated.dtype) == ((), jnp.float32, (), bool)
    truncated = jax.eval_shape(env.is_truncated, next_state, params)
    assert (truncated.shape, truncated.dtype) == ((), bool)
    assert env.name == env.env.name


@pytest.mark.parametrize("name", ROLLED)
def test_the_same_episodes_as_gymnax_within_our_spaces(name):
    theirs, params = gymnax.make(name)
    ours = make(f"gymnax/{name}")
    space = ours.observation_space(params)

    def step(states, key):
        action = ours.action_space(params).sample(key)
        their_observation, their_state, their_reward, their_end, _ = theirs.step_env(key, states[0], action, params)
        observation, state, reward, end, _ = ours.step_env(key, states[1], action, params)
        ended = end | ours.is_truncated(state, params)
        fresh = ours.reset_env(key, params)[1]
        state, their_state = (
            jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, each) for each in (state, their_state)
        )
        return (their_state, state), (
            (their_observation, their_reward, their_end),
            (observation, reward, end),
            space.contains(observation),
        )

    @jax.jit
    def run(key):
        observation, state = ours.reset_env(key, params)
        start = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), state)
        return space.contains(observation), jax.lax.scan(step, (start, start), jax.random.split(key, 300))[1]

    first_within, (expected, got, within) = run(jax.random.key(0))
    assert bool(first_within) and np.asarray(within).all()
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), atol=1e-6)


def test_corrected_bounds():
    space = make("gymnax/MetaMaze-misc").observation_space(make("gymnax/MetaMaze-misc").default_params)
    assert space.high[-2:].tolist() == [10, 200] and space.low[-2:].tolist() == [0, 0]
    env = make("gymnax/MetaMaze-misc")
    params = env.default_params.replace(punishment=-2.0, normalize_time=True)
    space = env.observation_space(params)
    assert space.low[-2:].tolist() == [-2, -1] and space.high[-2] == 10
    space = make("gymnax/MemoryChain-bsuite", num_bits=3).observation_space(None)
    assert space.low.tolist() == [0, 0, -1, -1, -1] and space.high.tolist() == [1, 2, 1, 1, 1]
    params = make("gymnax/CartPole-v1").default_params
    assert np.isinf(make("gymnax/CartPole-v1").observation_space(params).high[[1, 3]]).all()


def test_arguments_reach_gymnax():
    assert make("gymnax/Catch-bsuite", rows=6, columns=3).observation_space(None).shape == (6, 3)
    with pytest.raises(ValueError, match=r"cannot be made with \{'rowz': 6\}"):
        make("gymnax/Catch-bsuite", rowz=6)


@struct.dataclass
class PairState(environment.EnvState):
    draw: jax.Array


class Pair(environment.Environment):
    """A gymnax environment whose spaces gymnax's own checks cannot handle."""

    def reset_env(self, key, params):
        state = PairState(time=0, draw=jax.random.uniform(key, (1,)))
        return {"pair": (jnp.float32(1), state.draw), "time": jnp.float32(0)}, state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        observation = {"pair": (jnp.float32(1), state.draw), "time": jnp.float32(state.time)}
        return observation, state, jnp.array([action["go"]]), jnp.array([False]), {}

    def observation_space(self, params):
        box = gymnax_spaces.Box(0, 1, ())
        pair = gymnax_spaces.Tuple([gymnax_spaces.Discrete(2), box])
        return gymnax_spaces.Dict({"pair": pair, "time": gymnax_spaces.Box(0, 5, (1,))})

    def action_space(self, params):
        return gymnax_spaces.Dict({"go": gymnax_spaces.Discrete(3)})


def test_a_gymnax_environment_of_ones_own_with_nested_spaces():
    env = GymnaxAdapter(Pair())
    params = env.default_params.replace(max_steps_in_episode=4)
    check_env(env, params, num_steps=12)
    assert isinstance(env.observation_space(params), Dict)
    assert isinstance(env.observation_space(params).spaces["pair"], Tuple)
    vector = VectorEnv(env, params)
    state = vector.reset(jax.random.split(jax.random.key(0), 2))
    assert state.timestep.previous_action == {"go": pytest.approx(np.array([-1, -1]))}
    _, outcome = vector.step(state, {"go": jnp.array([0, 2])})
    assert outcome.reward.tolist() == [0, 2] and outcome.final_observation["time"].tolist() == [[1], [1]]


def test_unknown_gymnax_spaces_are_named():
    assert isinstance(from_gymnax(gymnax_spaces.Discrete(3)), Discrete)
    assert isinstance(from_gymnax(gymnax_spaces.Box(0, 1, (2,))), Box)
    with pytest.raises(TypeError, match="must be one of gymnax's Discrete, Box, Tuple, Dict"):
        from_gymnax(gymnax_spaces.Space())
