"""Finding a goal that is never shown: on a grid (Zintgraf et al. 2020, VariBAD) and in the plane (Dorfman et al. 2021).

The goal is the task: once found, it is where it was in the next trial.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Box, Discrete, MultiDiscrete
from hippodrome.envs.splits import Ranges, check_split, holds_out_tasks

# Stay, up, right, down, left.
_MOVES = jnp.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)])


@struct.dataclass
class GridParams(EnvParams):
    """Attributes: `goal`, int32 (row, column)."""

    goal: Int[Array, " 2"] | int = 0


@struct.dataclass
class GridState(EnvState):
    """Attributes: `time`, steps taken; `place`, int32 (row, column)."""

    place: Int[Array, " 2"]


class GridNavigation(Environment):
    """Walk on a square grid; the goal pays 1 at every step on it, everywhere else costs .1.

    Trials begin in the lower left corner and last `horizon` steps. Actions: stay, up, right, down, left; walls stop a
    step. The observation is the place (row, column). Goals are all cells but those next to the start; where row plus
    twice the column is a multiple of 4 they are held out.

    Args:
        size: cells of a side, at least 3.
        horizon: steps of a trial.
        split: "train" or "held-out-tasks".

    Raises:
        ValueError: for a smaller grid, no steps or another split.
    """

    def __init__(self, size: int = 5, horizon: int = 15, split: str = "train"):
        if size < 3 or horizon < 1:
            raise ValueError(f"size={size} must be at least 3 and horizon={horizon} at least 1")
        check_split(split, projected=False)
        self.size, self.horizon, self.split = size, horizon, split
        row, column = np.divmod(np.arange(size**2), size)
        far = np.maximum(size - 1 - row, column) > 1
        held_out = (row + 2 * column) % 4 == 0
        kept = far & (held_out == holds_out_tasks(split))
        self.goals = np.stack([row, column], axis=-1)[kept]

    @property
    def default_params(self) -> GridParams:
        """The goal in the upper right corner."""
        return GridParams(max_steps_in_episode=self.horizon, goal=jnp.array([0, self.size - 1], jnp.int32))

    def sample_task(self, key: Key[Array, ""], params: GridParams) -> GridParams:
        """Draws the goal."""
        goals = jnp.asarray(self.goals, jnp.int32)
        return dataclasses.replace(params, goal=goals[jax.random.randint(key, (), 0, len(goals))])

    def reset_env(self, key: Key[Array, ""], params: GridParams) -> tuple[Int[Array, " 2"], GridState]:
        """The lower left corner."""
        del key, params
        place = jnp.array([self.size - 1, 0], jnp.int32)
        return place, GridState(time=jnp.zeros((), jnp.int32), place=place)

    def step_env(self, key: Key[Array, ""], state: GridState, action, params: GridParams):
        """Walks."""
        del key
        place = jnp.clip(state.place + _MOVES[action], 0, self.size - 1).astype(jnp.int32)
        reward = jnp.where((place == params.goal).all(), 1.0, -0.1)
        return place, GridState(state.time + 1, place), reward, jnp.asarray(False), {}

    def observation_space(self, params: GridParams) -> MultiDiscrete:
        """Row and column."""
        return MultiDiscrete([self.size, self.size])

    def action_space(self, params: GridParams) -> Discrete:
        """Stay, up, right, down, left."""
        return Discrete(5)


@struct.dataclass
class PointParams(EnvParams):
    """Attributes: `angle`, float32; where on the half circle the goal is."""

    angle: Float[Array, ""] | float = 0.0


@struct.dataclass
class PointState(EnvState):
    """Attributes: `time`, steps taken; `place`, float32 `[2]`."""

    place: Float[Array, " 2"]


class PointNavigation(Environment):
    """Move in the plane; within .3 of the goal each step pays 1, or the nearer the more.

    Trials begin at the origin and last `horizon` steps. The action is a move of at most .2 along each axis, the
    observation the place. The goal lies on the upper half of the unit circle; a third of the angles, in two arcs, is
    held out.

    Args:
        horizon: steps of a trial.
        split: "train" or "held-out-tasks".
        dense: a step pays `exp(-2 d^2)`, d the distance to the goal, in place of 1 within its reach.

    Raises:
        ValueError: for no steps, or another split.
    """

    ranges = Ranges({"angle": (np.pi / 6, 5 * np.pi / 6)}, {"angle": ((0.0, np.pi / 6), (5 * np.pi / 6, np.pi))})

    def __init__(self, horizon: int = 20, split: str = "train", dense: bool = False):
        if horizon < 1:
            raise ValueError(f"horizon={horizon} must be at least 1")
        check_split(split, projected=False)
        self.horizon, self.split, self.dense = horizon, split, dense

    @property
    def default_params(self) -> PointParams:
        """The goal straight up."""
        return PointParams(max_steps_in_episode=self.horizon, angle=np.pi / 2)

    def sample_task(self, key: Key[Array, ""], params: PointParams) -> PointParams:
        """Draws the goal's angle."""
        drawn = self.ranges.sample(key, held_out=holds_out_tasks(self.split))
        return dataclasses.replace(params, angle=drawn["angle"])

    def reset_env(self, key: Key[Array, ""], params: PointParams) -> tuple[Float[Array, " 2"], PointState]:
        """The origin."""
        del key, params
        return jnp.zeros(2), PointState(time=jnp.zeros((), jnp.int32), place=jnp.zeros(2))

    def step_env(self, key: Key[Array, ""], state: PointState, action, params: PointParams):
        """Moves."""
        del key
        place = jnp.clip(state.place + jnp.clip(action, -0.2, 0.2), -2.0, 2.0)
        goal = jnp.stack([jnp.cos(params.angle), jnp.sin(params.angle)])
        squared = jnp.sum(jnp.square(place - goal))
        reward = jnp.exp(-2.0 * squared) if self.dense else (squared <= 0.3**2).astype(jnp.float32)
        return place, PointState(state.time + 1, place), reward, jnp.asarray(False), {}

    def observation_space(self, params: PointParams) -> Box:
        """The place."""
        return Box(-2.0, 2.0, (2,))

    def action_space(self, params: PointParams) -> Box:
        """The move."""
        return Box(-0.2, 0.2, (2,))
