"""What a model-based controller reaches on NoisyPositionOnlyCartPoleHard: a yardstick for what the noise leaves to win.

    uv run benchmarks/noisy_cartpole_reference.py

The controller knows the physics: a Kalman filter on the linearised cart and pole, then a push by the sign of a linear
function of its estimate. The gains and the filter's noise levels are searched by the cross-entropy method on episodes
of their own; the return printed last is on fresh episodes.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.envs.popgym.cartpole import (
    GRAVITY,
    HALF_LENGTH,
    POLE_MASS,
    START_RANGE,
    THETA_LIMIT,
    TIME_STEP,
    TOTAL_MASS,
    X_LIMIT,
    CartPoleState,
    integrate,
)

STEPS, SIGMA = 200, 0.3
# x, x_dot and theta_dot gains over the theta gain; log factor of the angle's noise in the filter, log of its process
# noise, log factor of its initial variance.
FIRST = np.array([0.0, 0.0, 0.3, 0.0, -6.0, 0.0])
SPREAD = np.array([0.05, 0.1, 0.2, 0.3, 1.0, 1.0])


def linear_model() -> np.ndarray:
    """A of s' = A s for s = (x, x_dot, theta, theta_dot) near upright, without a push."""
    length = HALF_LENGTH * (4 / 3 - POLE_MASS / TOTAL_MASS)
    coupling = POLE_MASS * HALF_LENGTH / TOTAL_MASS
    A = np.eye(4)
    A[0, 1] = A[2, 3] = TIME_STEP
    A[3, 2] = TIME_STEP * GRAVITY / length
    A[1, 2] = -coupling * A[3, 2]
    return A


def mean_return(parameters: jax.Array, key: jax.Array, episodes: int) -> jax.Array:
    """Mean return of the controller with these parameters."""
    A = jnp.asarray(linear_model())
    gains = jnp.array([parameters[0], parameters[1], 1.0, parameters[2]])
    seen = jnp.eye(4)[jnp.array([0, 2])]
    R = SIGMA**2 * jnp.diag(jnp.array([1.0, jnp.exp(2 * parameters[3])]))
    Q = jnp.diag(jnp.array([0, 0, 0, jnp.exp(2 * parameters[4])]))
    limits = jnp.array([2 * X_LIMIT, 2 * THETA_LIMIT])
    start_key, noise_key = jax.random.split(key)
    start = jax.random.uniform(start_key, (4, episodes), minval=-START_RANGE, maxval=START_RANGE)
    move = jax.vmap(lambda s, action: integrate(CartPoleState(jnp.zeros((), jnp.int32), *s), action), (1, 0))

    def advance(s, action):
        after = move(s, action)
        return jnp.stack([after.x, after.x_dot, after.theta, after.theta_dot])

    def step(carried, noise):
        state, estimate, P, alive = carried
        shown = jnp.clip(state[jnp.array([0, 2])] + SIGMA * noise, -limits[:, None], limits[:, None])
        gain = P @ seen.T @ jnp.linalg.inv(seen @ P @ seen.T + R)
        estimate = estimate + gain @ (shown - seen @ estimate)
        estimate = estimate.at[2].set(jnp.clip(estimate[2], -THETA_LIMIT, THETA_LIMIT))
        action = (gains @ estimate > 0).astype(jnp.int32)
        P = A @ (jnp.eye(4) - gain @ seen) @ P @ A.T + Q
        state, after = advance(state, action), advance(estimate, action)
        stands = (jnp.abs(state[0]) <= X_LIMIT) & (jnp.abs(state[2]) <= THETA_LIMIT)
        return (state, after, P, alive & stands), alive

    P = jnp.exp(parameters[5]) * START_RANGE**2 / 3 * jnp.eye(4)
    noise = jax.random.normal(noise_key, (STEPS, 2, episodes))
    first = (start, jnp.zeros((4, episodes)), P, jnp.ones(episodes, bool))
    return jax.lax.scan(step, first, noise)[1].mean()


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    score = jax.jit(jax.vmap(mean_return, (0, None, None)), static_argnums=2)
    rng, key = np.random.default_rng(arguments.seed), jax.random.key(arguments.seed)
    mean, spread = FIRST, SPREAD
    for number in range(arguments.rounds):
        candidates = mean + spread * rng.normal(size=(32, len(mean)))
        returns = np.asarray(score(jnp.asarray(candidates), jax.random.fold_in(key, number), 4000))
        elite = candidates[np.argsort(-returns)[:8]]
        mean, spread = elite.mean(0), 0.7 * spread + 0.3 * elite.std(0)
    final = float(score(jnp.asarray(mean)[None], jax.random.fold_in(key, arguments.rounds), 100_000)[0])
    print(f"parameters {np.round(mean, 4).tolist()}\nmean return {final:.4f} over 100,000 fresh episodes")


if __name__ == "__main__":
    main()
