"""The two Pendulum families: swing a pendulum up without seeing its speed (POPGym, Morad et al. 2023).

The physics is gymnasium's Pendulum-v1: a rod of mass 1 kg and length 1 m, semi-implicit Euler; units are SI.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Box

from .cards import episodes_within

GRAVITY = 10.0
TIME_STEP = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0
START_SPEED = 1.0
# The largest cost, pi^2 + 0.1 * 8^2 + 0.001 * 2^2, as POPGym rounds it.
MAX_COST = 16.2736044


@struct.dataclass
class PendulumState(EnvState):
    """Attributes: `time`, steps taken; float32 `theta` in [-pi, pi], 0 upright; `theta_dot`, its rate."""

    theta: Float[Array, ""]
    theta_dot: Float[Array, ""]


class Pendulum(Environment):
    """Apply a torque; the observation is `(cos(theta), sin(theta))`; the reward falls with angle, speed and torque.

    The cost of a step is `theta^2 + 0.1 theta_dot^2 + 0.001 torque^2` of the state before it; the reward,
    `(1 - 2 cost / max_cost) / T`, lies in +-1 / T. The episode is truncated after `T` steps and never terminates.

    Args:
        episode_length: `T`.
        noise_sigma: standard deviation of Gaussian noise on what is shown, first observation included; the sum is
            clipped to +-1.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, episode_length: int = 200, noise_sigma: float = 0.0):
        if episode_length < 1:
            raise ValueError(f"episode_length={episode_length} must be at least 1")
        if noise_sigma < 0:
            raise ValueError(f"noise_sigma={noise_sigma} must not be negative")
        self.episode_length = episode_length
        self.noise_sigma = noise_sigma

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `T`."""
        return EnvParams(max_steps_in_episode=self.episode_length)

    def reset_pool_size(self, num_steps: int) -> int:
        """Every episode that can end within `num_steps` gets a start of its own."""
        return episodes_within(num_steps, self.episode_length)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Float[Array, " 2"], PendulumState]:
        """Draws the angle uniformly in +-pi and the speed in +-1."""
        start_key, noise_key = jax.random.split(key)
        high = jnp.array([math.pi, START_SPEED])
        theta, theta_dot = jax.random.uniform(start_key, (2,), minval=-high, maxval=high)
        state = PendulumState(time=jnp.zeros((), jnp.int32), theta=theta, theta_dot=theta_dot)
        return self._observe(noise_key, state), state

    def step_env(self, key: Key[Array, ""], state: PendulumState, action: Float[Array, " 1"], params: EnvParams):
        """Applies the torque, clipped to +-2 N m, for 0.05 s."""
        torque = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
        cost = state.theta**2 + 0.1 * state.theta_dot**2 + 0.001 * torque**2
        reward = (1.0 - 2.0 * cost / MAX_COST) / params.max_steps_in_episode
        acceleration = 1.5 * GRAVITY * jnp.sin(state.theta) + 3.0 * torque
        theta_dot = jnp.clip(state.theta_dot + TIME_STEP * acceleration, -MAX_SPEED, MAX_SPEED)
        theta = _wrap(state.theta + TIME_STEP * theta_dot)
        state = PendulumState(time=state.time + 1, theta=theta, theta_dot=theta_dot)
        return self._observe(key, state), state, reward, jnp.asarray(False), {}

    def observation_space(self, params: EnvParams) -> Box:
        """Cosine and sine of the angle."""
        return Box(-1.0, 1.0, (2,), jnp.float32)

    def action_space(self, params: EnvParams) -> Box:
        """The torque."""
        return Box(-MAX_TORQUE, MAX_TORQUE, (1,), jnp.float32)

    def _observe(self, key: Key[Array, ""], state: PendulumState) -> Float[Array, " 2"]:
        shown = jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta)])
        if self.noise_sigma == 0:
            return shown
        return jnp.clip(shown + self.noise_sigma * jax.random.normal(key, (2,)), -1.0, 1.0)


def _wrap(theta: Float[Array, ""]) -> Float[Array, ""]:
    # float32: an angle left to grow loses digits; subtracting whole turns leaves one within +-pi untouched.
    return theta - 2 * math.pi * jnp.round(theta / (2 * math.pi))
