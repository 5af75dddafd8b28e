"""gymnasium environments written in NumPy, for tests of environments on the host."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from hippodrome.envs import Box as OurBox
from hippodrome.envs import EnvParams, register_env
from hippodrome.envs.empty_room import EmptyRoom

LIMIT = 20
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


class NumpyRoom(gymnasium.Env):
    """`EmptyRoom(5)` with episodes of at most `LIMIT` steps, cell by cell, the kinds as numbers.

    Attributes:
        fail_at: the step that raises an error, -1 for none.
    """

    fail_at = -1

    def __init__(self):
        self.observation_space, self.action_space = Box(0, 3, (49,)), Discrete(3)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.place, self.heading = 0, np.array([1, 1]), 0
        return self._view(), {}

    def step(self, action):
        self.time, self.steps = self.time + 1, self.steps + 1
        if self.steps == self.fail_at:
            raise ArithmeticError("the floor gave way")
        if action == 2:
            self.place = np.clip(self.place + _STEPS[self.heading], 1, 3)
        else:
            self.heading = (self.heading + (1 if action == 1 else -1)) % 4
        reached = bool((self.place == 3).all())
        one, slope = np.float32(1), np.float32(0.9)
        reward = one - slope * np.float32(self.time) / np.float32(LIMIT) if reached else 0.0
        return self._view(), reward, reached, False, {}

    def _view(self):
        view = np.zeros((7, 7), np.float32)
        ahead, right = _STEPS[self.heading], _STEPS[(self.heading + 1) % 4]
        for i in range(7):
            for j in range(7):
                row, column = self.place + (6 - i) * ahead + (j - 3) * right
                if 0 <= row <= 4 and 0 <= column <= 4:
                    edge = row in (0, 4) or column in (0, 4)
                    view[i, j] = 2 if edge else 3 if (row, column) == (3, 3) else 1
        return view.reshape(-1)


class ShortRoom(EmptyRoom):
    """The same in JAX."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=LIMIT)

    def observation_space(self, params):
        return OurBox(0, 3, (49,))

    def _view(self, state):
        return super()._view(state).astype("float32")


register_env("tests/ShortRoom", ShortRoom)
gymnasium.register("tests/NumpyRoom-v0", NumpyRoom, max_episode_steps=LIMIT)
