"""Recurrent PPO: what acts is what learns, bootstraps at cuts, options, and probe environments with known values."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents import PPO, PPOConfig
from hippodrome.agents.optimizers import coefficient_schedule
from hippodrome.agents.ppo_update import _minibatch_order
from hippodrome.envs import Timestep, VectorEnv, environment_keys
from hippodrome.memory import memory_config
from hippodrome.training.rollout import collect
from tests import probes

NUM_ENVS, NUM_STEPS = 16, 8
MEMORIES = {
    "none": memory_config("none")(d_model=16, num_layers=1),
    "s5": memory_config("s5")(d_model=16, d_state=8, num_layers=1),
    "gru": memory_config("gru")(d_model=16, num_layers=1),
}
SMALL = dict(encoder_sizes=(16,), head_sizes=(16,), num_steps=NUM_STEPS, num_minibatches=2, num_epochs=2)


def make(probe, memory="none", num_updates=10, **options):
    envs = VectorEnv(probe(), num_steps=NUM_STEPS)
    config = PPOConfig(**{**SMALL, **options})
    agent = PPO(config, MEMORIES[memory], envs.observation_space, envs.action_space, num_updates=num_updates)
    return agent, envs


def run(agent, envs, num_updates, seed=0):
    """Training by hand, in one program: returns the learner's state, the last rollout and the stacked metrics."""
    bootstrap = not agent.config.truncation_is_terminal

    def update(carried, key):
        state, envs_state, carry = carried
        rollout_key, learn_key = jax.random.split(key)
        envs_state, carry, rollout = collect(
            agent, envs, state.params, envs_state, carry, rollout_key,
            num_steps=NUM_STEPS, bootstrap_truncation=bootstrap,
        )  # fmt: skip
        state, metrics = agent.learn(state, rollout, learn_key)
        ended = rollout.outcome.ended
        mean = jnp.sum(rollout.outcome.episode_return * ended) / jnp.maximum(ended.sum(), 1)
        return (state, envs_state, carry), ({**metrics, "episode_return": mean}, rollout)

    @jax.jit
    def train(key):
        key, learner_key, env_key = jax.random.split(key, 3)
        state = agent.init(learner_key, NUM_ENVS)
        start = (state, envs.reset(environment_keys(env_key, 0, NUM_ENVS)), agent.initial_carry(NUM_ENVS))
        return jax.lax.scan(update, start, jax.random.split(key, num_updates))

    (state, _, _), (metrics, rollouts) = train(jax.random.key(seed))
    return state, jax.tree.map(lambda leaf: leaf[-1], rollouts), metrics


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_learns_is_what_acted(memory):
    """From the stored carry, over resets, the sequence pass gives the log-probabilities and values of the step pass."""
    agent, envs = make(probes.RememberedCue, memory)

    @jax.jit
    def act_then_learn():
        state = agent.init(jax.random.key(0), NUM_ENVS)
        envs_state = envs.reset(environment_keys(jax.random.key(1), 0, NUM_ENVS))
        carry = agent.initial_carry(NUM_ENVS)
        # Three steps first, so that the stored carry is not zero and episodes end in the middle of the rollout.
        envs_state, carry, _ = collect(agent, envs, state.params, envs_state, carry, jax.random.key(2), num_steps=3)
        _, last_carry, rollout = collect(
            agent, envs, state.params, envs_state, carry, jax.random.key(3), num_steps=NUM_STEPS
        )
        features = agent.features(state.params, rollout.timestep)
        final, outputs, log_std, value = agent.network.apply(
            state.params.network, rollout.initial_carry, features, rollout.timestep.reset
        )
        return rollout, last_carry, final, agent.distribution.log_prob(outputs, log_std, rollout.decision.action), value

    rollout, last_carry, final, log_prob, value = act_then_learn()
    assert rollout.timestep.reset[1:].any() and not rollout.timestep.reset[0].all()
    np.testing.assert_allclose(log_prob, rollout.decision.log_prob, atol=1e-5)
    np.testing.assert_allclose(value, rollout.decision.value, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), final, last_carry)


