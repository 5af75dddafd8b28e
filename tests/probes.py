"""Probe environments whose values and best policies are known by arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from hippodrome.envs import Box, Discrete, Environment, EnvParams, EnvState, MultiDiscrete


@struct.dataclass
class ProbeState(EnvState):
    """Attributes: `time`; `cue`, a float drawn at the start of the episode."""

    cue: Any


class Probe(Environment):
    """Episodes of `length` steps; subclasses say what is seen, what is rewarded and how the episode ends."""

    length = 1
    truncates = False
    actions: Any = Discrete(2)

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=self.length)

    def observation_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def action_space(self, params):
        return self.actions

    def see(self, state):
        return jnp.zeros(())

    def reward(self, state, action):
        raise NotImplementedError

    def reset_env(self, key, params):
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        state = ProbeState(time=jnp.zeros((), jnp.int32), cue=cue)
        return self.see(state)[None], state

    def step_env(self, key, state, action, params):
        reward = self.reward(state, action)
        state = state.replace(time=state.time + 1)
        terminated = jnp.asarray(False) if self.truncates else state.time >= self.length
        return self.see(state)[None], state, reward, terminated, {}

    def is_truncated(self, state, params):
        return state.time >= self.length if self.truncates else jnp.asarray(False)


class ConstantReward(Probe):
    """Reward 1, one step: V = 1."""

    def reward(self, state, action):
        return jnp.ones(())


class SeenReward(Probe):
    """The observation is the reward to come: V = observation."""

    def see(self, state):
        return state.cue

    def reward(self, state, action):
        return state.cue


class LateReward(Probe):
    """Two steps, reward 1 at the second: V = gamma, then 1."""

    length = 2

    def see(self, state):
        return state.time.astype(jnp.float32) / 2

    def reward(self, state, action):
        return (state.time == 1).astype(jnp.float32)


class CuedAction(Probe):
    """Action 1 is right when the cue is 1: the best return is 1, chance is 0."""

    def see(self, state):
        return state.cue

    def reward(self, state, action):
        return jnp.where(action == (state.cue > 0), 1.0, -1.0)


class RememberedCue(Probe):
    """The cue is seen at the first step only and asked for at the last: without memory the best return is 0."""

    length = 4

    def see(self, state):
        return jnp.where(state.time == 0, state.cue, 0.0)

    def reward(self, state, action):
        return jnp.where(state.time == 3, jnp.where(action == (state.cue > 0), 1.0, -1.0), 0.0)


class EndlessReward(Probe):
    """Reward 1 for ever, cut off after 5 steps: V = 1 / (1 - gamma), unless truncation counts as an end."""

    length = 5
    truncates = True

    def reward(self, state, action):
        return jnp.ones(())


class ContinuousTarget(Probe):
    """The best action is 1.5 within [-2, 2]."""

    actions = Box(-2.0, 2.0, (1,))

    def reward(self, state, action):
        return -jnp.abs(action[0] - 1.5)


class CuedPrecision(Probe):
    """Only under the cue 1 does it matter how near to 0 the action is."""

    actions = Box(-1.0, 1.0, (1,))

    def see(self, state):
        return state.cue

    def reward(self, state, action):
        return jnp.where(state.cue > 0, -jnp.abs(action[0]), 0.0)


class TwoPartAction(Probe):
    """Both parts of the action must be right at once."""

    actions = MultiDiscrete([2, 3])

    def reward(self, state, action):
        return jnp.where((action == jnp.array([1, 2])).all(), 1.0, 0.0)


class AlternateAction(Probe):
    """From the second step on the action must differ from the one before, which only `previous_action` shows."""

    length = 6

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, state.replace(cue=jnp.asarray(-1.0))

    def step_env(self, key, state, action, params):
        observation, new_state, reward, terminated, info = super().step_env(key, state, action, params)
        return observation, new_state.replace(cue=action.astype(jnp.float32)), reward, terminated, info

    def reward(self, state, action):
        return jnp.where(state.time > 0, jnp.where(action != state.cue, 0.2, -0.2), 0.0)
