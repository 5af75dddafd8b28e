"""gymnax's CartPole with the limit of the S5 code: 200 steps."""

from typing import Any

import gymnax

from hippodrome.envs.adapters.gymnax_env import GymnaxAdapter

LIMIT = 200


class ShortCartPole(GymnaxAdapter):
    """CartPole-v1, cut off after 200 steps."""

    def __init__(self):
        super().__init__(gymnax.make("CartPole-v1")[0])

    @property
    def default_params(self) -> Any:
        """gymnax's but for the limit."""
        return self.env.default_params.replace(max_steps_in_episode=LIMIT)