def test_truncation_bootstraps_from_the_final_observation_under_the_carry_before_the_reset():
    agent, envs = make(probes.EndlessReward, "gru")
    state = jax.jit(agent.init, static_argnums=1)(jax.random.key(0), 2)
    envs_state = jax.jit(envs.reset)(environment_keys(jax.random.key(1), 0, 2))
    _, _, rollout = jax.jit(
        lambda s: collect(agent, envs, state.params, s, agent.initial_carry(2), jax.random.key(2), num_steps=5)
    )(envs_state)
    np.testing.assert_array_equal(rollout.outcome.truncated[:, 0], [False] * 4 + [True])
    np.testing.assert_array_equal(rollout.final_value[:4], 0.0)
    # By hand: run the five steps again, then a sixth with reset False and the true previous action and reward.
    carry = agent.initial_carry(2)
    for t in range(5):
        timestep = jax.tree.map(lambda leaf, t=t: leaf[t], rollout.timestep)
        carry, _ = agent.act(state.params, carry, timestep, None, deterministic=True)
    sixth = Timestep(
        observation=jnp.zeros((2, 1)),
        reset=jnp.array([False, False]),
        previous_action=rollout.decision.action[4],
        previous_reward=jnp.ones(2),
    )
    np.testing.assert_allclose(rollout.final_value[4], agent.value(state.params, carry, sixth), atol=1e-6)
    fresh = dataclasses.replace(sixth, reset=jnp.array([True, True]))
    assert not np.allclose(rollout.final_value[4], agent.value(state.params, carry, fresh), atol=1e-4)


FAST = dict(learning_rate=1e-2, gamma=0.5, num_epochs=4)


def last_values(rollout):
    return np.asarray(rollout.decision.value)


def test_value_of_a_constant_and_of_a_seen_reward():
    agent, envs = make(probes.SeenReward, **FAST)
    _, rollout, _ = run(agent, envs, 60)
    np.testing.assert_allclose(last_values(rollout), rollout.timestep.observation[..., 0], atol=0.1)
    agent, envs = make(probes.ConstantReward, **FAST)
    _, rollout, _ = run(agent, envs, 40)
    np.testing.assert_allclose(last_values(rollout), 1.0, atol=0.1)


def test_value_is_discounted():
    agent, envs = make(probes.LateReward, **FAST)
    _, rollout, _ = run(agent, envs, 60)
    second = np.asarray(rollout.timestep.observation[..., 0]) > 0
    np.testing.assert_allclose(last_values(rollout)[~second], 0.5, atol=0.1)
    np.testing.assert_allclose(last_values(rollout)[second], 1.0, atol=0.1)


@pytest.mark.parametrize(("terminal", "first"), [(False, 2.0), (True, (1 - 0.5**5) / 0.5)])
def test_truncation_is_not_an_end_unless_told(terminal, first):
    agent, envs = make(probes.EndlessReward, truncation_is_terminal=terminal, inputs=("first_step",), **FAST)
    _, rollout, _ = run(agent, envs, 80)
    at_first = np.asarray(rollout.timestep.reset)
    np.testing.assert_allclose(last_values(rollout)[at_first], first, atol=0.06)
    # A policy that cannot see time: 2 at every step, or the mean over the later steps of an episode that ends.
    later = 2.0 if not terminal else np.mean([(1 - 0.5**n) / 0.5 for n in (1, 2, 3, 4)])
    np.testing.assert_allclose(last_values(rollout)[~at_first].mean(), later, atol=0.1)


def test_policy_follows_the_cue():
    agent, envs = make(probes.CuedAction, **FAST)
    _, _, metrics = run(agent, envs, 40)
    assert metrics["episode_return"][-5:].mean() > 0.9


