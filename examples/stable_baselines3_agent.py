"""An unmodified agent of Stable-Baselines3 on an environment of this library.

    uv run --with stable-baselines3 python examples/stable_baselines3_agent.py

Importing `hippodrome.envs.as_gymnasium` is all that gymnasium needs to know the environments.
"""

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

import hippodrome.envs.as_gymnasium  # noqa: F401 - registers them

ENV = "hippodrome/popgym.VelocityOnlyCartPoleEasy"


def main(total_timesteps: int = 40_000, num_envs: int = 8, episodes: int = 20) -> tuple[float, float]:
    """The mean return before and after training; an episode's is at most 1."""
    envs = DummyVecEnv([lambda: gymnasium.make(ENV)] * num_envs)
    agent = PPO("MlpPolicy", envs, n_steps=256, batch_size=256, n_epochs=8, learning_rate=1e-3, seed=0)
    means = []
    for steps in (0, total_timesteps):
        if steps:
            agent.learn(steps)
        returns, _ = evaluate_policy(agent, gymnasium.make(ENV), episodes, return_episode_rewards=True)
        means.append(float(np.mean(returns)))
    print(f"{ENV}: mean return of {episodes} episodes {means[0]:.2f} before training, {means[1]:.2f} after")
    assert means[1] > means[0]
    return means[0], means[1]


if __name__ == "__main__":
    main()
