"""MineSweeper: open every safe cell of a board that is never shown (POPGym, Morad et al. 2023).

Legend: `S` cells along a side of the board, `M` mines.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, MultiDiscrete

# A 3 x 3 neighbourhood has no more cells.
MOST_NEAR = 9


@struct.dataclass
class MineSweeperState(EnvState):
    """Attributes: `time`, cells tried; `mines`, bool `[S, S]`; `covered`, bool `[S, S]`, safe cells not open yet."""

    mines: Bool[Array, "S S"]
    covered: Bool[Array, "S S"]


class MineSweeper(Environment):
    """Open one cell a step; the observation says how many mines lie on it and around it, not where it is.

    With `T = S^2 - M` safe cells, opening one is worth `1 / T`, trying an open one costs `0.5 / (T - 2)`, and a mine
    costs `0.5 + 1 / T`. The episode ends when all safe cells are open or at a mine (terminated), or after `T` steps
    (truncated), so that winning, worth 1, allows no mistake. The first observation is 0.

    Args:
        board_size: `S`.
        num_mines: `M`.
        paper_era: True allows `T + 1` steps, as popgym did when its tables were made: one mistake costs no win.

    Raises:
        ValueError: if there is no mine, or fewer than three safe cells.
    """

    def __init__(self, board_size: int = 4, num_mines: int = 2, paper_era: bool = False):
        self.num_safe = board_size**2 - num_mines
        if num_mines < 1 or self.num_safe < 3:
            raise ValueError(f"num_mines={num_mines} must be at least 1 and leave 3 cells of {board_size}^2 safe")
        self.board_size = board_size
        self.num_mines = num_mines
        self.paper_era = paper_era

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: one for each safe cell."""
        return EnvParams(max_steps_in_episode=self.num_safe + self.paper_era)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], MineSweeperState]:
        """Lays the mines."""
        mines = random_subset(key, self.board_size**2, self.num_mines).reshape(self.board_size, self.board_size)
        zero = jnp.zeros((), jnp.int32)
        return zero, MineSweeperState(time=zero, mines=mines, covered=~mines)

    def step_env(self, key, state: MineSweeperState, action, params: EnvParams):
        """Opens cell `(action[0], action[1])`."""
        line = jnp.arange(self.board_size)
        rows, columns = jnp.abs(line - action[0]), jnp.abs(line - action[1])
        here = (rows == 0)[:, None] & (columns == 0)[None, :]
        around = (rows <= 1)[:, None] & (columns <= 1)[None, :]
        mine, opened = jnp.any(state.mines & here), jnp.any(state.covered & here)
        covered = state.covered & ~here
        reward = jnp.where(opened, 1.0 / self.num_safe, -0.5 / (self.num_safe - 2))
        reward = jnp.where(mine, -0.5 - 1.0 / self.num_safe, reward)
        near = jnp.sum(state.mines & around, dtype=jnp.int32)
        state = dataclasses.replace(state, time=state.time + 1, covered=covered)
        return near, state, reward, mine | ~jnp.any(covered), {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """Mines on the cell tried and around it."""
        return Discrete(min(self.num_mines, MOST_NEAR) + 1)

    def action_space(self, params: EnvParams) -> MultiDiscrete:
        """Row and column of the cell to open."""
        return MultiDiscrete([self.board_size, self.board_size])


def random_subset(key: Key[Array, ""], size: int, count: int) -> Bool[Array, " size"]:
    """Which of `range(size)` belong to a random subset of `count`, all equally likely.

    Floyd's algorithm (Bentley and Floyd 1987): the i-th draw, below `size - count + i + 1`, stands for the largest
    number it may be where it has been drawn before. It costs `count` draws and no sort.
    """
    largest = jnp.arange(size - count, size)
    draws = jax.random.randint(key, (count,), 0, largest + 1)
    everything = jnp.arange(size)
    chosen = jnp.zeros(size, bool)
    for index in range(count):
        again = jnp.any(chosen & (everything == draws[index]))
        chosen = chosen | (everything == jnp.where(again, largest[index], draws[index]))
    return chosen
