"""Advantages and returns against rlax, hand-computed arrays and their own equivalences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from hippodrome.agents.returns import generalized_advantage, lambda_returns, next_values

T = 12


def rollout(seed: int):
    """A rollout of one environment with episodes ending in the middle in both ways."""
    rng = np.random.default_rng(seed)
    terminated = np.zeros(T, bool)
    truncated = np.zeros(T, bool)
    terminated[[2, 9]] = True
    truncated[[5, 6, 11]] = True
    return {
        "reward": rng.normal(size=T).astype(np.float32),
        "value": rng.normal(size=T).astype(np.float32),
        "final_value": rng.normal(size=T).astype(np.float32),
        "last_value": np.float32(rng.normal()),
        "terminated": terminated,
        "truncated": truncated,
    }


def beyond(r):
    return next_values(r["value"], r["last_value"], r["final_value"], r["terminated"], r["truncated"])


def episodes(r):
    """Slices of the rollout, one per (part of an) episode, with the value beyond its last step."""
    start = 0
    for t in range(T):
        if r["terminated"][t] or r["truncated"][t] or t == T - 1:
            end_value = 0.0 if r["terminated"][t] else r["final_value"][t] if r["truncated"][t] else r["last_value"]
            yield slice(start, t + 1), end_value
            start = t + 1


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_generalized_advantage_equals_rlax_episode_by_episode(gae_lambda):
    r = rollout(0)
    ended = r["terminated"] | r["truncated"]
    ours = generalized_advantage(r["reward"], r["value"], beyond(r), ended, 0.9, gae_lambda)
    for part, end_value in episodes(r):
        values = np.append(r["value"][part], end_value).astype(np.float32)
        # The value beyond is in `values`, so the discount is the same at every step, the last one included.
        discount = np.full(len(values) - 1, 0.9, np.float32)
        oracle = rlax.truncated_generalized_advantage_estimation(r["reward"][part], discount, gae_lambda, values)
        np.testing.assert_allclose(ours[part], oracle, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_lambda_returns_equal_rlax_episode_by_episode(gae_lambda):
    r = rollout(1)
    ended = r["terminated"] | r["truncated"]
    ours = lambda_returns(r["reward"], beyond(r), ended, 0.9, gae_lambda)
    for part, end_value in episodes(r):
        following = np.append(r["value"][part][1:], end_value).astype(np.float32)
        discount = np.full(len(following), 0.9, np.float32)
        oracle = rlax.lambda_returns(r["reward"][part], discount, following, gae_lambda)
        np.testing.assert_allclose(ours[part], oracle, rtol=1e-5, atol=1e-6)


def test_lambda_return_is_advantage_plus_value():
    r = rollout(2)
    ended = r["terminated"] | r["truncated"]
    advantage = generalized_advantage(r["reward"], r["value"], beyond(r), ended, 0.95, 0.8)
    targets = lambda_returns(r["reward"], beyond(r), ended, 0.95, 0.8)
    np.testing.assert_allclose(targets, advantage + r["value"], rtol=1e-5, atol=1e-6)


def test_generalized_advantage_by_hand():
    # Two episodes: steps 0-1 terminated, step 2 truncated into a final value of 10, step 3 runs on into 20.
    values = jnp.array([1.0, 2.0, 3.0, 4.0])
    following = next_values(
        values,
        jnp.array(20.0),
        jnp.array([7.0, 7.0, 10.0, 7.0]),
        jnp.array([False, True, False, False]),
        jnp.array([False, False, True, False]),
    )
    np.testing.assert_allclose(following, [2.0, 0.0, 10.0, 20.0])
    ended = jnp.array([False, True, True, False])
    advantage = generalized_advantage(jnp.ones(4), values, following, ended, 0.5, 0.5)
    # delta = [1 + .5*2 - 1, 1 - 2, 1 + 5 - 3, 1 + 10 - 4] = [1, -1, 3, 7]; only step 0 looks on, by .25.
    np.testing.assert_allclose(advantage, [1.0 - 0.25, -1.0, 3.0, 7.0])


def test_nothing_crosses_an_end():
    r = rollout(3)
    ended = r["terminated"] | r["truncated"]

    def early_advantages(reward):
        return generalized_advantage(reward, r["value"], beyond(r), ended, 0.99, 0.95)[:3].sum()

    gradient = jax.grad(early_advantages)(jnp.asarray(r["reward"]))
    assert (gradient[:3] != 0).all()
    np.testing.assert_array_equal(gradient[3:], 0.0)


def test_batches_are_independent_columns():
    columns = [rollout(seed) for seed in range(3)]
    stacked = {name: np.stack([c[name] for c in columns], axis=-1) for name in columns[0]}
    ended = stacked["terminated"] | stacked["truncated"]
    batched = generalized_advantage(stacked["reward"], stacked["value"], beyond(stacked), ended, 0.9, 0.9)
    for index, column in enumerate(columns):
        alone = generalized_advantage(column["reward"], column["value"], beyond(column), ended[:, index], 0.9, 0.9)
        np.testing.assert_allclose(batched[:, index], alone, rtol=1e-6)