@pytest.mark.parametrize(("memory", "low", "high"), [("s5", 0.9, 1.01), ("gru", 0.9, 1.01), ("none", -0.4, 0.4)])
def test_only_memory_remembers_the_cue(memory, low, high):
    options = {**FAST, "gamma": 0.99, "learning_rate": 5e-3}
    agent, envs = make(probes.RememberedCue, memory, **options)
    _, _, metrics = run(agent, envs, 80)
    assert low < metrics["episode_return"][-10:].mean() < high


def test_previous_action_is_seen_only_as_an_input():
    agent, envs = make(probes.AlternateAction, **FAST)
    _, _, metrics = run(agent, envs, 60)
    assert metrics["episode_return"][-5:].mean() > 0.85
    agent, envs = make(probes.AlternateAction, inputs=("previous_reward", "first_step"), **FAST)
    _, _, metrics = run(agent, envs, 60)
    assert metrics["episode_return"][-5:].mean() < 0.85


def test_continuous_action_reaches_its_target():
    agent, envs = make(probes.ContinuousTarget, **{**FAST, "learning_rate": 5e-3})
    state, rollout, _ = run(agent, envs, 100)
    _, decision = agent.act(
        state.params, agent.initial_carry(NUM_ENVS), jax.tree.map(lambda x: x[-1], rollout.timestep), None,
        deterministic=True,
    )  # fmt: skip
    np.testing.assert_allclose(decision.env_action, 1.5, atol=0.25)


@pytest.mark.parametrize("dependent", [True, False])
def test_deviation_depends_on_the_state_where_asked(dependent):
    agent, envs = make(probes.CuedPrecision, state_dependent_std=dependent, **{**FAST, "learning_rate": 5e-3})
    state, rollout, _ = run(agent, envs, 60)
    features = agent.features(state.params, rollout.timestep)
    reset = rollout.timestep.reset
    _, outputs, log_std, _ = agent.network.apply(state.params.network, rollout.initial_carry, features, reset)
    assert outputs.shape == log_std.shape == (NUM_STEPS, NUM_ENVS, 1)
    log_prob = agent.distribution.log_prob(outputs, log_std, rollout.decision.action)
    assert np.isfinite(log_prob).all()
    seen = rollout.timestep.observation[..., 0] > 0
    precise, free = (float(np.exp(log_std[mask]).mean()) for mask in (np.asarray(seen), ~np.asarray(seen)))
    assert precise < 0.6
    assert precise < 0.5 * free if dependent else precise == pytest.approx(free)
    assert ("log_std" in state.params.network["params"]) is not dependent


def test_multi_discrete_action_and_unshared_memory():
    agent, envs = make(probes.TwoPartAction, "gru", share_memory=False, **FAST)
    _, _, metrics = run(agent, envs, 40)
    assert metrics["episode_return"][-5:].mean() > 0.9
    carry = agent.initial_carry(3)
    assert [leaf.shape[0] for leaf in jax.tree.leaves(carry)] == [3, 3]


@functools.cache
def first_metrics(memory="none", **options):
    agent, envs = make(probes.RememberedCue, memory, **options)
    state, _, metrics = run(agent, envs, 2)
    return agent, state, jax.tree.map(np.asarray, metrics)


def test_first_minibatch_has_ratio_one():
    """Also with normalised observations: the statistics are those the policy acted with."""
    _, state, metrics = first_metrics("gru", num_epochs=1, num_minibatches=1, normalize_observation=True)
    np.testing.assert_allclose(metrics["approx_kl"], 0.0, atol=1e-6)
    np.testing.assert_array_equal(metrics["clip_fraction"], 0.0)
    assert state.params.observation_statistics.count > 2 * NUM_ENVS * NUM_STEPS - 1


def test_target_kl_stops_the_update():
    _, _, free = first_metrics()
    _, _, bounded = first_metrics(learning_rate=0.05, target_kl=1e-3)
    np.testing.assert_array_equal(free["minibatches_applied"], 4)
    assert (bounded["minibatches_applied"] >= 1).all() and (bounded["minibatches_applied"] < 4).all()


