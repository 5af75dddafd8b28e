"""Targets of actor and critic on tiny chains, with heads replaced by tables: exact numbers by hand.

A feature is the number of a state. The tables say its reward on arrival, its continuation and its value.
"""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents import ReplayStep
from hippodrome.agents.dreamer import behaviour
from hippodrome.agents.dreamer.behaviour import (
    Imagined,
    actor_critic_losses,
    percentile_range,
    replay_critic_loss,
)
from hippodrome.agents.dreamer.config import DreamerConfig
from hippodrome.agents.dreamer.twohot import two_hot
from hippodrome.agents.dreamer.world_model import Beliefs
from hippodrome.memory.rssm import Latents

GAMMA = 0.9
BINS = jnp.linspace(-10.0, 10.0, 41)


def table_agent(reward, continuation, value, stride=1, slow_critic_coef=0.0):
    """An agent whose heads read tables; its critic's logits are exact and have no say in its loss's gradient."""
    config = DreamerConfig(
        discount_horizon=1 / (1 - GAMMA), return_lambda=0.8, entropy_coef=0.5, slow_critic_coef=slow_critic_coef,
        imagination_stride=stride, batch_length=4,
    )  # fmt: skip

    def look(table, features):
        return jnp.asarray(table)[jnp.asarray(features[..., 0], int)]

    def logits(table, features):
        return jnp.log(two_hot(look(table, features), BINS) + 1e-30)

    heads: dict[str, Any] = {
        "reward": lambda features: logits(reward, features),
        "critic": lambda features: logits(value, features),
        "continuation": lambda features: jax.scipy.special.logit(look(continuation, features))[..., None],
    }
    distribution = types.SimpleNamespace(
        log_prob=lambda outputs, log_std, action: -jnp.asarray(action, float),
        entropy=lambda outputs, log_std: jnp.full(outputs.shape[:-1], 2.0),
    )
    return types.SimpleNamespace(
        config=config,
        bins=BINS,
        apply=lambda name, params, features: heads[name](features),
        modules={"critic": types.SimpleNamespace(apply=lambda params, features: logits(value, features))},
        policy=lambda params, features: (features, None),
        distribution=distribution,
    )


def lambda_return(reward, discount, beyond, cut, lam=0.8):
    """By the definition, backwards: entry t from the reward, discount and value of what t leads to."""
    result, following = [], beyond[-1]
    for r, d, v, c in reversed(list(zip(reward, discount, beyond, cut, strict=True))):
        following = r + d * ((1 - lam) * v + lam * (v if c else following))
        result.append(following)
    return np.array(result[::-1])


def test_imagined_returns_pair_each_action_with_the_reward_it_leads_to():
    """States 0, 1, 2, 3: the reward and the end of a state belong to the action before it."""
    reward, value = [9.0, 1.0, 2.0, 4.0], [5.0, 3.0, -1.0, 6.0]
    continuation = [0.5, GAMMA, 0.0, GAMMA]
    agent = table_agent(reward, continuation, value)
    states = jnp.arange(4.0).reshape(4, 1, 1)
    imagined = Imagined(states, states, jnp.array([[1.0], [2.0], [3.0]]))
    losses, returns, _ = actor_critic_losses(agent, None, None, jnp.array(2.0), imagined, jnp.array([GAMMA]))
    want = lambda_return(reward[1:], continuation[1:], value[1:], [False] * 3)
    np.testing.assert_allclose(returns[:, 0], want, rtol=1e-5)
    assert want[1] == 2.0  # nothing is beyond the end
    # The start's own continuation is the replayed one and weighs nothing; after state 2 nothing is reached.
    weight = np.array([1.0, GAMMA, 0.0])
    advantage = (want - np.array(value[:3])) / 2.0
    np.testing.assert_allclose(losses["actor"][:, 0], weight * (advantage * [1, 2, 3] - 0.5 * 2.0), rtol=1e-4)


