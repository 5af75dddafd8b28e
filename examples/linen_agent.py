"""An agent of your own in flax.linen with an S5 memory: actor-critic on POPGym's RepeatPreviousEasy.

It shows the three things a recurrent agent must get right: it acts one step at a time from a carry; it learns from a
whole rollout at once, from the carry stored where the rollout began; and where an episode begins inside a rollout,
`reset` starts the memory anew, in acting and in learning alike.

Run: uv run python examples/linen_agent.py

Legend: T steps of a rollout, B environments.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from hippodrome.envs import VectorEnv, environment_keys, make
from hippodrome.memory import make_memory

NUM_ENVS, NUM_STEPS, GAMMA = 64, 64, 0.5


class ActorCritic(nn.Module):
    """Embedding of the observation, memory, and one dense layer for the policy's logits and the value."""

    num_observations: int
    num_actions: int
    memory: nn.Module

    def setup(self):
        self.embedding = nn.Embed(self.num_observations, self.memory.d_model)
        self.heads = nn.Dense(self.num_actions + 1)

    def __call__(self, carry, observation, reset):
        """A rollout at once: observation and reset `[T, B]`, logits `[T, B, A]`, value `[T, B]`."""
        carry, features = self.memory(carry, self.embedding(observation), reset)
        return carry, *self._read(features)

    def step(self, carry, observation, reset):
        """One step: observation and reset `[B]`, logits `[B, A]`, value `[B]`."""
        carry, features = self.memory.step(carry, self.embedding(observation), reset)
        return carry, *self._read(features)

    def _read(self, features):
        out = self.heads(nn.gelu(features))
        return out[..., :-1], out[..., -1]


envs = VectorEnv(make("popgym/RepeatPreviousEasy"), num_steps=NUM_STEPS)
agent = ActorCritic(
    num_observations=envs.observation_space.n,
    num_actions=envs.action_space.n,
    memory=make_memory("s5", d_model=32, d_state=32),
)
optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))


def act(params, env_state, carry, key):
    """One rollout by `step`: the state and carry after it, and what happened, leaves `[T, B]`."""

    def env_step(state, key_t):
        env_state, carry = state
        timestep = env_state.timestep
        carry, logits, _ = agent.apply(params, carry, timestep.observation, timestep.reset, method="step")
        action = jax.random.categorical(key_t, logits)
        env_state, outcome = envs.step(env_state, action)
        return (env_state, carry), (timestep, action, outcome)

    (env_state, carry), rollout = jax.lax.scan(env_step, (env_state, carry), jax.random.split(key, NUM_STEPS))
    return env_state, carry, rollout


def loss(params, first_carry, rollout, last_value):
    """Policy-gradient, value and entropy terms over the whole rollout, from the carry that was stored before it."""
    timestep, action, outcome = rollout
    _, logits, value = agent.apply(params, first_carry, timestep.observation, timestep.reset)

    def backward_step(following, now):
        reward, terminated = now
        following = reward + GAMMA * jnp.where(terminated, 0.0, following)
        return following, following

    # The environment pays about 1/48 for a right answer; in these units the value's error is of the order of 1.
    reward = 48.0 * outcome.reward
    _, value_target = jax.lax.scan(backward_step, last_value, (reward, outcome.terminated), reverse=True)
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]
    advantage = jax.lax.stop_gradient(value_target - value)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return (-log_prob * advantage + 0.5 * (value - value_target) ** 2 - 0.01 * entropy).mean()


@jax.jit
def begin(key):
    """Parameters, the optimiser's state, environments at their first observation, and the carry before it."""
    init_key, env_key = jax.random.split(key)
    env_state = envs.reset(environment_keys(env_key, 0, NUM_ENVS))
    carry = agent.memory.initial_carry((NUM_ENVS,))
    now = env_state.timestep
    params = agent.init(init_key, carry, now.observation[None], now.reset[None])
    return params, optimizer.init(params), env_state, carry


@jax.jit
def update(params, optimizer_state, env_state, carry, key):
    """Act, then learn from it: everything for the next update, the loss, and the mean return of ended episodes."""
    env_state, next_carry, rollout = act(params, envs.begin_rollout(env_state), carry, key)
    now = env_state.timestep
    _, _, last_value = agent.apply(params, next_carry, now.observation, now.reset, method="step")
    value, grads = jax.value_and_grad(loss)(params, carry, rollout, last_value)
    changes, optimizer_state = optimizer.update(grads, optimizer_state)
    outcome = rollout[2]
    episode_return = outcome.episode_return.mean(where=outcome.ended)
    return optax.apply_updates(params, changes), optimizer_state, env_state, next_carry, value, episode_return


def main(num_updates: int = 80) -> float:
    """Train, print the loss and the return (-1 to 1, chance is -0.5), return the last return."""
    begin_key, key = jax.random.split(jax.random.key(0))
    params, optimizer_state, env_state, carry = begin(begin_key)
    first = None
    for index in range(num_updates):
        key, update_key = jax.random.split(key)
        params, optimizer_state, env_state, carry, value, episode_return = update(
            params, optimizer_state, env_state, carry, update_key
        )
        first = float(episode_return) if first is None else first
        if index % 20 == 0 or index == num_updates - 1:
            print(f"update {index:3d}: loss {value:6.3f}, return {episode_return:6.3f}")
    assert episode_return > first, f"nothing was learnt: the return went from {first:.3f} to {episode_return:.3f}"
    return float(episode_return)


if __name__ == "__main__":
    main()
