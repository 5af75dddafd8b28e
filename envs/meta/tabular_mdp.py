"""Random tabular Markov decision processes (Osband et al. 2013; Duan et al. 2016, RL^2, section 3.2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete
from hippodrome.envs.splits import check_split, holds_out_tasks, seeded_key


@struct.dataclass
class TabularMDPParams(EnvParams):
    """A process.

    Attributes:
        transition: float32 `[S, A, S]`; probabilities of the next state.
        reward: float32 `[S, A]`; mean reward.
    """

    transition: Any = 0.0
    reward: Any = 0.0


@struct.dataclass
class TabularMDPState(EnvState):
    """Attributes: `time`, steps taken; int32 `place`, the state the process is in."""

    place: Int[Array, ""]


class TabularMDP(Environment):
    """Episodes of ten steps from state 0. A task is the process: transitions and mean rewards.

    Transitions of each state and action are Dirichlet(1, ..., 1), mean rewards normal with mean 1 and variance 1;
    a reward is normal around its mean with variance 1. The observation is the state.

    Args:
        states, actions: how many; at least 2.
        horizon: steps of an episode.
        split: "train" or "held-out-tasks".

    Raises:
        ValueError: for fewer of any, or another split.
    """

    def __init__(self, states: int = 10, actions: int = 5, horizon: int = 10, split: str = "train"):
        if min(states, actions) < 2 or horizon < 1:
            raise ValueError(f"states={states} and actions={actions} must be at least 2, horizon={horizon} at least 1")
        check_split(split, projected=False)
        self.states, self.actions, self.horizon, self.split = states, actions, horizon, split

    @property
    def default_params(self) -> TabularMDPParams:
        """A process that goes anywhere and pays nothing on average."""
        return TabularMDPParams(
            max_steps_in_episode=self.horizon,
            transition=jnp.full((self.states, self.actions, self.states), 1 / self.states),
            reward=jnp.zeros((self.states, self.actions)),
        )

    def sample_task(self, key: Key[Array, ""], params: TabularMDPParams) -> TabularMDPParams:
        """Draws the process."""
        key = seeded_key(key, held_out=holds_out_tasks(self.split), kind=1)
        transition_key, reward_key = jax.random.split(key)
        # Dirichlet(1, ..., 1) is exponential variables over their sum.
        weight = jax.random.exponential(transition_key, (self.states, self.actions, self.states))
        return dataclasses.replace(
            params,
            transition=weight / weight.sum(-1, keepdims=True),
            reward=1.0 + jax.random.normal(reward_key, (self.states, self.actions)),
        )

    def reset_env(self, key: Key[Array, ""], params: TabularMDPParams) -> tuple[Int[Array, ""], TabularMDPState]:
        """State 0."""
        del key, params
        place = jnp.zeros((), jnp.int32)
        return place, TabularMDPState(time=jnp.zeros((), jnp.int32), place=place)

    def step_env(self, key: Key[Array, ""], state: TabularMDPState, action, params: TabularMDPParams):
        """Goes where the process says."""
        next_key, reward_key = jax.random.split(key)
        reward = params.reward[state.place, action] + jax.random.normal(reward_key)
        reached = jnp.cumsum(params.transition[state.place, action])
        draw = jax.random.uniform(next_key) * reached[-1]
        place = jnp.minimum(jnp.searchsorted(reached, draw, side="right"), self.states - 1).astype(jnp.int32)
        return place, TabularMDPState(state.time + 1, place), reward, jnp.asarray(False), {}

    def observation_space(self, params: TabularMDPParams) -> Discrete:
        """The state."""
        return Discrete(self.states)

    def action_space(self, params: TabularMDPParams) -> Discrete:
        """The actions."""
        return Discrete(self.actions)