def test_reward_normalisation_divides_by_the_deviation_of_the_discounted_return():
    agent, envs = make(probes.CuedAction, normalize_reward=True, gamma=0.5)
    state, rollout, _ = run(agent, envs, 5)
    # Every episode is one step of reward 1 or -1, so the discounted return is the reward: variance near 1.
    np.testing.assert_allclose(state.reward_statistics.variance, 1.0, atol=0.1)
    np.testing.assert_array_equal(state.discounted_return, 0.0)
    assert set(np.unique(rollout.outcome.reward)) == {-1.0, 1.0}


def test_bfloat16_keeps_parameters_and_outputs_in_float32():
    agent, state, metrics = first_metrics(precision="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    _, _, exact = first_metrics()
    assert np.isfinite(metrics["loss"]).all()
    np.testing.assert_allclose(metrics["entropy"], exact["entropy"], atol=0.02)
    assert agent.features(state.params, envs_timestep()).dtype == jnp.bfloat16


def envs_timestep():
    return Timestep(jnp.zeros((1, 1)), jnp.ones(1, bool), -jnp.ones(1, jnp.int32), jnp.zeros(1))


def test_normalize_advantage_over_the_batch_or_not_at_all_changes_the_gradient():
    norms = [
        first_metrics(**({} if kind == "minibatch" else {"normalize_advantage": kind}))[2]["policy_loss"][0]
        for kind in ("minibatch", "batch", "none")
    ]
    assert len({round(float(norm), 6) for norm in norms}) == 3


def test_schedules():
    assert coefficient_schedule("constant", 1.0, 0, 10)(7) == 1.0
    np.testing.assert_allclose([coefficient_schedule("linear", 1.0, 0, 10)(t) for t in (0, 5, 10)], [1, 0.5, 0])
    cosine = coefficient_schedule("cosine", 1.0, 2, 12)
    np.testing.assert_allclose([cosine(t) for t in (0, 1, 2, 7, 12)], [0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_entropy_bonus_goes_down_to_nothing():
    agent, envs = make(probes.CuedAction, entropy_coef=0.2, entropy_schedule="linear", num_updates=5)
    metrics = run(agent, envs, 5)[2]
    bonus = metrics["policy_loss"] + agent.config.value_coef * metrics["value_loss"] - metrics["loss"]
    np.testing.assert_allclose(bonus / metrics["entropy"], 0.2 * (1 - np.arange(5) / 5), atol=1e-4)


def test_state_space_parameters_take_their_own_learning_rate():
    agent, envs = make(probes.ConstantReward, "s5", ssm_learning_rate_factor=0.0, learning_rate=1e-2)
    before = jax.jit(agent.init, static_argnums=1)(jax.random.split(jax.random.key(0), 3)[1], NUM_ENVS).params.network
    after = run(agent, envs, 2)[0].params.network
    from hippodrome.memory import parameter_labels

    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    labels = parameter_labels(before)
    by_label = {name: [] for name in ("ssm", "regular")}
    jax.tree.map(lambda label, changed: by_label[label].append(changed), labels, moved)
    assert by_label["ssm"] and not any(by_label["ssm"])
    assert any(by_label["regular"])


@pytest.mark.parametrize("num_shards", [1, 2])
def test_minibatches_partition_the_environments_and_share_the_shards(num_shards):
    agent = SimpleNamespace(config=PPOConfig(num_epochs=3, num_minibatches=2), num_shards=num_shards, axis_name=None)
    order = np.asarray(_minibatch_order(agent, jax.random.key(0), 8))
    assert order.shape == (6, 4)
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(order[2 * epoch : 2 * epoch + 2].ravel()), np.arange(8))
    if num_shards == 2:
        np.testing.assert_array_equal((order < 4).sum(axis=1), 2)


def test_bad_values_are_all_named():
    with pytest.raises(ValueError, match=r"gamma=2.0 must be between 0 and 1; clip_eps=0 must be positive"):
        PPOConfig(gamma=2.0, clip_eps=0)
