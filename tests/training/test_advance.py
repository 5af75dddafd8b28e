"""How often an agent learns from replay: the ratio asked, once there is a window."""

import types
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents import Decision, Feedback
from hippodrome.envs import VectorEnv, environment_keys
from hippodrome.training.advance import from_replay
from hippodrome.training.replay import ReplayBuffer
from hippodrome.training.replay_size import updates_per_step
from hippodrome.training.rollout import replay_step
from tests.probes import LateReward
from tests.stand_ins import Learner, State

B, T = 2, 4
BUFFER = ReplayBuffer(capacity=16, carry_every=2, length=6, batch_size=3)


def idle_agent():
    """Always acts 0, and learns nothing but how often it was asked to."""

    def act(params, carry, timestep, key, *, deterministic=False):
        action = jnp.zeros(B, jnp.int32)
        return carry + 1.0, Decision(action, action, jnp.zeros(B), jnp.zeros(B))

    def learn(state, batch, key):
        learner = Learner(state.params, state.updates + 1)
        carries = jnp.zeros((BUFFER.length // BUFFER.carry_every, BUFFER.batch_size))
        return learner, {"loss": batch.steps.reward.sum()}, Feedback(carries, jnp.ones(BUFFER.batch_size))

    return types.SimpleNamespace(act=act, learn=learn)


@pytest.mark.parametrize("ratio", [Fraction(3), Fraction(2, 5), Fraction(7, 3)])
def test_the_updates_are_as_many_as_the_ratio_says_once_there_is_a_window(ratio):
    envs = VectorEnv(LateReward())
    state = envs.reset(environment_keys(jax.random.key(0), 0, B))
    state = State(
        Learner({}, jnp.zeros((), jnp.int32)),
        state,
        jnp.zeros(B),
        BUFFER.init(replay_step(state.timestep), jnp.zeros(B)),
        jnp.zeros((), jnp.int32),
    )
    step = jax.jit(partial(from_replay, idle_agent(), BUFFER, envs, num_steps=T, updates_per_step=ratio, first_env=0))
    counts = []
    for update in range(12):
        changes, metrics, _ = step(state, jax.random.key(update), jax.random.key(100 + update))
        state = state.replace(**changes, update=state.update + 1)
        counts.append(int(metrics["learner_updates"]))
        assert np.isnan(metrics["loss"]) == (counts[-1] == 0)
        # Episodes of two steps: every four actions show six observations, one window of the stream.
        assert state.replay.count.tolist() == [6 * (update + 1)] * B
    floors = [int(ratio * n) for n in range(13)]
    assert counts == list(np.diff(floors)) and int(state.learner.updates) == sum(counts)


def test_nothing_is_learnt_before_replay_holds_a_window():
    envs = VectorEnv(LateReward())
    state = envs.reset(environment_keys(jax.random.key(0), 0, B))
    state = State(
        Learner({}, jnp.zeros((), jnp.int32)), state, jnp.zeros(B),
        BUFFER.init(replay_step(state.timestep), jnp.zeros(B)), jnp.zeros((), jnp.int32),
    )  # fmt: skip
    changes, metrics, _ = jax.jit(
        partial(from_replay, idle_agent(), BUFFER, envs, num_steps=2, updates_per_step=Fraction(5), first_env=0)
    )(state, jax.random.key(0), jax.random.key(1))
    assert metrics["learner_updates"] == 0 and np.isnan(metrics["loss"]) and metrics["replay_steps"] == 3 * B
    assert int(changes["learner"].updates) == 0


def test_the_ratio_is_of_steps_replayed_to_steps_taken():
    def ratio(train_ratio, steps):
        agent = types.SimpleNamespace(train_ratio=train_ratio, batch_size=3, batch_length=6)
        return updates_per_step(types.SimpleNamespace(agent=agent, steps_per_update=steps))

    assert ratio(64.0, 16 * 16) == Fraction(64 * 256, 18)
    assert ratio(0.1, 100) == Fraction(10, 18)
    assert ratio(0.0004, 36) == Fraction(2, 2500)
    assert ratio(1e-9, 100) == 0
