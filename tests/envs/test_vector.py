"""VectorEnv on an environment small enough to compute by hand."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hippodrome.envs import (
    Box,
    Discrete,
    Environment,
    EnvParams,
    EnvState,
    MultiDiscrete,
    Tuple,
    VectorEnv,
    environment_keys,
)

STOP = 2


@struct.dataclass
class CountState(EnvState):
    start: Any


class Count(Environment):
    """Observes `[start, time]`, start drawn at reset; pays `10 time + action`; STOP terminates, 3 steps truncate."""

    def __init__(self, pool: int = 0, actions: Any = None):
        self.pool, self.actions = pool, actions or Discrete(3)

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=3)

    def reset_pool_size(self, num_steps):
        return -(-num_steps // self.pool) if self.pool else 0

    def reset_env(self, key, params):
        state = CountState(time=0, start=jax.random.uniform(key))
        return self._observation(state), state

    def step_env(self, key, state, action, params):
        first = jax.tree.leaves(action)[0]
        reward = 10 * state.time + first.sum().astype(int)
        state = state.replace(time=state.time + 1)
        return self._observation(state), state, reward, jnp.all(first == STOP), {}

    def _observation(self, state):
        return jnp.stack([state.start, jnp.asarray(state.time, jnp.float32)])

    def observation_space(self, params):
        return Box(0, 3, (2,))

    def action_space(self, params):
        return self.actions


def rollout(vector: VectorEnv, state: Any, actions: Any):
    """The last state, and of every step the timestep the action was taken in and its outcome, leaves `[T, B, ...]`."""

    def step(state, action):
        next_state, outcome = vector.step(state, action)
        return next_state, (state.timestep, outcome)

    return jax.lax.scan(step, state, actions)


ACTIONS = np.array(
    [
        [0, 2],  # the second ends at once
        [1, 0],
        [0, 0],  # the first reaches its limit
        [2, 2],  # the first ends at once; the second ends at its limit: terminated wins
        [1, 0],
    ]
)


@pytest.mark.parametrize("pool", [0, 1])
def test_every_field_across_auto_resets(pool):
    vector = VectorEnv(Count(pool), num_steps=5)
    begin, go = jax.jit(vector.reset), jax.jit(partial(rollout, vector))
    state, (timestep, outcome) = go(begin(environment_keys(jax.random.key(0), 0, 2)), ACTIONS)
    time, final_time = timestep.observation[..., 1], outcome.final_observation[..., 1]
    np.testing.assert_array_equal(time, [[0, 0], [1, 0], [2, 1], [0, 2], [0, 0]])
    np.testing.assert_array_equal(final_time, [[1, 1], [2, 1], [3, 2], [1, 3], [1, 1]])
    np.testing.assert_array_equal(timestep.reset, np.asarray(time) == 0)
    np.testing.assert_array_equal(timestep.previous_action, [[-1, -1], [0, -1], [1, 0], [-1, 0], [-1, -1]])
    np.testing.assert_array_equal(timestep.previous_reward, [[0, 0], [0, 0], [11, 0], [0, 10], [0, 0]])
    np.testing.assert_array_equal(outcome.reward, [[0, 2], [11, 0], [20, 10], [2, 22], [1, 0]])
    np.testing.assert_array_equal(outcome.terminated, [[0, 1], [0, 0], [0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(outcome.truncated, [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(outcome.ended, [[0, 1], [0, 0], [1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(outcome.episode_return, [[0, 2], [11, 0], [31, 10], [2, 32], [1, 0]])
    np.testing.assert_array_equal(outcome.episode_length, [[1, 1], [2, 1], [3, 2], [1, 3], [1, 1]])
    # An episode keeps its start, in the observation that ends it too; the next has another.
    start, final_start = np.asarray(timestep.observation[..., 0]), np.asarray(outcome.final_observation[..., 0])
    np.testing.assert_array_equal(start, final_start)
    assert [len(np.unique(column)) for column in start.T] == [3, 3]
    assert start[0, 0] == start[2, 0] != start[3, 0] != start[4, 0]
    np.testing.assert_array_equal(state.timestep.previous_reward, [1, 0])
    assert not np.asarray(state.timestep.reset).any()
    assert outcome.reward.dtype == outcome.episode_return.dtype == jnp.float32


def test_null_action_by_kind_of_space():
    spaces = Tuple([MultiDiscrete([3, 4]), Box(-1, 1, (2,)), Discrete(5)])
    vector = VectorEnv(Count(actions=spaces))
    step = jax.jit(vector.step)
    state = jax.jit(vector.reset)(jax.random.split(jax.random.key(0), 1))
    multi, box, discrete = state.timestep.previous_action
    assert multi.tolist() == [[-1, -1]] and box.tolist() == [[0.0, 0.0]] and discrete.tolist() == [-1]
    assert (multi.dtype, box.dtype, discrete.dtype) == (jnp.int32, jnp.float32, jnp.int32)
    action = (jnp.array([[0, 2]]), jnp.array([[0.5, 1.0]]), jnp.array([4]))
    state, _ = step(state, action)
    taken = jax.tree.map(lambda leaf: leaf.tolist(), state.timestep.previous_action)
    assert taken == ([[0, 2]], [[0.5, 1.0]], [4])
    state, outcome = step(state, (jnp.array([[2, 2]]), *action[1:]))
    assert outcome.ended.all()
    nulls = jax.tree.map(lambda leaf: leaf.tolist(), state.timestep.previous_action)
    assert nulls == ([[-1, -1]], [[0.0, 0.0]], [-1])


def test_pool_gives_every_episode_of_a_rollout_a_start_of_its_own():
    num_steps, length = 8, 3
    vector = VectorEnv(Count(pool=length), num_steps=num_steps)
    assert vector.pool_size == 3
    # Ended at other times, so that a rollout begins in the middle of episodes.
    warm_up = jnp.array([[0, 2, 0, 0], [0, 0, 2, 0]])
    begun = jax.jit(vector.reset)(environment_keys(jax.random.key(0), 0, 4))
    state, _ = jax.jit(partial(rollout, vector))(begun, warm_up)
    go = jax.jit(partial(rollout, vector, actions=jnp.zeros((num_steps, 4), int)))
    refill = jax.jit(vector.begin_rollout)
    used, (timestep, _) = go(refill(state))
    refilled, (after, _) = go(refill(used))
    reused, (again, _) = go(used)
    first, later, once_more = (np.asarray(each.observation[..., 0]) for each in (timestep, after, again))
    for column, next_column, reused_column in zip(first.T, later.T, once_more.T, strict=True):
        assert len(np.unique(column)) in (3, 4)
        # A rollout may begin in an episode that the one before began; the others are new.
        assert set(next_column) & set(column) <= {column[-1], next_column[0]}
        # Without begin_rollout, the pool's start states are used again in turn.
        assert len(set(reused_column) & set(column)) > 1
    assert int(refilled.pool_next.max()) <= 3 and int(reused.pool_next.max()) <= 3


@pytest.mark.parametrize("pool", [0, 3])
def test_split_over_processes_equals_one(pool):
    vector = VectorEnv(Count(pool), num_steps=4)
    key, actions = jax.random.key(7), jax.random.randint(jax.random.key(1), (9, 6), 0, 3)

    @jax.jit
    def run(first, actions):
        state = vector.begin_rollout(vector.reset(environment_keys(key, first, actions.shape[1])))
        return rollout(vector, state, actions)[1]

    halves = [run(first, actions[:, first : first + 3]) for first in (0, 3)]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *halves)
    jax.tree.map(np.testing.assert_array_equal, joined, run(0, actions))


@pytest.mark.parametrize("pool", [0, 3])
def test_jit_and_vmap_over_seeds_change_nothing(pool):
    vector = VectorEnv(Count(pool), num_steps=4)
    actions = jnp.array([[STOP, 0, 1], [1, STOP, STOP]])

    def run(key, action):
        state = vector.begin_rollout(vector.reset(environment_keys(key, 0, 3)))
        state, outcome = vector.step(state, action)
        return state.timestep, outcome

    keys = jax.random.split(jax.random.key(3), 2)
    batched = jax.jit(jax.vmap(run))(keys, actions)
    jitted = [jax.jit(run)(key, action) for key, action in zip(keys, actions, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, jitted[0], run(keys[0], actions[0]))
    for seed in range(2):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], batched)
        jax.tree.map(np.testing.assert_array_equal, one, jitted[seed])


def test_a_state_compiles_once_whether_reset_or_stepped():
    vector = VectorEnv(Count(), num_steps=4)  # its reset writes a weakly typed time=0
    step = jax.jit(vector.step)
    state = jax.jit(vector.reset)(environment_keys(jax.random.key(0), 0, 2))
    for action in (0, 2, 0):
        state, _ = step(state, jnp.full(2, action))
    assert step._cache_size() == 1


def test_params_and_bad_num_steps():
    vector = VectorEnv(Count(), EnvParams(max_steps_in_episode=1))
    state = jax.jit(vector.reset)(jax.random.split(jax.random.key(0), 2))
    _, outcome = jax.jit(vector.step)(state, jnp.zeros(2, int))
    assert outcome.truncated.all()
    with pytest.raises(ValueError, match=r"action has shape \(3,\), expected \(2,\)"):
        vector.step(state, jnp.zeros(3, int))
    with pytest.raises(ValueError, match="action has dtype float32, expected integers"):
        vector.step(state, jnp.zeros(2))
    with pytest.raises(ValueError, match="num_steps=0 must be at least 1"):
        VectorEnv(Count(), num_steps=0)
