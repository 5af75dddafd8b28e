"""Bernoulli bandits whose chances are the task (Duan et al. 2016, RL^2, section 3.1)."""

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
class BanditParams(EnvParams):
    """Attributes: `chances`, float32 `[arms]`, how likely each arm pays 1; episodes are one pull long."""

    chances: Any = 0.5


class Bandit(Environment):
    """One pull of an arm, which pays 1 or 0. A task is the arms' chances, each uniform in [0, 1).

    The observation is always 0: what is known of the arms comes from previous actions and rewards.

    Args:
        arms: how many; at least 2.
        split: "train" or "held-out-tasks".

    Raises:
        ValueError: for fewer arms or another split.
    """

    can_truncate = False

    def __init__(self, arms: int = 5, split: str = "train"):
        if arms < 2:
            raise ValueError(f"arms={arms} must be at least 2")
        check_split(split, projected=False)
        self.arms = arms
        self.split = split

    @property
    def default_params(self) -> BanditParams:
        """Every arm pays half of the time."""
        return BanditParams(max_steps_in_episode=1, chances=jnp.full(self.arms, 0.5))

    def sample_task(self, key: Key[Array, ""], params: BanditParams) -> BanditParams:
        """Draws the chances."""
        key = seeded_key(key, held_out=holds_out_tasks(self.split), kind=0)
        return dataclasses.replace(params, chances=jax.random.uniform(key, (self.arms,)))

    def reset_env(self, key: Key[Array, ""], params: BanditParams) -> tuple[Int[Array, ""], EnvState]:
        """Before the pull."""
        del key, params
        return jnp.zeros((), jnp.int32), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key: Key[Array, ""], state: EnvState, action, params: BanditParams):
        """Pulls arm `action`."""
        reward = (jax.random.uniform(key) < params.chances[action]).astype(jnp.float32)
        return jnp.zeros((), jnp.int32), EnvState(time=state.time + 1), reward, jnp.asarray(True), {}

    def observation_space(self, params: BanditParams) -> Discrete:
        """Nothing to see."""
        return Discrete(1)

    def action_space(self, params: BanditParams) -> Discrete:
        """Which arm."""
        return Discrete(self.arms)
