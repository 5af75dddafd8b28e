"""LabyrinthEscape and LabyrinthExplore: find the way out of a maze, or walk all of it (POPGym, Morad et al. 2023).

Legend: `n` cells and `S = 2n + 1` squares along a side (see `maze.py`); positions are `(row, column)` of a square.
"""

import dataclasses
from typing import TypeVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Int8, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, MultiDiscrete

from .cards import episodes_within
from .maze import GOAL, MAX_CELLS, MIN_CELLS, OBSTACLE, START, random_maze

NO_ACTION = 4
VIEW = 3
# popgym's space has a fifth kind, for squares not seen yet, which never shows.
NUM_SQUARE_KINDS = 5


@struct.dataclass
class LabyrinthState(EnvState):
    """Attributes: `time`, steps taken; `squares`, int8 `[S, S]`, what lies where; `position`, int32 `[2]`."""

    squares: Int8[Array, "S S"]
    position: Int[Array, "2"]


@struct.dataclass
class ExploreState(LabyrinthState):
    """Attributes: those of `LabyrinthState`; `explored`, bool `[S, S]`, the squares stood on."""

    explored: Bool[Array, "S S"]


State = TypeVar("State", bound=LabyrinthState)


class Labyrinth(Environment):
    """A walk in a random maze: the 3 x 3 squares around and the last action are seen.

    The actions are left, right, up and down; one into an obstacle or out of the grid stays. The observation is nine
    squares, row by row (0 free, 1 obstacle, 2 start, 3 goal), and the action that led here, 4 at first. As in popgym,
    the nine begin at row `max(row - 1, 0)` and column `max(column - 1, 0)` and obstacles fill up the end, so that they
    are not centred in the first row and column, where the entrance and the exit may lie.

    Args:
        maze_size: `2n`; even, 6 to 62.

    Raises:
        ValueError: for another `maze_size`.
    """

    def __init__(self, maze_size: int = 10):
        if maze_size % 2 or not MIN_CELLS <= maze_size // 2 <= MAX_CELLS:
            raise ValueError(f"maze_size={maze_size} must be even, {2 * MIN_CELLS} to {2 * MAX_CELLS}")
        self.maze_size = maze_size
        self.num_cells = maze_size // 2

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode is truncated after 1023 steps; one costs `1 / 1024`."""
        return EnvParams(max_steps_in_episode=1023)

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        """Nine squares and the last action."""
        return MultiDiscrete([NUM_SQUARE_KINDS] * VIEW**2 + [NO_ACTION + 1])

    def action_space(self, params: EnvParams) -> Discrete:
        """Left, right, up, down."""
        return Discrete(NO_ACTION)

    def _observation(self, state: LabyrinthState, action: Int[Array, ""] | int) -> Int[Array, "10"]:
        nearby = jnp.maximum(state.position - 1, 0)[:, None] + jnp.arange(VIEW)
        seen = (nearby <= state.position[:, None] + 1) & (nearby <= self.maze_size)
        rows, columns = jnp.minimum(nearby, self.maze_size)
        view = state.squares[rows[:, None], columns[None, :]]
        view = jnp.where(seen[0][:, None] & seen[1][None, :], view, OBSTACLE)
        return jnp.append(view.astype(jnp.int32), jnp.asarray(action, jnp.int32))

    def _moved(self, state: State, action: Int[Array, ""]) -> State:
        step = jnp.array([[0, -1], [0, 1], [-1, 0], [1, 0]])[action]
        ahead = jnp.clip(state.position + step, 0, self.maze_size)
        blocked = state.squares[ahead[0], ahead[1]] == OBSTACLE
        return dataclasses.replace(state, time=state.time + 1, position=jnp.where(blocked, state.position, ahead))


class LabyrinthEscape(Labyrinth):
    """Reach the goal, on the side opposite to the start: worth 1, and every step costs `1 / 1024`.

    The episode ends at the goal (terminated) or after 1023 steps (truncated). See `Labyrinth` for what is seen.
    """

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a maze of its own: the goal is at least `2n` steps off."""
        return episodes_within(num_steps, self.maze_size)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, "10"], LabyrinthState]:
        """Draws a maze."""
        squares, start, goal = random_maze(key, self.num_cells)
        squares = squares.at[start[0], start[1]].set(START).at[goal[0], goal[1]].set(GOAL)
        state = LabyrinthState(time=jnp.zeros((), jnp.int32), squares=squares, position=start)
        return self._observation(state, NO_ACTION), state

    def step_env(self, key, state: LabyrinthState, action, params: EnvParams):
        """Moves one square."""
        state = self._moved(state, action)
        escaped = state.squares[state.position[0], state.position[1]] == GOAL
        reward = escaped - 1.0 / (params.max_steps_in_episode + 1)
        return self._observation(state, action), state, reward, escaped, {}


class LabyrinthExplore(Labyrinth):
    """Stand on every square: each new one is worth `1 / N`, and a step onto none costs `1 / 1024`.

    A maze has `N = 2n^2 - 1` squares to explore beside the start; there is no goal. The episode ends when all are
    explored (terminated) or after 1023 steps (truncated). See `Labyrinth` for what is seen.
    """

    def __init__(self, maze_size: int = 10):
        super().__init__(maze_size)
        self.num_squares = 2 * self.num_cells**2 - 1

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a maze of its own: it takes at least `N` steps."""
        return episodes_within(num_steps, self.num_squares)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, "10"], ExploreState]:
        """Draws a maze."""
        squares, start, _ = random_maze(key, self.num_cells)
        state = ExploreState(
            time=jnp.zeros((), jnp.int32),
            squares=squares.at[start[0], start[1]].set(START),
            position=start,
            explored=jnp.zeros(squares.shape, bool).at[start[0], start[1]].set(True),
        )
        return self._observation(state, NO_ACTION), state

    def step_env(self, key, state: ExploreState, action, params: EnvParams):
        """Moves one square."""
        state = self._moved(state, action)
        row, column = state.position
        cost = 1.0 / (params.max_steps_in_episode + 1)
        reward = jnp.where(state.explored[row, column], -cost, 1.0 / self.num_squares)
        state = dataclasses.replace(state, explored=state.explored.at[row, column].set(True))
        finished = jnp.all(state.explored == (state.squares != OBSTACLE))
        return self._observation(state, action), state, reward, finished, {}
