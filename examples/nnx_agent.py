"""An agent of your own in flax NNX: the memory comes in through `nnx.bridge.ToNNX`, parameters and all.

The bridge makes the memory an NNX module among others: its parameters are `nnx.Param`, so that `nnx.value_and_grad`,
`nnx.Optimizer` and checkpoints see them. The carry stays an explicit value, handed from call to call. The policy is
trained by REINFORCE on POPGym's RepeatPreviousEasy, with a Mamba memory.

Run: uv run python examples/nnx_agent.py

Legend: T steps of a rollout, B environments.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from hippodrome.envs import VectorEnv, environment_keys, make
from hippodrome.memory import make_memory

NUM_ENVS, NUM_STEPS = 64, 64


class Policy(nnx.Module):
    """Embedding of the observation, memory, and a dense layer for the logits."""

    def __init__(self, num_observations: int, num_actions: int, *, width: int = 16, rngs: nnx.Rngs):
        memory = make_memory("mamba", d_model=width, d_state=8)
        self.initial_carry = memory.initial_carry
        self.embedding = nnx.Embed(num_observations, width, rngs=rngs)
        # Keys are given for the initial values alone: a memory draws nothing, and a wrapper that held keys would count
        # its calls, a side effect inside every scan.
        example = (memory.initial_carry((1,)), jnp.zeros((1, 1, width)), jnp.ones((1, 1), bool))
        self.memory = nnx.bridge.ToNNX(memory).lazy_init(*example, rngs=rngs)
        self.head = nnx.Linear(width, num_actions, rngs=rngs)

    def __call__(self, carry, observation, reset):
        """A rollout at once: observation and reset `[T, B]`, logits `[T, B, A]`."""
        carry, features = self.memory(carry, self.embedding(observation), reset)
        return carry, self.head(features)

    def step(self, carry, observation, reset):
        """One step: observation and reset `[B]`, logits `[B, A]`."""
        carry, features = self.memory(carry, self.embedding(observation), reset, method="step")
        return carry, self.head(features)


envs = VectorEnv(make("popgym/RepeatPreviousEasy"), num_steps=NUM_STEPS)


def act(policy: Policy, env_state, carry, key):
    """One rollout by `step`: the state and carry after it, and what happened, leaves `[T, B]`."""

    def env_step(state, key_t):
        env_state, carry = state
        timestep = env_state.timestep
        carry, logits = policy.step(carry, timestep.observation, timestep.reset)
        action = jax.random.categorical(key_t, logits)
        env_state, outcome = envs.step(env_state, action)
        return (env_state, carry), (timestep, action, outcome)

    (env_state, carry), rollout = jax.lax.scan(env_step, (env_state, carry), jax.random.split(key, NUM_STEPS))
    return env_state, carry, rollout


def loss(policy: Policy, first_carry, rollout):
    """REINFORCE over the whole rollout, from the carry stored before it.

    The reward of this environment is for the action just taken, so it is the return too (gamma = 0).
    """
    timestep, action, outcome = rollout
    _, logits = policy(first_carry, timestep.observation, timestep.reset)
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]
    advantage = (outcome.reward - outcome.reward.mean()) / (outcome.reward.std() + 1e-6)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    return (-log_prob * advantage - 0.01 * entropy).mean()


@nnx.jit
def update(policy: Policy, optimizer: nnx.Optimizer, env_state, carry, key):
    """Act, then learn from it, in place: the next state and carry, the loss, the mean return of ended episodes."""
    env_state, next_carry, rollout = act(policy, envs.begin_rollout(env_state), carry, key)
    value, grads = nnx.value_and_grad(loss)(policy, carry, rollout)
    optimizer.update(policy, grads)
    outcome = rollout[2]
    return env_state, next_carry, value, outcome.episode_return.mean(where=outcome.ended)


def main(num_updates: int = 40) -> float:
    """Train, print the loss and the return (-1 to 1, chance is -0.5), return the last return."""
    policy = Policy(int(envs.observation_space.n), int(envs.action_space.n), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(policy, optax.adam(1e-2), wrt=nnx.Param)
    env_key, key = jax.random.split(jax.random.key(0))
    env_state = jax.jit(envs.reset)(environment_keys(env_key, 0, NUM_ENVS))
    carry = policy.initial_carry((NUM_ENVS,))
    first = None
    for index in range(num_updates):
        key, update_key = jax.random.split(key)
        env_state, carry, value, episode_return = update(policy, optimizer, env_state, carry, update_key)
        first = float(episode_return) if first is None else first
        if index % 20 == 0 or index == num_updates - 1:
            print(f"update {index:3d}: loss {value:6.3f}, return {episode_return:6.3f}")
    assert episode_return > first, f"nothing was learnt: the return went from {first:.3f} to {episode_return:.3f}"
    return float(episode_return)


if __name__ == "__main__":
    main()
