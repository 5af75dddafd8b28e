"""The PPO objective and each of its options, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.agents import PPOConfig
from hippodrome.agents.ppo_loss import Targets, advantage_scale, policy_loss, ppo_loss, value_loss


def targets(value, value_target):
    value, value_target = jnp.atleast_2d(jnp.array(value)), jnp.atleast_2d(jnp.array(value_target))
    return Targets(jnp.zeros_like(value), value, value_target - value, value_target)


def test_policy_loss_by_hand():
    ratio = jnp.array([1.5, 1.5, 0.5, 0.5])
    advantage = jnp.array([1.0, -1.0, 1.0, -1.0])
    # min(r A, clip(r) A) = 1.2, -1.5, 0.5, -0.8
    np.testing.assert_allclose(policy_loss(jnp.log(ratio), advantage, 0.2), -(1.2 - 1.5 + 0.5 - 0.8) / 4, rtol=1e-6)


def test_dual_clip_bounds_the_loss_at_negative_advantages():
    log_ratio, advantage = jnp.log(jnp.array([10.0, 10.0])), jnp.array([-1.0, 1.0])
    np.testing.assert_allclose(policy_loss(log_ratio, advantage, 0.2), (10 - 1.2) / 2, rtol=1e-6)
    np.testing.assert_allclose(policy_loss(log_ratio, advantage, 0.2, dual_clip=3.0), (3 - 1.2) / 2, rtol=1e-6)


def test_value_loss_by_hand():
    goal = targets([0.0, 0.0], [1.0, 4.0])
    prediction = jnp.array([[0.5, 1.0]])
    np.testing.assert_allclose(value_loss(prediction, goal, "mse", None), (0.125 + 4.5) / 2)
    np.testing.assert_allclose(value_loss(prediction, goal, "huber", None), (0.125 + 2.5) / 2)
    # Kept within 0.2 of the old value, the errors are 0.8 and 3.8.
    np.testing.assert_allclose(value_loss(prediction, goal, "mse", 0.2), (0.32 + 7.22) / 2, rtol=1e-6)


def test_clipped_value_loss_stops_the_gradient_beyond_the_clip():
    gradient = jax.grad(lambda v: value_loss(v, targets([0.0], [1.0]), "mse", 0.2))(jnp.array([[0.5]]))
    np.testing.assert_array_equal(gradient, 0.0)


def test_advantages_get_mean_0_and_deviation_1_over_minibatch_or_batch():
    advantage = jnp.array([[1.0, 2.0, -5.0, 8.0], [3.0, 10.0, 0.5, 4.0]])
    order = jnp.array([[0, 2], [3, 1], [2, 1]])
    centre, scale = advantage_scale(advantage, order, "minibatch", None)
    for envs, each_centre, each_scale in zip(order, centre, scale, strict=True):
        part = advantage[:, envs]
        np.testing.assert_allclose(each_scale * (part - each_centre), (part - part.mean()) / part.std(), rtol=1e-5)
    centre, scale = advantage_scale(advantage, order, "batch", None)
    np.testing.assert_allclose(centre, 3 * [advantage.mean()], rtol=1e-6)
    np.testing.assert_allclose(scale, 3 * [1 / advantage.std()], rtol=1e-6)
    centre, scale = advantage_scale(advantage, order, "none", None)
    assert centre.tolist() == [0.0] * 3 and scale.tolist() == [1.0] * 3


def test_total_and_metrics():
    config = PPOConfig(value_coef=0.5, normalize_advantage="none")
    goal = dataclasses.replace(targets([0.0, 0.0], [1.0, -1.0]), log_prob=jnp.log(jnp.array([[0.5, 0.5]])))
    log_prob = jnp.log(jnp.array([[0.75, 0.5]]))
    total, metrics = ppo_loss(config, log_prob, jnp.array([[0.6, 0.8]]), jnp.zeros((1, 2)), goal, 0.1)
    policy = -(1.2 - 1.0) / 2
    np.testing.assert_allclose(metrics["policy_loss"], policy, rtol=1e-5)
    np.testing.assert_allclose(total, policy + 0.5 * 0.5 - 0.1 * 0.7, rtol=1e-5)
    np.testing.assert_allclose(metrics["approx_kl"], (0.5 - np.log(1.5)) / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["clip_fraction"], 0.5)
