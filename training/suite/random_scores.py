"""Mean return of uniform random actions, for configs/suites/references.yaml.

`python -m hippodrome.training.suite.random_scores gymnax/CartPole-v1 gymnax/Pendulum-v1` prints one line for each.
"""

import argparse
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hippodrome.envs import environment_keys, make, vectorize
from hippodrome.training.host import running


def random_return(env_id: str, *, episodes: int = 4096, seed: int = 0) -> float:
    """Mean return of one episode in each of `episodes` environments, actions drawn uniformly.

    Raises:
        ValueError: for an unknown environment.
    """
    vector = vectorize(make(env_id))
    reset_key, key = jax.random.split(jax.random.key(seed))
    sample = jax.vmap(vector.action_space.sample)

    def play(carry: tuple) -> tuple:
        state, key, done, returns = carry
        key, action_key = jax.random.split(key)
        state, outcome = vector.step(state, sample(jax.random.split(action_key, episodes)))
        returns = jnp.where(~done & outcome.ended, outcome.episode_return, returns)
        return state, key, done | outcome.ended, returns

    def unfinished(carry: tuple) -> Any:
        return ~carry[2].all()

    with running(vector):
        state = vector.reset(environment_keys(reset_key, 0, episodes))
        start = (state, key, jnp.zeros(episodes, bool), jnp.zeros(episodes))
        _, _, _, returns = jax.jit(partial(jax.lax.while_loop, unfinished, play))(start)
        return float(returns.mean())


def main() -> int:
    """Print `id: mean return` for each environment named on the command line."""
    parser = argparse.ArgumentParser(description="mean return of uniform random actions")
    parser.add_argument("envs", nargs="+")
    parser.add_argument("--episodes", type=int, default=4096)
    known = parser.parse_args()
    for env_id in known.envs:
        print(f"{env_id}: {random_return(env_id, episodes=known.episodes):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
