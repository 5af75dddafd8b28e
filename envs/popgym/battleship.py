"""Battleship: sink the hidden ships from hits and misses alone (POPGym, Morad et al. 2023).

Legend: `S` cells along a side of the board, `P` places for a ship along one line of it.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Discrete, MultiDiscrete

from .cards import episodes_within

SHIP_SIZES = (2, 3, 3, 4)
SHIP_CELLS = sum(SHIP_SIZES)
# On 8 x 8 the first three ships, 8 cells, cannot cut every row into gaps shorter than the last ship.
MIN_BOARD_SIZE = 8


@struct.dataclass
class BattleshipState(EnvState):
    """Attributes: `time`, shots fired; `afloat`, bool `[S, S]`, cells of ships not hit yet."""

    afloat: Bool[Array, "S S"]


class Battleship(Environment):
    """Shoot at a cell a step; the observation says whether that shot hit (1) or not (0), not where it went.

    A first hit on a ship's cell is worth `1 / 12`; anything else, a second shot at the same cell included, costs
    `1 / (S^2 - 12)`. The episode ends when all 12 cells are hit (terminated) or after `S^2` shots (truncated): shooting
    every cell once returns 0.

    Args:
        board_size: `S`.

    Raises:
        ValueError: if the board is too small for the four ships to fit however they fall.
    """

    def __init__(self, board_size: int = 10):
        if board_size < MIN_BOARD_SIZE:
            raise ValueError(f"board_size={board_size} must be at least {MIN_BOARD_SIZE}, or the ships may not fit")
        self.board_size = board_size

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: one shot for each cell."""
        return EnvParams(max_steps_in_episode=self.board_size**2)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a board of its own."""
        return episodes_within(num_steps, SHIP_CELLS)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, ""], BattleshipState]:
        """Places the ships one after another, each uniformly among the places still free."""
        afloat = jnp.zeros((self.board_size, self.board_size), bool)
        for size, draw in zip(SHIP_SIZES, jax.random.uniform(key, (len(SHIP_SIZES),)), strict=True):
            afloat = afloat | place_ship(draw, ~afloat, size)
        return jnp.zeros((), jnp.int32), BattleshipState(time=jnp.zeros((), jnp.int32), afloat=afloat)

    def step_env(self, key, state: BattleshipState, action, params: EnvParams):
        """Fires at cell `(action[0], action[1])`."""
        hit = state.afloat[action[0], action[1]]
        afloat = state.afloat.at[action[0], action[1]].set(False)
        reward = jnp.where(hit, 1.0 / SHIP_CELLS, -1.0 / (self.board_size**2 - SHIP_CELLS))
        return hit.astype(jnp.int32), BattleshipState(time=state.time + 1, afloat=afloat), reward, ~jnp.any(afloat), {}

    def observation_space(self, params: EnvParams) -> Discrete:
        """Whether the last shot hit."""
        return Discrete(2)

    def action_space(self, params: EnvParams) -> MultiDiscrete:
        """Row and column of the cell to fire at."""
        return MultiDiscrete([self.board_size, self.board_size])


def place_ship(draw: Float[Array, ""], free: Bool[Array, "S S"], size: int) -> Bool[Array, "S S"]:
    """The cells of one ship of that size: where all its cells are free, the place that `draw` in [0, 1) falls on.

    Places are equally likely if `draw` is uniform. POPGym draws a start, an axis and a sense until the ship fits, which
    is the same distribution: each place can be reached from both of its ends.
    """
    fits = jnp.concatenate([_runs(free, size), _runs(free.T, size)])  # [2 S, P]: along each row, along each column
    # First the line, then the place on it: cheaper than one long cumulative sum over all places.
    through_line = jnp.cumsum(fits.sum(axis=1))
    rank = jnp.floor(draw * through_line[-1])
    line = jnp.argmax(through_line > rank)
    rank_on_line = rank - (through_line[line] - fits[line].sum())
    start = jnp.argmax(jnp.cumsum(fits[line]) > rank_on_line)
    rows, columns = jnp.arange(free.shape[0])[:, None], jnp.arange(free.shape[0])[None, :]
    ship = (rows == line % free.shape[0]) & (columns >= start) & (columns < start + size)
    return jnp.where(line < free.shape[0], ship, ship.T)


def _runs(free: Bool[Array, "S S"], size: int) -> Bool[Array, "S P"]:
    """Whether `size` cells from each cell on along its row are free."""
    starts = free.shape[1] - size + 1
    return jnp.stack([free[:, offset : offset + starts] for offset in range(size)]).all(axis=0)
