"""Meta-episodes: what is shown, kept and cleared, by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hippodrome.envs import Box, Discrete, Environment, EnvParams, EnvState, VectorEnv, environment_keys, make
from hippodrome.envs.trials import Trials

LENGTH = 3


@struct.dataclass
class LadderState(EnvState):
    start: jax.Array


class Ladder(Environment):
    """Observes a random start plus the steps taken; each step pays the task's number times its action; two actions."""

    can_truncate = True

    def __init__(self, truncates=False, length=LENGTH):
        self.truncates, self.length = truncates, length

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=LENGTH)

    def sample_task(self, key, params):
        return {"limit": LENGTH, "worth": jax.random.uniform(key, minval=1.0, maxval=2.0)}

    def reset_env(self, key, params):
        start = jax.random.uniform(key)
        state = LadderState(time=jnp.zeros((), jnp.int32), start=start)
        return start[None], state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        ended = (state.time >= self.length) & (not self.truncates)
        return (state.start + state.time)[None], state, params["worth"] * action, ended, {}

    def is_truncated(self, state, params):
        return (state.time >= self.length) & self.truncates

    def observation_space(self, params):
        return Box(0.0, 10.0, (1,))

    def action_space(self, params):
        return Discrete(2)


def play(env, actions, seed=0):
    """Observations (the first included), rewards and ends, and the states."""
    observation, state = env.reset_env(jax.random.key(seed), env.default_params)
    found, states = [(observation, 0.0, False)], [state]
    for index, action in enumerate(actions):
        key = jax.random.key(100 + index)
        observation, state, reward, done, _ = env.step_env(key, state, jnp.asarray(action), env.default_params)
        found.append((observation, float(reward), bool(done)))
        states.append(state)
    return found, states


def test_what_is_shown_besides():
    env = Trials(Ladder(), trials=2, shows=("previous_observation", "progress"))
    found = [observation for observation, *_ in play(env, [1, 0, 1, 0, 0, 1])[0]]
    np.testing.assert_array_equal(found[0]["previous_observation"], [0.0])
    for before, after in itertools.pairwise(found):
        np.testing.assert_array_equal(after["previous_observation"], before["observation"])
    assert [float(each["progress"]) for each in found] == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 1.0]
    assert all(env.observation_space(env.default_params).contains(each) for each in found)
    by_steps = Trials(Ladder(), steps=4, shows=("progress",))
    assert [float(o["progress"]) for o, *_ in play(by_steps, [0] * 4)[0]] == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match=r"shows=\['time'\] must be of previous_observation, progress"):
        Trials(Ladder(), trials=2, shows=("time",))


