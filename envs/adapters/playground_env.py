"""Environments of MuJoCo Playground behind this library's protocol; needs the extra `playground`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Key

from hippodrome.envs.core import Environment, EnvParams, EnvState
from hippodrome.envs.spaces import Box, Dict, Space


@struct.dataclass
class PlaygroundState(EnvState):
    """Attributes: `time`, steps taken; `inner`, the environment's own state."""

    inner: Any


def make_playground(name: str, max_steps: int | None = None, **overrides: Any) -> "PlaygroundAdapter":
    """The environment of that name, simulated by MJX in JAX.

    Args:
        name: as Playground calls it, e.g. `CartpoleSwingup`.
        max_steps: of an episode; Playground's own where None.
        overrides: of Playground's configuration of the environment, such as `ctrl_dt`.

    Raises:
        ValueError: for a name or an override it does not know, or if Playground is not installed.
    """
    try:
        from mujoco_playground import registry
    except ImportError as error:
        raise ValueError(
            f"playground/{name} needs MuJoCo Playground ({error}); install it with `uv sync --extra playground`, or "
            "pip install playground"
        ) from error
    if name not in registry.ALL_ENVS:
        raise ValueError(f"playground has no environment {name!r}; it has {', '.join(registry.ALL_ENVS)}")
    try:
        env = registry.load(name, config_overrides={"impl": "jax", **overrides})
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"playground/{name} cannot be made with {overrides!r}: {error}") from error
    limit = int(registry.get_default_config(name).episode_length) if max_steps is None else max_steps
    if limit < 1:
        raise ValueError(f"max_steps={limit} must be at least 1")
    return PlaygroundAdapter(env, name, limit)


class PlaygroundAdapter(Environment):
    """An environment of MuJoCo Playground as one of this library's: actions in [-1, 1], cut off after a limit.

    Args:
        env: an `MjxEnv`.
        name: what it is called.
        max_steps: of an episode.
    """

    def __init__(self, env: Any, name: str, max_steps: int):
        self.env = env
        self._name = name
        self._max_steps = max_steps

    @property
    def name(self) -> str:
        """Playground's name for it."""
        return self._name

    @property
    def default_params(self) -> EnvParams:
        """The limit."""
        return EnvParams(max_steps_in_episode=self._max_steps)

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[Any, PlaygroundState]:
        """Begins an episode."""
        del params
        inner = self.env.reset(jax.random.clone(key))
        return inner.obs, PlaygroundState(time=jnp.zeros((), jnp.int32), inner=inner)

    def step_env(self, key: Key[Array, ""], state: PlaygroundState, action: Any, params: EnvParams):
        """Takes one action, never resets."""
        # Playground writes into the dicts of the state it is given.
        inner = self.env.step(jax.tree.map(lambda leaf: leaf, state.inner), action)
        reward = jnp.asarray(inner.reward, jnp.float32)
        return inner.obs, PlaygroundState(state.time + 1, inner), reward, inner.done > 0.5, {}

    def observation_space(self, params: EnvParams) -> Space:
        """A Box without bounds, or a Dict of them."""
        size = self.env.observation_size
        if isinstance(size, int):
            return Box(-jnp.inf, jnp.inf, (size,))
        shapes = {name: (part,) if isinstance(part, int) else tuple(part) for name, part in size.items()}
        return Dict({name: Box(-jnp.inf, jnp.inf, shape) for name, shape in shapes.items()})

    def action_space(self, params: EnvParams) -> Box:
        """Numbers from -1 to 1."""
        return Box(-1.0, 1.0, (self.env.action_size,))
