"""Overwrite: a key gets new values again and again, and the one written last is asked."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from .core import Environment, EnvParams, EnvState
from .spaces import Discrete, MultiDiscrete


@struct.dataclass
class OverwriteState(EnvState):
    """Attributes: `time`, steps taken; `held`, int32 `[keys]`, the value of each key; `asked`, int32, the key asked."""

    held: Int[Array, " keys"]
    asked: Int[Array, ""]


class Overwrite(Environment):
    """Each step writes a value to a key and asks what a key holds: the action names that value.

    The write shown with a question comes before it; every key holds 0 at first; keys, values and questions are uniform.
    A right answer is worth `1 / length`, a wrong one minus that: uniform guesses earn `2 / num_values - 1`, a memory
    that replaces what a key held earns 1, and one that adds the new value to the old does not.

    Args:
        num_keys: keys there are.
        num_values: values there are, the actions.
        length: steps of an episode.

    Raises:
        ValueError: for fewer than one key, two values or one step.
    """

    can_truncate = False

    def __init__(self, num_keys: int = 8, num_values: int = 4, length: int = 104):
        for name, value, least in (("num_keys", num_keys, 1), ("num_values", num_values, 2), ("length", length, 1)):
            if value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        self.num_keys, self.num_values, self.length = num_keys, num_values, length

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: the episode ends by itself after `length` steps."""
        return EnvParams(max_steps_in_episode=self.length)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Int[Array, " 3"], OverwriteState]:
        """Empties the keys and shows the first write and question."""
        return self._show(key, jnp.zeros((), jnp.int32), jnp.zeros(self.num_keys, jnp.int32))

    def step_env(self, key, state: OverwriteState, action, params: EnvParams):
        """Scores the answer to the question shown; writes and asks anew."""
        reward = jnp.where(action == state.held[state.asked], 1.0, -1.0) / self.length
        observation, state = self._show(key, state.time + 1, state.held)
        return observation, state, reward, state.time == self.length, {}

    def _show(self, key, time, held):
        most = jnp.array([self.num_keys, self.num_values, self.num_keys])
        written, value, asked = shown = jax.random.randint(key, (3,), 0, most)
        return shown, OverwriteState(time=time, held=held.at[written].set(value), asked=asked)

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        """The key written, its value, and the key asked."""
        return MultiDiscrete([self.num_keys, self.num_values, self.num_keys])

    def action_space(self, params: EnvParams) -> Discrete:
        """The value answered."""
        return Discrete(self.num_values)