@pytest.mark.parametrize("truncates", [False, True])
def test_a_meta_episode_is_its_trials_one_after_the_other(truncates):
    actions = [1, 0, 1, 0, 0, 1]
    found, states = play(Trials(Ladder(truncates), trials=2), actions)
    worth = float(states[0].task["worth"])
    assert all(float(state.task["worth"]) == worth for state in states)
    assert [done for *_, done in found] == [False] * 6 + [True]
    assert [int(o["trial_start"]) for o, *_ in found] == [1, 0, 0, 1, 0, 0, 0]
    assert [int(o["first_step"]) for o, *_ in found] == [1, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose([reward for _, reward, _ in found[1:]], [worth * action for action in actions])
    # What led here, across the end of a trial too; nothing at the first step.
    assert found[0][0]["previous_action"].tolist() == [0.0, 0.0] and float(found[0][0]["previous_reward"]) == 0.0
    for (observation, reward, _), action in zip(found[1:], actions, strict=True):
        assert observation["previous_action"].tolist() == [float(action == 0), float(action == 1)]
        np.testing.assert_allclose(float(observation["previous_reward"]), reward)
    # Starts are drawn anew for each trial; what ended the last one is shown.
    values = [float(o["observation"][0]) for o, *_ in found]
    first, second = values[0], values[3]
    assert 0 <= second < 1 and first != second
    np.testing.assert_allclose(values, [first, first + 1, first + 2, second, second + 1, second + 2, second + 3])
    np.testing.assert_allclose(states[3].trial_returns, [2 * worth, 0.0], rtol=1e-6)
    np.testing.assert_allclose(states[-1].trial_returns, [2 * worth, worth], rtol=1e-6)
    assert [int(state.trial) for state in states] == [0, 0, 0, 1, 1, 1, 2]


def test_trials_may_all_begin_alike():
    found, _ = play(Trials(Ladder(), trials=3, same_start=True), [0] * 8)
    values = [float(o["observation"][0]) for o, *_ in found]
    assert values[0] == values[3] == values[6]


def test_a_number_of_steps_cuts_off_the_last_trial():
    found, states = play(Trials(Ladder(), steps=5), [1] * 5)
    assert [done for *_, done in found] == [False] * 5 + [True]
    assert [int(o["trial_start"]) for o, *_ in found] == [1, 0, 0, 1, 0, 0]
    worth = float(states[-1].task["worth"])
    np.testing.assert_allclose(states[-1].trial_returns, [3 * worth, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(states[-1].trial_return, 2 * worth, rtol=1e-6)
    # A trial that ends with the last step starts no other, and is kept.
    found, states = play(Trials(Ladder(), steps=6), [1] * 6)
    assert int(found[-1][0]["trial_start"]) == 0 and int(states[-1].trial) == 2


@pytest.mark.parametrize("budget", [{"trials": 2}, {"steps": 2 * LENGTH}], ids=str)
def test_an_endless_meta_episode_is_cut_off_where_another_ends(budget):
    actions = [1] * (2 * LENGTH)
    (ended, _), (cut, states) = (
        play(Trials(Ladder(), endless=endless, **budget), actions) for endless in (False, True)
    )
    assert [done for *_, done in ended] == [False] * (2 * LENGTH) + [True]
    assert not any(done for *_, done in cut)
    env = Trials(Ladder(), endless=True, **budget)
    truncated = [bool(env.is_truncated(state, env.default_params)) for state in states]
    assert truncated == [False] * (2 * LENGTH) + [True]
    for (observation, reward, _), (expected, other, _) in zip(cut, ended, strict=True):
        assert reward == other
        jax.tree.map(np.testing.assert_array_equal, observation, expected)
    assert not Trials(Ladder(), **budget).can_truncate and env.can_truncate


def test_memory_is_cleared_between_meta_episodes_alone_and_each_has_a_task_of_its_own():
    env = VectorEnv(Trials(Ladder(), trials=2))
    state = env.reset(environment_keys(jax.random.key(0), 0, 3))
    step = jax.jit(env.step)
    resets, worths, outcomes = [state.timestep.reset], [state.env_state.task["worth"]], []
    for _ in range(12):
        state, outcome = step(state, jnp.ones(3, jnp.int32))
        resets.append(state.timestep.reset)
        worths.append(state.env_state.task["worth"])
        outcomes.append(outcome)
    every = np.array(resets)
    assert (every == (np.arange(13) % 6 == 0)[:, None]).all()
    worths = np.array(worths)
    assert (worths[:6] == worths[0]).all() and (worths[6:12] == worths[6]).all()
    assert len(np.unique(worths[[0, 6]])) == 6
    # The end is a termination: nothing is beyond. A meta-episode's return is the sum of its trials'.
    assert (
        np.array([o.terminated for o in outcomes]).any(0).all() and not np.array([o.truncated for o in outcomes]).any()
    )
    np.testing.assert_allclose(outcomes[5].episode_return, 6 * worths[0], rtol=1e-6)
    assert (np.asarray(state.timestep.observation["first_step"]) == 1).all()


@pytest.mark.parametrize("budget", [{"trials": 1}, {"trials": 2}, {"trials": 3}, {"steps": 5}, {"trials": 20}])
def test_tasks_are_drawn_ahead_for_as_many_meta_episodes_as_can_end(budget):
    steps = 9
    # Trials of a single step, the shortest there are; then rollouts begin anywhere in a meta-episode.
    vector = VectorEnv(Trials(Ladder(length=1), **budget), num_steps=steps)
    state = vector.reset(environment_keys(jax.random.key(0), 0, 2))
    begin, step = jax.jit(vector.begin_rollout), jax.jit(vector.step)
    actions, worths = jnp.zeros(2, jnp.int32), [[], []]
    for _ in range(4):
        state = begin(state)
        for _ in range(steps):
            state, outcome = step(state, actions)
            for index in np.flatnonzero(outcome.ended):
                worths[index].append(float(state.env_state.task["worth"][index]))
    met = 4 * steps // next(iter(budget.values()))
    assert len(worths[0]) == len(worths[1]) == met
    assert len(set(worths[0] + worths[1])) == 2 * met


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of trials=None and steps=None"),
        (dict(trials=2, steps=9), "exactly one of trials=2 and steps=9"),
        (dict(trials=0), "trials=0 must be a whole number of at least 1"),
        (dict(trials=1.5), "trials=1.5 must be a whole number of at least 1"),
        (dict(steps="20"), "steps='20' must be a whole number of at least 1"),
        (dict(trials=2, endless="yes"), "endless='yes' must be true or false"),
        (dict(trials=2**31), "makes meta-episodes of 2\\^31 steps or more"),
        (
            dict(steps=2),
            r"steps=2 of a meta-episode must be at least the longest trial, max_steps_in_episode=3 of Ladder",
        ),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Trials(Ladder(), **arguments)


def test_any_environment_by_its_id():
    env = make("trials/popgym/RepeatFirstEasy", trials=2)
    assert env.longest_episode(env.default_params) == 2 * 51
    with pytest.raises(ValueError, match=r"steps=10 of a meta-episode must be at least .*51"):
        make("trials/popgym/RepeatFirstEasy", steps=10)
    with pytest.raises(ValueError, match=r"gymnasium/CartPole-v1 steps on the host; meta-episodes are made of"):
        make("trials/gymnasium/CartPole-v1", trials=2)
    with pytest.raises(ValueError, match="unknown env id"):
        make("trials/popgym/Nothing", trials=2)
