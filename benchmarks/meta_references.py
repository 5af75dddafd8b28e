"""What textbook algorithms get on the tasks of RL^2, with the prior that tasks are drawn from.

    uv run benchmarks/meta_references.py [--tasks 2000]

Bandits: Thompson sampling with a Beta(1, 1) prior (Thompson 1933; Agrawal and Goyal 2012); regret is
`T max(chances) - sum of the chances of the arms pulled`. Tabular processes: posterior sampling (PSRL, Osband et al.
2013) with the very prior, Dirichlet(1, ..., 1) transitions and rewards of normal mean 1, variance 1 under noise of
variance 1; each trial the best policy of a process drawn from the posterior is followed. Beside it, an agent that never
looks ahead: in each state the action whose reward has the highest posterior mean. Tasks are those held out.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.envs.meta.bandit import Bandit
from hippodrome.envs.meta.tabular_mdp import TabularMDP


def thompson_regret(chances: Any, key: Any, steps: int) -> Any:
    """Regret of Thompson sampling on one bandit."""

    def pull(counts, key):
        wins, losses = counts
        beta_key, pay_key = jax.random.split(key)
        arm = jnp.argmax(jax.random.beta(beta_key, 1.0 + wins, 1.0 + losses))
        paid = jax.random.uniform(pay_key) < chances[arm]
        return (wins.at[arm].add(paid), losses.at[arm].add(~paid)), chances[arm]

    start = jnp.zeros(len(chances)), jnp.zeros(len(chances))
    _, pulled = jax.lax.scan(pull, start, jax.random.split(key, steps))
    return steps * chances.max() - pulled.sum()


def best_policy(transition: Any, reward: Any, horizon: int) -> Any:
    """Actions `[horizon, S]` of the best policy, by backward induction, and its value in state 0."""

    def back(value, _):
        q = reward + transition @ value
        return q.max(-1), q.argmax(-1)

    value, actions = jax.lax.scan(back, jnp.zeros(len(reward)), None, length=horizon)
    return actions[::-1], value[0]


def psrl_return(task: Any, key: Any, env: TabularMDP, trials: int) -> Any:
    """Return of PSRL over all trials on one process."""
    shape = (env.states, env.actions)

    def trial(known, key):
        draw_key, mean_key, play_key = jax.random.split(key, 3)
        visits, total = known
        weight = jax.random.gamma(draw_key, 1.0 + visits)
        count = visits.sum(-1)
        # The posterior of a mean under a normal prior of mean 1 and variance 1.
        mean = (1.0 + total) / (1.0 + count) + jax.random.normal(mean_key, shape) * (1.0 + count) ** -0.5
        actions, _ = best_policy(weight / weight.sum(-1, keepdims=True), mean, env.horizon)

        def step(state, inputs):
            action_of, step_key = inputs
            action = action_of[state.place]
            reached, after, reward, *_ = env.step_env(step_key, state, action, task)
            return after, (state.place, action, reached, reward)

        _, start = env.reset_env(play_key, task)
        _, (place, action, reached, reward) = jax.lax.scan(
            step, start, (actions, jax.random.split(play_key, env.horizon))
        )
        known = visits.at[place, action, reached].add(1.0), total.at[place, action].add(reward)
        return known, reward.sum()

    start = jnp.zeros((*shape, env.states)), jnp.zeros(shape)
    return jax.lax.scan(trial, start, jax.random.split(key, trials))[1].sum()


def greedy_return(task: Any, key: Any, env: TabularMDP, trials: int) -> Any:
    """Return over all trials on one process of taking the action of highest posterior mean reward, and no more."""

    def step(known, key):
        count, total, state, time = known
        tie_key, step_key, reset_key = jax.random.split(key, 3)
        mean = (1.0 + total[state.place]) / (1.0 + count[state.place])
        action = jnp.argmax(mean + 1e-6 * jax.random.normal(tie_key, mean.shape))
        _, after, reward, *_ = env.step_env(step_key, state, action, task)
        count = count.at[state.place, action].add(1.0)
        total = total.at[state.place, action].add(reward)
        _, start = env.reset_env(reset_key, task)
        ended = (time + 1) % env.horizon == 0
        after = jax.tree.map(lambda new, old: jnp.where(ended, new, old), start, after)
        return (count, total, after, time + 1), reward

    nothing = jnp.zeros((env.states, env.actions))
    _, start = env.reset_env(key, task)
    known = nothing, nothing, start, jnp.zeros((), jnp.int32)
    return jax.lax.scan(step, known, jax.random.split(key, trials * env.horizon))[1].sum()


def bandit_reference(arms: int, steps: int, tasks: int, seed: int = 0) -> tuple[float, float]:
    """Mean regret over held-out bandits and its standard error."""
    env = Bandit(arms, "held-out-tasks")
    keys = jax.random.split(jax.random.key(seed), (tasks, 2))

    def one(key):
        chances = env.sample_task(key[0], env.default_params).chances
        return thompson_regret(chances, key[1], steps)

    return _mean(jax.jit(jax.vmap(one))(keys))


def tabular_reference(trials: int, tasks: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Mean return over held-out processes and its standard error: of PSRL, greed, and knowing the process."""
    env = TabularMDP(split="held-out-tasks")
    keys = jax.random.split(jax.random.key(seed), (tasks, 2))

    def one(key):
        task = env.sample_task(key[0], env.default_params)
        known = trials * best_policy(task.transition, task.reward, env.horizon)[1]
        return psrl_return(task, key[1], env, trials), greedy_return(task, key[1], env, trials), known

    found = jax.jit(jax.vmap(one))(keys)
    return dict(zip(("PSRL", "greed", "known process"), map(_mean, found), strict=True))


def _mean(values: Any) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="how many (default: %(default)s)")
    tasks = parser.parse_args().tasks
    for arms, steps in ((5, 10), (5, 100), (10, 100), (5, 500)):
        mean, error = bandit_reference(arms, steps, tasks)
        print(f"bandit, {arms} arms, {steps} pulls: Thompson sampling's regret {mean:.2f} (s.e. {error:.2f})")
    for trials in (10, 25):
        for name, (mean, error) in tabular_reference(trials, tasks).items():
            print(f"tabular process, {trials} trials: return of {name} {mean:.1f} (s.e. {error:.1f})")


if __name__ == "__main__":
    main()
