"""Self-paced contexts: the choice by hand, tasks drawn from the set alone, and a run that uses it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import VectorEnv, environment_keys, make
from hippodrome.envs.trials import TaskSet
from hippodrome.training import train
from hippodrome.training.config import CurriculumConfig
from hippodrome.training.curriculum import Curriculum, CurriculumState
from hippodrome.training.errors import ConfigError
from hippodrome.training.log.metrics import read_metrics
from tests.tiny import newest_state, tiny_config

GRID = dict(env__id="meta/GridNavigation", env__kwargs=["trials=2", "size=4", "horizon=2"])


def curriculum(**options):
    config = CurriculumConfig(kind="space", num_tasks=5, step=2, threshold=0.1, **options)
    return Curriculum(config, VectorEnv(make("meta/Bandit", steps=4)))


def test_tasks_are_ordered_by_growth_and_more_are_taken_where_it_stops():
    rules = curriculum()
    state = CurriculumState(
        order=jnp.array([3, 0, 1, 2, 4]), size=jnp.asarray(2), values=jnp.zeros(5), rounds=jnp.asarray(0)
    )
    first = rules.choose(state, jnp.array([1.0, 2.0, 3.0, 1.0, 5.0]))
    assert first.order.tolist() == [3, 0, 1, 2, 4] and int(first.size) == 2 and int(first.rounds) == 1
    # Tasks 3 and 0 are worth 1 each on average; now 1.5 each: growing, so no more of them.
    second = rules.choose(first, jnp.array([1.4, 2.0, 2.0, 1.6, 9.0]))
    assert second.order.tolist() == [4, 3, 0, 1, 2] and int(second.size) == 2
    # Tasks 4 and 3: 5.3 before, 5.5 now, less than a tenth more.
    third = rules.choose(second, jnp.array([1.4, 7.0, 2.0, 1.6, 9.4]))
    assert third.order.tolist() == [1, 4, 0, 2, 3] and int(third.size) == 4
    last = rules.choose(third, third.values)
    assert int(last.size) == 5


def test_only_tasks_of_the_set_are_drawn():
    env = make("meta/Bandit", steps=4)
    tasks = {
        number: tuple(env.sample_task(env.task_key(jnp.asarray(number)), env.default_params).chances.tolist())
        for number in range(5)
    }
    params = TaskSet(env.default_params, jnp.array([4, 1, 0, 2, 3]), jnp.asarray(2))
    envs = VectorEnv(env).with_params(params)
    state = envs.reset(environment_keys(jax.random.key(0), 0, 40))
    step, seen = jax.jit(envs.step), set()
    for _ in range(9):
        seen |= {tuple(row) for row in state.env_state.task.chances.tolist()}
        state, _ = step(state, jnp.zeros(40, jnp.int32))
    assert seen == {tasks[4], tasks[1]}


def test_values_are_those_of_the_tasks_first_observations():
    envs = VectorEnv(make("meta/CartPole", trials=1))
    rules = Curriculum(CurriculumConfig(kind="space", num_tasks=3), envs)
    agent = types.SimpleNamespace(
        initial_carry=lambda number: jnp.zeros(number),
        value=lambda params, carry, timestep: params * timestep.observation["observation"].sum(-1) + timestep.reset,
    )
    values = rules.values(agent, 2.0)
    for number in range(3):
        key = envs.env.task_key(jnp.asarray(number))
        observation, _ = envs.env.begin(envs.env.sample_task(key, envs.params), key)
        np.testing.assert_allclose(values[number], 2.0 * observation["observation"].sum() + 1.0, rtol=1e-5)


def test_a_run_paces_itself(tmp_path):
    flags = dict(curriculum__kind="space", curriculum__num_tasks=6, curriculum__step=2, curriculum__every_updates=1)
    config = tiny_config(**GRID, **flags, curriculum__threshold=1e9, total_env_steps=256)
    run = train(config, run_dir=tmp_path / "run")
    # The first round takes values, each one after stands still under such a threshold.
    assert [row["curriculum_size"] for row in read_metrics(run)] == [2.0, 4.0, 6.0, 6.0]
    state = newest_state(run, config)
    assert int(state.curriculum.rounds) == 4 and sorted(state.curriculum.order.tolist()) == list(range(6))


def test_it_needs_meta_episodes(tmp_path):
    with pytest.raises(ConfigError, match=r"curriculum.kind=space needs an environment of meta-episodes.*one task"):
        train(tiny_config(curriculum__kind="space"), run_dir=tmp_path / "run")
    alone = {"env__id": "trials/popgym/RepeatPreviousEasy", "env__kwargs": ["trials=2"]}
    with pytest.raises(
        ConfigError, match=r"with many tasks, .* env.id='trials/popgym/RepeatPreviousEasy' has one task"
    ):
        train(tiny_config(**alone, curriculum__kind="space", total_env_steps=4096), run_dir=tmp_path / "run")