def test_nothing_is_learnt_from_what_follows_the_end_of_an_episode():
    agent = table_agent([0.0, 1.0], [GAMMA, GAMMA], [0.0, 0.0])
    states = jnp.broadcast_to(jnp.arange(2.0)[:, None, None], (2, 2, 1))
    imagined = Imagined(states, states, jnp.full((1, 2), 3.0))
    losses, _, _ = actor_critic_losses(agent, None, None, jnp.array(1.0), imagined, jnp.array([GAMMA, 0.0]))
    assert losses["actor"][0, 0] != 0.0 and losses["actor"][0, 1] == 0.0
    assert losses["critic"][0, 0] != 0.0 and losses["critic"][0, 1] == 0.0


def replayed(monkeypatch, terminal, last, returns, stride=1):
    """The targets of the critic on one window of states 0 ... n-1; 0 where nothing is learnt."""
    number = len(last)
    reward = [float(i) for i in range(number)]
    value = [0.5 * i for i in range(number)]
    agent = table_agent(reward, [GAMMA] * number, value, stride=stride)
    column = lambda values, dtype=None: jnp.asarray(values, dtype)[:, None]  # noqa: E731
    steps = ReplayStep(
        observation=None,
        reset=jnp.zeros((number, 1), bool),
        previous_action=None,
        reward=column(reward),
        terminal=column(terminal, bool),
        last=column(last, bool),
    )
    none = jnp.zeros((number, 1, 0))
    latents = Latents(jnp.arange(number, dtype=float).reshape(-1, 1, 1), none, none, none)
    returns = jnp.asarray(returns, float)[None]
    # The loss of a critic is replaced by its target, so that the target can be read.
    monkeypatch.setattr(behaviour, "_critic_loss", lambda agent, logits, targets, slow, features: targets)
    return np.asarray(replay_critic_loss(agent, None, None, Beliefs(latents, None, None, None), steps, returns))[:, 0]


def test_replayed_returns_within_an_episode_bootstrap_from_imagination(monkeypatch):
    boot = [10.0, 11.0, 12.0, 13.0]
    targets = replayed(monkeypatch, [0, 0, 0, 0], [0, 0, 0, 0], boot)
    want = lambda_return([1, 2, 3], [GAMMA] * 3, boot[1:], [False] * 3)
    np.testing.assert_allclose(targets, want, rtol=1e-5)


def test_beyond_a_terminal_step_is_nothing_and_a_truncated_one_is_bootstrapped(monkeypatch):
    boot = [10.0, 11.0, 12.0, 13.0]
    terminated = replayed(monkeypatch, [0, 0, 1, 0], [0, 0, 1, 0], boot)
    truncated = replayed(monkeypatch, [0, 0, 0, 0], [0, 0, 1, 0], boot)
    assert terminated[1] == pytest.approx(2.0) and truncated[1] == pytest.approx(2.0 + GAMMA * 12.0, rel=1e-5)
    want = lambda_return([1, 2], [GAMMA, 0.0], boot[1:3], [False, True])
    np.testing.assert_allclose(terminated[:2], want, rtol=1e-5)


def test_no_target_crosses_from_the_last_step_of_an_episode_to_the_next(monkeypatch):
    """The step that ended an episode is followed by the first of another one."""
    boot = [10.0, 11.0, 12.0, 13.0]
    targets = replayed(monkeypatch, [0, 1, 0, 0], [0, 1, 0, 0], boot)
    assert targets[1] == 0.0 and targets[0] == pytest.approx(1.0) and targets[2] != 0.0


def test_between_imagined_steps_the_critic_itself_is_what_is_beyond(monkeypatch):
    """With stride 2 imagination starts at steps 1 and 3; step 2 is worth what the critic says, 1."""
    targets = replayed(monkeypatch, [0] * 4, [0] * 4, [11.0, 13.0], stride=2)
    want = lambda_return([1, 2, 3], [GAMMA] * 3, [11.0, 1.0, 13.0], [False] * 3)
    np.testing.assert_allclose(targets, want, rtol=1e-5)


def test_percentiles_are_averaged_slowly_and_outliers_do_not_count():
    returns = jnp.concatenate([jnp.linspace(0.0, 100.0, 101), jnp.array([1e9])])[:, None]
    low, high = percentile_range(jnp.array(1.0), jnp.array(2.0), returns, 0.01, None)
    want = np.percentile(np.asarray(returns), [5, 95])
    np.testing.assert_allclose([low, high], 0.99 * np.array([1.0, 2.0]) + 0.01 * want, rtol=1e-5)
