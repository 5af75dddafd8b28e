"""NoisyPositionOnlyCartPoleHard seen through a Kalman filter: what PPO reaches where nothing is left to remember.

    PYTHONPATH=benchmarks uv run launch.py train noisy-cartpole-hard --import noisy_cartpole_belief \\
        --env.id yardstick/NoisyCartPoleBelief --env.num-envs 256 --agent.num-steps 64 --memory.kind none \\
        --total-env-steps 8e6

The observation is the estimate of the filter of noisy_cartpole_reference.py, at the noise levels which that script
found, and the time. The task beneath is unchanged.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from noisy_cartpole_reference import SIGMA, STEPS, linear_model

from hippodrome.envs import Environment, register_env
from hippodrome.envs.core import EnvState
from hippodrome.envs.popgym.cartpole import START_RANGE, THETA_LIMIT, CartPole, CartPoleState, integrate
from hippodrome.envs.spaces import Box

# The last three parameters of noisy_cartpole_reference.py.
ANGLE_NOISE, PROCESS_NOISE, START_VARIANCE = np.exp([-0.368, -3.5618, -0.3832])
SHOWN = np.array([0, 2])
SCALE = np.array([1.0, 1.0, 5.0, 2.0], np.float32)


def filter_gains() -> Float[np.ndarray, "T 4 2"]:
    """The Kalman gain of every step: the linear model's do not depend on what is seen."""
    A, seen = linear_model(), np.eye(4)[SHOWN]
    R = SIGMA**2 * np.diag([1.0, ANGLE_NOISE**2])
    Q = np.diag([0.0, 0.0, 0.0, PROCESS_NOISE**2])
    P, gains = START_VARIANCE * START_RANGE**2 / 3 * np.eye(4), []
    for _ in range(STEPS + 1):
        gains.append(P @ seen.T @ np.linalg.inv(seen @ P @ seen.T + R))
        P = A @ (np.eye(4) - gains[-1] @ seen) @ P @ A.T + Q
    return np.stack(gains).astype(np.float32)


@struct.dataclass
class BeliefState(EnvState):
    """Attributes: the `cartpole`'s state and the filter's `estimate` of it, `[4]`."""

    cartpole: CartPoleState
    estimate: Float[Array, " 4"]


class NoisyCartPoleBelief(Environment):
    """The noisy cartpole whose observation is (estimate, time), `[5]`."""

    def __init__(self):
        self.task = CartPole(STEPS, noise_sigma=SIGMA)
        self._gains = jnp.asarray(filter_gains())

    @property
    def default_params(self):
        """Those of the task."""
        return self.task.default_params

    def reset_env(self, key, params):
        """Begins an episode; the estimate begins at rest and sees the first observation."""
        shown, state = self.task.reset_env(key, params)
        return self._observe(shown, state, jnp.zeros(4))

    def step_env(self, key, state, action, params):
        """Pushes the cart; the estimate is pushed too, then sees the observation."""
        shown, cartpole, reward, fell, info = self.task.step_env(key, state.cartpole, action, params)
        moved = integrate(CartPoleState(jnp.zeros((), jnp.int32), *state.estimate), action)
        moved = jnp.stack([moved.x, moved.x_dot, moved.theta, moved.theta_dot])
        return *self._observe(shown, cartpole, moved), reward, fell, info

    def observation_space(self, params):
        """Unbounded in truth; the bounds are generous."""
        return Box(np.full(5, -10, np.float32), np.full(5, 10, np.float32), (5,), jnp.float32)

    def action_space(self, params):
        """That of the task."""
        return self.task.action_space(params)

    def _observe(self, shown: jax.Array, cartpole: CartPoleState, estimate: jax.Array):
        estimate = estimate + self._gains[cartpole.time] @ (shown - estimate[SHOWN])
        estimate = estimate.at[2].set(jnp.clip(estimate[2], -THETA_LIMIT, THETA_LIMIT))
        observation = jnp.append(SCALE * estimate, cartpole.time / 100.0)
        return observation, BeliefState(time=cartpole.time, cartpole=cartpole, estimate=estimate)


register_env("yardstick/NoisyCartPoleBelief", NoisyCartPoleBelief)
