"""HostVectorEnv: the semantics of VectorEnv over gymnasium environments, their spaces, seeds, processes and errors."""

import multiprocessing
import os

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from hippodrome.envs import (
    Box,
    Dict,
    Discrete,
    HostEnvError,
    HostParams,
    MultiDiscrete,
    Tuple,
    VectorEnv,
    check_batch,
    environment_keys,
    flat_spaces,
    make,
    null_action,
    vectorize,
)
from hippodrome.envs.adapters.gymnasium_copy import element_of, leaves_of
from hippodrome.envs.adapters.gymnasium_env import GymnasiumEnv, from_gymnasium


def keys(count, seed=0):
    return environment_keys(jax.random.key(seed), 0, count)


class Scripted(gymnasium.Env):
    """Observes `[episode, time]`, always in the same array; rewards and flags are read from a script."""

    def __init__(self, script):
        self.observation_space, self.action_space = spaces.Box(0, np.inf, (2,), np.float64), spaces.Discrete(3, start=5)
        self.script, self.seen, self.actions, self.closed = list(script), np.zeros(2), [], False

    def reset(self, *, seed=None, options=None):
        self.seen[:] = self.seen[0] + 1, 0
        return self.seen, {}

    def step(self, action):
        self.actions.append(int(action))
        self.seen[1] += 1
        reward, terminated, truncated = self.script.pop(0)
        return self.seen, reward, terminated, truncated, {}

    def close(self):
        self.closed = True


def scripted(*scripts):
    """A HostVectorEnv of one scripted environment for each script, and those environments."""
    made = []

    def one():
        made.append(Scripted(scripts[max(len(made) - 1, 0)]))  # the first is the example, of which nothing is used
        return made[-1]

    return vectorize(GymnasiumEnv(one, name="tests/Scripted")), made[1:] if len(made) > 1 else made


