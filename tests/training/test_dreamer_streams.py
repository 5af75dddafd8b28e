"""What replay records of environments: which action led to which observation, and where episodes end."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents import Decision
from hippodrome.envs import Discrete, VectorEnv, environment_keys
from hippodrome.training.rollout import record
from tests.probes import Probe

B, T = 2, 8


class Counted(Probe):
    """Shows `time / 10`, rewards the action; three steps."""

    length = 3
    actions = Discrete(5)

    def see(self, state):
        return state.time / 10.0

    def reward(self, state, action):
        return 10.0 * (state.time + 1) + action


class Cut(Counted):
    truncates = True


def counting_agent():
    """Plays 1, 2, 3, 4, 1, ...; its carry is the number of steps it has taken."""

    def act(params, carry, timestep, key, *, deterministic=False):
        action = carry % 4 + 1
        return carry + 1, Decision(action, action, jnp.zeros(B), jnp.zeros(B))

    return types.SimpleNamespace(act=act)


@pytest.mark.parametrize("env", [Counted, Cut])
def test_the_stream_has_every_step_and_the_one_that_ended_each_episode(env):
    envs = VectorEnv(env())
    state = envs.reset(environment_keys(jax.random.key(0), 0, B))
    _, carry, stream, outcome = jax.jit(
        lambda state: record(
            counting_agent(), envs, None, state, jnp.zeros(B, jnp.int32), jax.random.key(1), num_steps=T
        )
    )(state)
    assert (np.asarray(carry) == T).all() and int(outcome.ended.sum()) == 2 * B
    for each in range(B):
        kept = np.asarray(stream.valid)[:, each]
        steps = jax.tree.map(lambda leaf, kept=kept, each=each: np.asarray(leaf)[kept, each], stream.steps)
        # Two whole episodes of 3 actions and 4 observations, and the beginning of a third.
        np.testing.assert_allclose(steps.observation[:, 0], np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1]) / 10, atol=1e-6)
        assert steps.reset.tolist() == [i in (0, 4, 8) for i in range(10)]
        assert steps.last.tolist() == [i in (3, 7) for i in range(10)]
        assert steps.terminal.tolist() == [i in (3, 7) and env is Counted for i in range(10)]
        # Action 1 at the first observation led to the second; the first of an episode was led to by none.
        assert steps.previous_action.tolist() == [-1, 1, 2, 3, -1, 4, 1, 2, -1, 3]
        assert steps.reward.tolist() == [0, 11, 22, 33, 0, 14, 21, 32, 0, 13]
        # The carry before the step that ended an episode has seen the action that led there, as has the next.
        assert np.asarray(stream.carries)[kept, each].tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7]
