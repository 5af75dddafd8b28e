"""An empty room seen from inside: turn and walk to the goal in the far corner (MiniGrid's Empty)."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from .core import Environment, EnvParams, EnvState
from .spaces import Discrete, MultiDiscrete

UNSEEN, EMPTY, WALL, GOAL = range(4)
VIEW = 7
# (row, column) of a step to the right, down, left, up.
_STEPS = jnp.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


@struct.dataclass
class EmptyRoomState(EnvState):
    """Attributes: `time`, steps taken; int32 `place` (row, column); int32 `heading`, 0 right, 1 down, 2 left, 3 up."""

    place: Int[Array, " 2"]
    heading: Int[Array, ""]


class EmptyRoom(Environment):
    """Turn left (0), turn right (1) or step forward (2) until the goal is reached.

    The room is `size x size` with walls around; the agent starts in the upper left corner, heading right, and the goal
    is in the lower right one. It sees the 7 x 7 cells before it, itself in the middle of the nearest row, as kinds:
    0 beyond the room, 1 empty, 2 wall, 3 goal. Reaching the goal ends the episode with a reward of
    `1 - 0.9 time / limit`; it is cut off after `4 size^2` steps. The actions of MiniGrid that do nothing here are left
    out, and kinds of objects take the place of its three numbers a cell.

    Args:
        size: cells of a side, walls included; at least 4.

    Raises:
        ValueError: for a smaller room.
    """

    def __init__(self, size: int = 5):
        if size < 4:
            raise ValueError(f"size={size} must be at least 4: two walls and two cells")
        self.size = size

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `4 size^2`."""
        return EnvParams(max_steps_in_episode=4 * self.size**2)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, " 49"], EmptyRoomState]:
        """Always the same start."""
        del key
        state = EmptyRoomState(jnp.zeros((), jnp.int32), jnp.ones(2, jnp.int32), jnp.zeros((), jnp.int32))
        return self._view(state), state

    def step_env(self, key: Key[Array, ""], state: EmptyRoomState, action, params: EnvParams):
        """Turns or walks; a wall stops a step."""
        heading = (state.heading + jnp.where(action == 0, -1, 0) + jnp.where(action == 1, 1, 0)) % 4
        ahead = jnp.clip(state.place + _STEPS[state.heading], 1, self.size - 2)
        place = jnp.where(action == 2, ahead, state.place)
        state = EmptyRoomState(state.time + 1, place, heading)
        reached = (place == self.size - 2).all()
        reward = jnp.where(reached, 1.0 - 0.9 * state.time / params.max_steps_in_episode, 0.0)
        return self._view(state), state, reward, reached, {}

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        """The kinds of the 7 x 7 cells seen, row by row, the farthest first."""
        return MultiDiscrete([4] * VIEW**2)

    def action_space(self, params: EnvParams) -> Discrete:
        """Left, right, forward."""
        return Discrete(3)

    def _view(self, state: EmptyRoomState) -> Int[Array, " 49"]:
        # Cell (i, j) of the view is 6 - i steps ahead and j - 3 to the right.
        ahead = (VIEW - 1 - jnp.arange(VIEW))[:, None, None] * _STEPS[state.heading]
        right = (jnp.arange(VIEW) - VIEW // 2)[None, :, None] * _STEPS[(state.heading + 1) % 4]
        cells = state.place + ahead + right
        last = self.size - 1
        outside = ((cells < 0) | (cells > last)).any(-1)
        wall = ((cells == 0) | (cells == last)).any(-1)
        goal = (cells == last - 1).all(-1)
        kinds = jnp.where(outside, UNSEEN, jnp.where(wall, WALL, jnp.where(goal, GOAL, EMPTY)))
        return kinds.reshape(-1).astype(jnp.int32)