def test_rewards_ends_final_observations_and_what_the_policy_sees_are_as_written_by_hand():
    go, died, cut, both = (0.5, False, False), (2.0, True, False), (3.0, False, True), (4.0, True, True)
    envs, made = scripted([go, cut, go, go], [died, go, both, go])
    state = jax.jit(envs.reset)(keys(2))
    assert state.timestep.reset.tolist() == [True, True]
    np.testing.assert_array_equal(state.timestep.previous_action, [-1, -1])
    np.testing.assert_array_equal(state.timestep.observation, [[1, 0], [1, 0]])

    def env_step(state, action):
        next_state, outcome = envs.step(state, action)
        return next_state, (next_state.timestep, outcome)

    actions = jnp.array([[0, 1], [2, 0], [1, 1], [0, 2]])
    state, (timestep, outcome) = jax.jit(lambda state: jax.lax.scan(env_step, state, actions))(state)
    np.testing.assert_array_equal(outcome.reward, [[0.5, 2.0], [3.0, 0.5], [0.5, 4.0], [0.5, 0.5]])
    np.testing.assert_array_equal(outcome.terminated, [[0, 1], [0, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(outcome.truncated, [[0, 0], [1, 0], [0, 0], [0, 0]])  # terminated wins
    # What was reached, though the environment wrote the next episode's first observation into the same array.
    np.testing.assert_array_equal(
        outcome.final_observation, [[[1, 1], [1, 1]], [[1, 2], [2, 1]], [[2, 1], [2, 2]], [[2, 2], [3, 1]]]
    )
    np.testing.assert_array_equal(
        timestep.observation, [[[1, 1], [2, 0]], [[2, 0], [2, 1]], [[2, 1], [3, 0]], [[2, 2], [3, 1]]]
    )
    np.testing.assert_array_equal(timestep.reset, [[0, 1], [1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(timestep.previous_action, [[0, -1], [-1, 0], [1, -1], [0, 2]])
    np.testing.assert_array_equal(timestep.previous_reward, [[0.5, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]])
    np.testing.assert_array_equal(outcome.episode_return, [[0.5, 2.0], [3.5, 0.5], [0.5, 4.5], [1.0, 0.5]])
    np.testing.assert_array_equal(outcome.episode_length, [[1, 1], [2, 1], [1, 2], [2, 1]])
    assert state.episode_return.tolist() == [1.0, 0.5] and state.episode_length.tolist() == [2, 1]
    live = [each.env for each in envs._copies._copies]
    assert [each.actions for each in live] == [[5, 7, 6, 5], [6, 5, 6, 7]]  # counted from the space's start
    assert made[0].closed and not live[0].closed
    envs.close()
    assert live[0].closed and live[1].closed


def test_the_types_of_a_state_are_those_of_environments_in_jax_and_nothing_runs_to_find_them():
    ours, theirs = make("gymnax/CartPole-v1"), make("gymnasium/CartPole-v1")
    envs = vectorize(theirs)
    shapes = [
        jax.eval_shape(lambda vector=vector: vector.step(vector.reset(keys(3)), jnp.zeros(3, jnp.int32)))
        for vector in (VectorEnv(ours), envs)
    ]
    (one, one_outcome), (two, two_outcome) = shapes
    assert (one.timestep, one.key, one.episode_return, one_outcome) == (
        two.timestep, two.key, two.episode_return, two_outcome)  # fmt: skip
    assert envs._copies is None and theirs.default_params.max_steps_in_episode == 500


def observations(envs, count, seed=0):
    return np.asarray(envs.reset(keys(count, seed)).timestep.observation)


def test_each_environment_is_seeded_by_its_key():
    envs = vectorize(make("gymnasium/CartPole-v1"))
    four = observations(envs, 4)
    assert len(np.unique(four, axis=0)) == 4
    np.testing.assert_array_equal(observations(envs, 2), four[:2])
    np.testing.assert_array_equal(observations(envs, 4), four)
    assert not np.array_equal(observations(envs, 4, seed=1), four)
    envs.close()


def test_limits_are_gymnasiums_or_those_given():
    env = make("gymnasium/CartPole-v1", max_episode_steps=7)
    assert env.default_params.max_steps_in_episode == 7
    for params, limit in ((None, 7), (HostParams(3), 3)):
        envs = vectorize(env, params)
        state = envs.reset(keys(1))
        for _ in range(limit):
            state, outcome = envs.step(state, state.episode_length % 2)
        assert outcome.truncated.tolist() == [True] and outcome.episode_length.tolist() == [limit]
        envs.close()
    with pytest.raises(ValueError, match="max_steps_in_episode='7' must be an integer of at least 1"):
        HostParams("7")


EVERY = spaces.Dict(
    {
        "view": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "arm": spaces.Tuple((spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(3, start=-1))),
        "buttons": spaces.MultiBinary((2, 2)),
        "board": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [0, -2]]),
        "flag": spaces.Box(0, 1, (1,), np.bool_),
        "count": spaces.Box(-5, 5, (2,), np.int64),
    }
)


class Echo(gymnasium.Env):
    """Observes the action it was given; samples of its space at first."""

    def __init__(self):
        self.observation_space, self.action_space = EVERY, EVERY

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return action, 0.0, False, False, {}


def test_every_kind_of_space_goes_there_and_back():
    ours = from_gymnasium(EVERY)
    assert isinstance(ours, Dict) and isinstance(ours.spaces["arm"], Tuple)
    assert repr(ours.spaces["arm"].spaces[1]) == repr(Discrete(3))
    assert repr(ours.spaces["buttons"]) == repr(MultiDiscrete([2] * 4))
    assert repr(ours.spaces["board"]) == repr(MultiDiscrete([2, 3, 4, 5]))
    assert repr(ours.spaces["view"]) == repr(Box(0, 255, (4, 4, 3), "uint8"))
    assert [part.dtype.name for part in flat_spaces(ours)] == [
        "float32", "int32", "int32", "int32", "int32", "uint8", "uint8"]  # fmt: skip

    envs = vectorize(GymnasiumEnv(Echo))
    state = envs.reset(keys(3))
    first = state.timestep.observation
    check_batch("observation", first, ours, 3)
    assert jax.vmap(ours.contains)(first).all()
    next_state, outcome = envs.step(state, first)
    jax.tree.map(np.testing.assert_array_equal, outcome.final_observation, first)
    jax.tree.map(np.testing.assert_array_equal, next_state.timestep.observation, first)
    assert jax.tree.structure(next_state.timestep.previous_action) == jax.tree.structure(null_action(ours))
    envs.close()


def test_a_float64_action_is_kept_within_its_bounds():
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    action = element_of(space, iter([np.array([0.1], np.float32)]))  # 0.1000000015
    assert action.dtype == np.float64 and space.contains(action)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            spaces.Dict({"a": spaces.Dict({"mission": spaces.Text(5)})}),
            r"space\['a'\]\['mission'\] Text\(.* must be one",
        ),
        (spaces.Tuple([spaces.Sequence(spaces.Discrete(2))]), r"space\[0\] Sequence\(.* must be one of gymnasium's"),
        (spaces.Box(-np.inf, np.inf, (2,), np.int64), r"space Box\(.* holds integers beyond 32 bits; wrap"),
        (spaces.Box(0, 1, (0,)), r"has no elements; leave it out by a wrapper"),
        (spaces.Dict({}), "not empty"),
    ],
)
def test_a_space_without_a_counterpart_is_named(space, message):
    with pytest.raises(ValueError, match=message):
        from_gymnasium(space)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Box(0, 1, (2,)), np.zeros(3), r"observation has shape \(3,\), but its space .* has \(2,\)"),
        (spaces.Tuple([spaces.Discrete(2)]), (2,), r"observation\[0\]=2 is not in its space Discrete\(2\)"),
        (spaces.Dict({"a": spaces.Box(0, 255, (1,), np.uint8)}), {"a": np.ones(1)}, r"\['a'\] has dtype float64, but"),
    ],
)
def test_an_observation_that_its_space_does_not_hold_is_named(space, value, message):
    with pytest.raises(ValueError, match=message):
        leaves_of(space, value)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"gymnasium/CartPol-v1' cannot be made: NameNotFound.*you mean: `CartPole`"):
        make("gymnasium/CartPol-v1")
    with pytest.raises(ValueError, match=r"cannot be made with {'wind': 3}: TypeError: .*'wind'"):
        make("gymnasium/CartPole-v1", wind=3)
    env = make("gymnasium/CartPole-v1")
    with pytest.raises(TypeError, match=r"gymnasium/CartPole-v1 steps on the host; step it by vectorize\(env\)"):
        VectorEnv(env).reset(keys(1))
    with pytest.raises(ValueError, match="workers=-1 must be at least 0"):
        vectorize(env, host_workers=-1)
    with pytest.raises(ValueError, match="host_workers=2 must be 0: Overwrite steps in JAX"):
        vectorize(make("hippodrome/Overwrite"), host_workers=2)


