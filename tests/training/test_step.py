"""The pure train step: alone, over seeds, over devices; standing still after a nan; keeping the best."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hippodrome.envs import Outcome
from hippodrome.training.step import Best, _train_step, initial_state, make_experiment, watched_metrics
from tests.compare import assert_close
from tests.tiny import tiny_config


@struct.dataclass
class Learner:
    params: object


def start(config):
    experiment = make_experiment(config)
    state = jax.jit(lambda: initial_state(experiment, config))()
    return experiment, experiment.place(state), jax.jit(experiment.step)


def test_the_state_keeps_its_types_so_that_one_program_serves_every_update():
    config = tiny_config(agent__normalize_observation=True, agent__normalize_reward=True)
    experiment = make_experiment(config)
    before = jax.eval_shape(lambda: initial_state(experiment, config))
    after, _ = jax.eval_shape(experiment.step, before)

    def signature(leaf):
        return leaf.shape, leaf.dtype, leaf.weak_type

    assert jax.tree.map(signature, before) == jax.tree.map(signature, after)


def test_seeds_begin_without_batched_factorisations():
    """Batched QR kernels (orthogonal initialisers under vmap) wait for the threads they run on: two at once hang."""
    config = tiny_config(num_seeds=2)
    experiment = make_experiment(config)
    program = str(jax.make_jaxpr(lambda: initial_state(experiment, config))())
    shapes = re.findall(r"f32\[([\d,]+)\] \w+:f32\[[\d,]+\] = qr\[", program)
    assert shapes and all(shape.count(",") == 1 for shape in shapes)


@pytest.fixture(scope="module")
def seeds():
    """Two seeds by vmap: the state after two updates and the metrics of the second."""
    config = tiny_config(num_seeds=2, seed=3)
    _, state, step = start(config)
    states = [state]
    for _ in range(2):
        state, metrics = step(state)
        states.append(state)
    return config, step, states, metrics


def test_vmapped_seeds_equal_the_seeds_alone(seeds):
    _, _, states, metrics = seeds
    for index in range(2):
        _, state, step = start(tiny_config(seed=3 + index))
        for _ in range(2):
            state, own_metrics = step(state)
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], states[-1].learner.params), state.learner.params)
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], states[-1].envs), state.envs)
        np.testing.assert_allclose(metrics["loss"][index], own_metrics["loss"], rtol=1e-4)


def test_a_seed_that_is_not_finite_stands_still_and_the_other_goes_on(seeds):
    _, step, states, _ = seeds
    state = states[1]

    def poison(leaf):
        return leaf.at[1].set(jnp.nan)

    params = jax.tree.map(poison, state.learner.params)
    poisoned = state.replace(learner=state.learner.replace(params=params))
    after, metrics = step(poisoned)
    np.testing.assert_array_equal(after.failed_update, [-1, 1])
    np.testing.assert_array_equal(after.update, [2, 1])
    assert watched_metrics(metrics)[int(after.failed_metric[1])] in metrics
    healthy = jax.tree.map(lambda leaf: leaf[0], after.replace(failed_metric=states[2].failed_metric))
    assert_close(healthy, jax.tree.map(lambda leaf: leaf[0], states[2]))
    np.testing.assert_array_equal(after.envs.episode_length[1], state.envs.episode_length[1])
    # The update and the metric of the first failure are kept.
    again, _ = step(after)
    np.testing.assert_array_equal(again.failed_update, [-1, 1])
    np.testing.assert_array_equal(again.failed_metric, after.failed_metric)


def test_best_holds_the_parameters_that_acted():
    _, state, step = start(tiny_config(agent__num_steps=64, total_env_steps=64 * 8))
    scores = []
    for _ in range(6):
        before = state
        state, metrics = step(state)
        if not scores or metrics["episode_return"] > max(scores):
            expected, update = before.learner.params, int(before.update)
        scores.append(float(metrics["episode_return"]))
        assert_close(state.best.params, expected, rtol=0, atol=0)
        assert float(state.best.score) == max(scores) and int(state.best.update) == update


@pytest.mark.parametrize("num_seeds", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_devices_equal_one_in_two_shards(num_seeds):
    if jax.device_count() < 2:
        pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=2, which tests/conftest.py sets")
    options = dict(num_shards=2, num_seeds=num_seeds, agent__normalize_observation=True, agent__normalize_reward=True)
    results = []
    for num_devices in (1, 2):
        config = dataclasses.replace(tiny_config(**options), num_devices=num_devices)
        _, state, step = start(config)
        for _ in range(2):
            state, metrics = step(state)
        results.append((state, metrics))
    (one, one_metrics), (two, two_metrics) = results
    assert len(two.envs.episode_length.sharding.device_set) == 2
    assert_close(two.learner.params, one.learner.params, rtol=1e-5, atol=1e-5)
    assert_close(two.envs, one.envs)
    assert_close(two.learner.discounted_return, one.learner.discounted_return)
    np.testing.assert_allclose(two_metrics["loss"], one_metrics["loss"], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(two_metrics["episodes"], one_metrics["episodes"])


@pytest.mark.parametrize(
    ("metrics", "failed"),
    [
        ({"entropy": 1.0, "loss": 2.0}, None),
        ({"entropy": 1.0, "loss": np.nan}, "loss"),
        ({"entropy": np.inf, "loss": 1.0}, "entropy"),
        ({"entropy": np.nan, "learner_updates": 0.0}, None),  # nothing was learnt: replay holds no window yet
        ({"entropy": np.nan, "learner_updates": 1.0}, "entropy"),
        ({"entropy": 1.0, "params": np.nan}, "params"),
    ],
)
def test_a_metric_that_is_not_finite_fails_the_update_though_the_parameters_are_finite(metrics, failed):
    metrics = {name: jnp.asarray(value) for name, value in metrics.items()}
    params = metrics.pop("params", jnp.ones(()))
    config = tiny_config()
    state = jax.jit(lambda: initial_state(make_experiment(config), config))()
    ended = jnp.zeros((1, 8), bool)
    outcome = Outcome(jnp.zeros((1, 8)), ended, ended, None, jnp.zeros((1, 8)), jnp.zeros((1, 8), jnp.int32))
    state = dataclasses.replace(state, learner=Learner(jnp.ones(())), best=Best(jnp.ones(()), *([jnp.zeros(())] * 2)))
    after, seen = jax.jit(
        lambda state: _train_step(
            None, None, lambda *_, **__: ({"learner": Learner(params)}, metrics, outcome), None, state, None
        )
    )(state)
    assert (int(after.failed_update) >= 0) == (failed is not None)
    if failed is not None:
        assert watched_metrics(seen)[int(after.failed_metric)] == failed
    assert float(after.learner.params) == 1.0
