"""The three CartPole families: balance a pole seeing half of its state (POPGym, Morad et al. 2023).

The physics is gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983) under Euler integration; units are SI.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Box, Discrete

GRAVITY = 9.8
CART_MASS = 1.0
POLE_MASS = 0.1
TOTAL_MASS = CART_MASS + POLE_MASS
HALF_LENGTH = 0.5
FORCE = 10.0
TIME_STEP = 0.02
X_LIMIT = 2.4
THETA_LIMIT = math.radians(12)
START_RANGE = 0.05


@struct.dataclass
class CartPoleState(EnvState):
    """Attributes: `time`, steps taken; float32 position `x`, angle `theta` (0 is upright) and their rates."""

    x: Float[Array, ""]
    x_dot: Float[Array, ""]
    theta: Float[Array, ""]
    theta_dot: Float[Array, ""]


class CartPole(Environment):
    """Push the cart left (0) or right (1); every step is worth `1 / T`, the one at which the pole falls included.

    Terminated where `|x| > 2.4` or the pole leans by more than 12 degrees, truncated after `T` steps.

    Args:
        episode_length: `T`.
        observed: `"position"` shows `(x, theta)`, `"velocity"` their rates.
        noise_sigma: standard deviation of Gaussian noise on what is shown, first observation included; the sum is
            clipped to the observation space.
        positions_at_reset: True shows `(x, theta)` at the first step whatever `observed` says, as popgym 1.0.7 does in
            VelocityOnlyCartPole (docs/popgym.md).

    Raises:
        ValueError: if `observed` is neither, or a number is out of range.
    """

    def __init__(
        self,
        episode_length: int = 200,
        observed: Literal["position", "velocity"] = "position",
        noise_sigma: float = 0.0,
        positions_at_reset: bool = False,
    ):
        if observed not in ("position", "velocity"):
            raise ValueError(f"observed={observed!r} must be 'position' or 'velocity'")
        if episode_length < 1:
            raise ValueError(f"episode_length={episode_length} must be at least 1")
        if noise_sigma < 0:
            raise ValueError(f"noise_sigma={noise_sigma} must not be negative")
        self.episode_length = episode_length
        self.observed = observed
        self.noise_sigma = noise_sigma
        self.positions_at_reset = positions_at_reset
        bounds = [2 * X_LIMIT, 2 * THETA_LIMIT] if observed == "position" else [math.inf, math.inf]
        self._high = np.array(bounds, np.float32)

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `T`."""
        return EnvParams(max_steps_in_episode=self.episode_length)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Float[Array, " 2"], CartPoleState]:
        """Draws all four state variables uniformly in +-0.05."""
        start_key, noise_key = jax.random.split(key)
        start = jax.random.uniform(start_key, (4,), minval=-START_RANGE, maxval=START_RANGE)
        state = CartPoleState(jnp.zeros((), jnp.int32), *start)
        observed = "position" if self.positions_at_reset else self.observed
        return self._observe(noise_key, state, observed), state

    def step_env(self, key: Key[Array, ""], state: CartPoleState, action, params: EnvParams):
        """Pushes the cart for 0.02 s."""
        state = integrate(state, action)
        fell = (jnp.abs(state.x) > X_LIMIT) | (jnp.abs(state.theta) > THETA_LIMIT)
        reward = jnp.asarray(1.0 / params.max_steps_in_episode)
        return self._observe(key, state, self.observed), state, reward, fell, {}

    def observation_space(self, params: EnvParams) -> Box:
        """Position and angle, each within twice its limit; or their rates, unbounded."""
        return Box(-self._high, self._high, (2,), jnp.float32)

    def action_space(self, params: EnvParams) -> Discrete:
        """Push left (0) or right (1)."""
        return Discrete(2)

    def _observe(self, key: Key[Array, ""], state: CartPoleState, observed: str) -> Float[Array, " 2"]:
        position = observed == "position"
        shown = jnp.stack([state.x, state.theta] if position else [state.x_dot, state.theta_dot])
        if self.noise_sigma == 0:
            return shown
        return jnp.clip(shown + self.noise_sigma * jax.random.normal(key, (2,)), -self._high, self._high)


def integrate(state: CartPoleState, action) -> CartPoleState:
    """The state 0.02 s later.

    With `m` the pole's mass, `M` the total, `l` half the length, `F` the push and
    `u = (F + m l theta_dot^2 sin(theta)) / M`:
    `theta_acc = (g sin(theta) - u cos(theta)) / (l (4/3 - m cos(theta)^2 / M))` and
    `x_acc = u - m l theta_acc cos(theta) / M` (Florian 2005, without friction).
    """
    sin, cos = jnp.sin(state.theta), jnp.cos(state.theta)
    moment = POLE_MASS * HALF_LENGTH
    push = (jnp.where(action == 1, FORCE, -FORCE) + moment * state.theta_dot**2 * sin) / TOTAL_MASS
    theta_acc = (GRAVITY * sin - push * cos) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / TOTAL_MASS))
    x_acc = push - moment * theta_acc * cos / TOTAL_MASS
    return CartPoleState(
        time=state.time + 1,
        x=state.x + TIME_STEP * state.x_dot,
        x_dot=state.x_dot + TIME_STEP * x_acc,
        theta=state.theta + TIME_STEP * state.theta_dot,
        theta_dot=state.theta_dot + TIME_STEP * theta_acc,
    )