def test_only_the_newest_state_can_be_stepped():
    envs = vectorize(make("gymnasium/CartPole-v1"))
    state = envs.reset(keys(2))
    action = jnp.zeros(2, jnp.int32)
    envs.step(state, action)
    with pytest.raises(jax.errors.JaxRuntimeError, match="this state is not what the last call returned"):
        jax.block_until_ready(envs.step(state, action))
    assert isinstance(envs.failure, HostEnvError) and envs._copies is None
    envs.step(envs.reset(keys(2)), action)
    assert envs.failure is None
    with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
        jax.vmap(lambda seed: envs.reset(keys(1, seed)))(jnp.arange(2))
    envs.close()


def test_a_failure_carries_its_own_traceback_and_closes_the_others():
    envs, _ = scripted([(0.0, False, False)] * 2, [(0.0, False, False)])
    state = envs.reset(keys(2))
    live = [each.env for each in envs._copies._copies]
    state, _ = envs.step(state, jnp.zeros(2, jnp.int32))
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(envs.step(state, jnp.zeros(2, jnp.int32)))
    message = str(envs.failure)
    assert message.startswith("environment tests/Scripted: copy 1 failed in step():\nTraceback")
    assert "self.script.pop(0)" in message and message.endswith("IndexError: pop from empty list")
    assert all(each.closed for each in live)


@pytest.mark.parametrize("reward", [float("nan"), -float("inf")])
def test_a_reward_that_is_not_finite_is_told_where_it_came_from(reward):
    envs, _ = scripted([(0.0, False, False)], [(reward, False, False)])
    state = envs.reset(keys(2))
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(envs.step(state, jnp.zeros(2, jnp.int32)))
    assert f"copy 1: step() returned reward {reward}, not every number of which is finite" in str(envs.failure)
    envs, _ = scripted([(0.0, False, False)])
    state = envs.reset(keys(1))
    envs._copies._copies[0].env.unwrapped.seen[0] = np.nan
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(envs.step(state, jnp.zeros(1, jnp.int32)))
    assert "copy 0: step() returned an observation, not every number" in str(envs.failure)


def test_an_action_that_is_not_finite_does_not_reach_an_environment():
    envs = vectorize(make("gymnasium/Pendulum-v1"))
    state = envs.reset(keys(2))
    with pytest.raises(jax.errors.JaxRuntimeError):
        jax.block_until_ready(envs.step(state, jnp.array([[0.0], [jnp.nan]])))
    assert "its next action would hold a number that is not finite" in str(envs.failure)


def random_steps(envs, count, num_steps):
    def env_step(state, key):
        action = jax.vmap(envs.action_space.sample)(jax.random.split(key, count))
        next_state, outcome = envs.step(state, action)
        return next_state, (state.timestep, outcome)

    step_keys = jax.random.split(jax.random.key(1), num_steps)
    return jax.jit(lambda: jax.lax.scan(env_step, envs.reset(keys(count)), step_keys)[1])()


def test_processes_give_what_this_process_gives_and_end():
    before = set(multiprocessing.active_children())
    env = make("gymnasium/CartPole-v1")
    here, there = vectorize(env), vectorize(env, host_workers=2)
    expected, found = random_steps(here, 3, 40), random_steps(there, 3, 40)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert expected[1].ended.sum() > 2
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    here.close()
    there.close()
    assert not any(each.is_alive() for each in workers)


def test_errors_and_deaths_in_a_process_are_told():
    def mortal():
        class Mortal(gymnasium.Env):  # within a function, so that it is pickled whole
            def __init__(self):
                self.observation_space, self.action_space = spaces.Discrete(1), spaces.Discrete(3)

            def reset(self, *, seed=None, options=None):
                return 0, {}

            def step(self, action):
                if action == 1:
                    raise KeyError("lost")
                if action == 2:
                    os._exit(7)
                return 0, 0.0, False, False, {}

        return Mortal()

    before = set(multiprocessing.active_children())
    envs = vectorize(GymnasiumEnv(mortal, name="tests/Mortal"), host_workers=1)
    for action, message in (
        (1, "copy 1 failed in step.*KeyError: 'lost'"),
        (2, r"ended without an answer \(exit code 7"),
    ):
        state = envs.reset(keys(2))
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"(?s){message}"):
            jax.block_until_ready(envs.step(state, jnp.array([0, action])))
        assert set(multiprocessing.active_children()) <= before
