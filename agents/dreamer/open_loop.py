"""Predictions of what comes, from a few observations and the actions taken.

Legend: `T` steps, `N` episodes, `X` steps observed.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from hippodrome.agents.core import ReplayStep
from hippodrome.memory.latents import gumbel_noise

from .twohot import two_hot_mean


@struct.dataclass
class Prediction:
    """What the world model expects at each of `T` steps, the first `X` of them with the observation in hand.

    Attributes:
        observation: the decoder's outputs, one array for each leaf space, `[T, N, ...]`; None without a decoder.
        reward: float32 `[T, N]`, on arrival at the step.
        continuation: float32 `[T, N]`, how likely the episode goes on, the discount taken out.
    """

    observation: Any
    reward: Float[Array, "T N"]
    continuation: Float[Array, "T N"]


def predict(agent: Any, params: Any, steps: ReplayStep, key: Key[Array, ""], *, context: int) -> Prediction:
    """Observe `context` steps of episodes, then imagine the rest with the actions that were taken.

    Args:
        agent: Dreamer.
        params: its parameters.
        steps: of episodes from their first step on, leaves `[T, N, ...]`.
        key: of the latents.
        context: X, at least 1 and below T.
    """
    length, number = steps.reset.shape
    if not 1 <= context < length:
        raise ValueError(f"context={context} must be from 1 to {length - 1}, one less than the steps")
    observe_key, imagine_key = jax.random.split(key)
    seen = jax.tree.map(lambda leaf: leaf[:context], steps)
    embedding = jax.lax.map(partial(agent.apply, "encoder", params), seen.observation)
    actions = agent.encode_actions(steps.previous_action)
    noise = gumbel_noise(observe_key, agent.rssm.noise_shape(context, number))
    carries, latents = agent.rssm.apply(
        params["rssm"],
        agent.rssm.initial_carry((number,)),
        embedding,
        actions[:context],
        seen.reset,
        noise,
        method="observe",
    )

    def step(carry, inputs):
        action, step_key = inputs
        step_noise = gumbel_noise(step_key, agent.rssm.noise_shape(number))
        carry, deter = agent.rssm.apply(params["rssm"], carry, action, step_noise, method="imagine")
        return carry, jnp.concatenate([deter, carry.stoch], axis=-1)

    keys = jax.random.split(imagine_key, length - context)
    carry = jax.tree.map(lambda leaf: leaf[-1], carries)
    _, imagined = jax.lax.scan(step, carry, (actions[context:], keys))
    features = jnp.concatenate([latents.features, imagined])
    continuation = jax.nn.sigmoid(agent.apply("continuation", params, features)[..., 0]) / agent.config.gamma
    observation = None
    if "decoder" in agent.modules:
        # A step at a time: inside the decoder of pictures a step takes many times the room of what comes out.
        observation = jax.lax.map(partial(agent.apply, "decoder", params), features)
    return Prediction(
        observation=observation,
        reward=two_hot_mean(agent.apply("reward", params, features), agent.bins),
        continuation=jnp.minimum(continuation, 1.0),
    )
