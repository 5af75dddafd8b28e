"""Value targets over a rollout whose episodes end anywhere in it.

Legend: `T` steps, `B` environments (any trailing shape). `terminated[t]` and `truncated[t]` belong to the transition
t -> t+1; `truncated` is never True where `terminated` is.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def next_values(
    values: Float[Array, "T *B"],
    last_value: Float[Array, "*B"],
    final_values: Float[Array, "T *B"],
    terminated: Bool[Array, "T *B"],
    truncated: Bool[Array, "T *B"],
) -> Float[Array, "T *B"]:
    """The value beyond each transition.

    0 where terminated, `final_values[t]` = V(final_observation[t]) where truncated, V(observation[t+1]) elsewhere.

    Args:
        values: V(observation[t]).
        last_value: V(observation[T]), the step after the rollout.
        final_values: V(final_observation[t]); read only where truncated.
        terminated: the episode ended and nothing is beyond.
        truncated: the episode was cut off and goes on beyond.
    """
    following = jnp.concatenate([values[1:], last_value[None]])
    return jnp.where(terminated, 0.0, jnp.where(truncated, final_values, following))


def generalized_advantage(
    reward: Float[Array, "T *B"],
    value: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    ended: Bool[Array, "T *B"],
    gamma: float,
    gae_lambda: float,
) -> Float[Array, "T *B"]:
    """Generalised advantage estimates, cut at every episode's end (Schulman et al. 2016, eq. 16).

    `delta[t] = reward[t] + gamma next_value[t] - value[t]`,
    `advantage[t] = delta[t] + gamma lambda (1 - ended[t]) advantage[t+1]`.

    Args:
        reward: of the transition t -> t+1.
        value: V(observation[t]).
        next_value: the value beyond the transition, see `next_values`.
        ended: terminated or truncated.
        gamma: discount, in [0, 1].
        gae_lambda: 0 is one-step TD, 1 is the Monte-Carlo return.
    """
    delta = reward + gamma * next_value - value
    decay = gamma * gae_lambda * (1.0 - ended)

    def backward_step(advantage, inputs):
        delta_t, decay_t = inputs
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backward_step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages


def lambda_returns(
    reward: Float[Array, "T *B"],
    next_value: Float[Array, "T *B"],
    ended: Bool[Array, "T *B"],
    gamma: float | Float[Array, "T *B"],
    gae_lambda: float,
) -> Float[Array, "T *B"]:
    """Lambda-returns, cut at every episode's end (Sutton and Barto 2018, eq. 12.20).

    `G[t] = reward[t] + gamma[t] ((1 - lambda) next_value[t] + lambda G[t+1])`, with `G[t+1]` replaced by
    `next_value[t]` where the episode ended and at the last step. Equals `generalized_advantage + value` for the same
    values.

    Args:
        reward: of the transition t -> t+1.
        next_value: the value beyond it.
        ended: whether the episode ended with it.
        gamma: discount of what is beyond; one for each transition where they differ.
        gae_lambda: 0 is one-step TD, 1 is the Monte-Carlo return.
    """

    def backward_step(following, inputs):
        reward_t, next_value_t, ended_t, gamma_t = inputs
        following = jnp.where(ended_t, next_value_t, following)
        target = reward_t + gamma_t * ((1.0 - gae_lambda) * next_value_t + gae_lambda * following)
        return target, target

    gammas = jnp.broadcast_to(gamma, reward.shape)
    _, targets = jax.lax.scan(backward_step, next_value[-1], (reward, next_value, ended, gammas), reverse=True)
    return targets
