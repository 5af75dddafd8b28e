"""Self-paced contexts: which of a finite set of tasks are trained on, by how much the agent's value of each grew.

Legend: `n` tasks of the set.

Source: Eimer et al. 2021 (Self-paced context evaluation for contextual reinforcement learning, SPaCE).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from hippodrome.agents import Agent
from hippodrome.envs import VectorEnv
from hippodrome.envs.trials import TaskSet, Trials
from hippodrome.envs.vector import first_timestep

from .config.schema import CurriculumConfig


@struct.dataclass
class CurriculumState:
    """Where a curriculum stands.

    Attributes:
        order: int32 `[n]`; the tasks, those whose value grew most first.
        size: int32; how many of them are trained on.
        values: float32 `[n]`; the agent's value of each task at its start, at the last round.
        rounds: int32; how often values were taken.
    """

    order: Int[Array, " n"]
    size: Int[Array, ""]
    values: Float[Array, " n"]
    rounds: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Pure functions over a `CurriculumState`.

    Attributes:
        config: its numbers.
        envs: the environments, whose own parameters tasks are drawn from.
    """

    config: CurriculumConfig
    envs: VectorEnv

    @property
    def env(self) -> Trials:
        """The environment of meta-episodes."""
        return self.envs.env

    def init(self, key: Key[Array, ""]) -> CurriculumState:
        """A random order, of which the first `step` tasks are trained on."""
        number = self.config.num_tasks
        return CurriculumState(
            order=jax.random.permutation(key, number).astype(jnp.int32),
            size=jnp.asarray(min(self.config.step, number), jnp.int32),
            values=jnp.zeros(number),
            rounds=jnp.zeros((), jnp.int32),
        )

    def environments(self, state: CurriculumState) -> VectorEnv:
        """The environments, that draw new tasks from those trained on."""
        return self.envs.with_params(TaskSet(inner=self.envs.params, order=state.order, size=state.size))

    def after_update(
        self, state: CurriculumState, agent: Agent, params: Any, update: Int[Array, ""]
    ) -> CurriculumState:
        """The state after an update: every `every_updates` of them the values are taken and the tasks chosen anew."""
        due = (update + 1) % self.config.every_updates == 0
        return jax.lax.cond(due, lambda: self.choose(state, self.values(agent, params)), lambda: state)

    def values(self, agent: Agent, params: Any) -> Float[Array, " n"]:
        """The agent's value of the first observation of each task."""
        number = self.config.num_tasks

        def begin(index: Int[Array, ""]) -> Any:
            key = self.env.task_key(index)
            observation, _ = self.env.begin(self.env.sample_task(key, self.envs.params), key)
            return first_timestep(observation, self.envs.action_space)

        timestep = jax.vmap(begin)(jnp.arange(number))
        return agent.value(params, agent.initial_carry(number), timestep)

    def choose(self, state: CurriculumState, values: Float[Array, " n"]) -> CurriculumState:
        """Tasks by how much their value grew; more of them where the mean value of those trained on stood still.

        It stood still where it changed by less than `threshold` times what it was. The first round only takes values.
        """
        chosen = jnp.zeros(len(values), bool).at[state.order].set(jnp.arange(len(values)) < state.size)
        before, now = ((jnp.where(chosen, each, 0.0).sum() / state.size) for each in (state.values, values))
        still = jnp.abs(now - before) <= self.config.threshold * jnp.abs(before)
        first = state.rounds == 0
        larger = jnp.minimum(state.size + self.config.step, len(values))
        order = jnp.argsort(state.values - values, stable=True).astype(jnp.int32)
        return CurriculumState(
            order=jnp.where(first, state.order, order),
            size=jnp.where(still & ~first, larger, state.size),
            values=values,
            rounds=state.rounds + 1,
        )
