"""Pixels with something else in them: a pendulum before a clean, a noisy or a moving coloured background.

Legend: `P` pixels of a side.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key, UInt8

from .core import Environment, EnvParams, EnvState
from .popgym.pendulum import Pendulum, PendulumState
from .spaces import Box

Background = Literal["clean", "noise", "texture"]
Split = Literal["train", "held_out"]

NOISE = 0.25
NUM_WAVES = 3
ROD_LENGTH, ROD_WIDTH = 0.8, 0.09
_ROD_COLOUR = (0.95, 0.9, 0.2)


@struct.dataclass
class Texture:
    """Waves that make up a moving background.

    Attributes:
        direction: `[3 colours, waves, 2]`, radians for each half side of the picture.
        phase: `[3, waves]`.
        speed: `[2]`, half sides a step.
    """

    direction: Float[Array, "3 W 2"]
    phase: Float[Array, "3 W"]
    speed: Float[Array, " 2"]


def draw_texture(index: Int[Array, ""], split: Split) -> Texture:
    """The texture of that number; those of the two splits have no number in common."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(20_240_913), split == "held_out"), index)
    angle_key, scale_key, phase_key, speed_key = jax.random.split(key, 4)
    shape = (3, NUM_WAVES)
    angle = jax.random.uniform(angle_key, shape, maxval=2 * math.pi)
    scale = jax.random.uniform(scale_key, shape, minval=3.0, maxval=9.0)
    heading = jax.random.uniform(speed_key, (), maxval=2 * math.pi)
    return Texture(
        direction=scale[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1),
        phase=jax.random.uniform(phase_key, shape, maxval=2 * math.pi),
        speed=0.08 * jnp.stack([jnp.cos(heading), jnp.sin(heading)]),
    )


@struct.dataclass
class PixelPendulumState(EnvState):
    """Attributes: `time`; `pendulum`, the state that matters; `texture`, its number; `shift`, how far it has moved."""

    pendulum: PendulumState
    texture: Int[Array, ""]
    shift: Float[Array, " 2"]


class PixelPendulum(Environment):
    """Swing a pendulum up from pictures; the task and rewards are those of popgym's PositionOnlyPendulum.

    The rod is drawn before a background: `clean` is grey; `noise` is Gaussian noise of its own in every pixel and
    colour of every picture; `texture` is one of `num_textures` sums of coloured waves, drawn for each episode, that
    moves at its own speed. The textures of the two splits differ.

    Args:
        background: see above.
        split: which textures.
        size: P.
        num_textures: how many of them.
        episode_length: steps of an episode.

    Raises:
        ValueError: for an unknown background or split, or a number out of range.
    """

    def __init__(
        self,
        background: Background = "clean",
        split: Split = "train",
        size: int = 32,
        num_textures: int = 16,
        episode_length: int = 200,
    ):
        for name, choice, known in (
            ("background", background, get_args(Background)),
            ("split", split, get_args(Split)),
        ):
            if choice not in known:
                raise ValueError(f"{name}={choice!r} must be one of {', '.join(known)}")
        for name, number, least in (("size", size, 8), ("num_textures", num_textures, 1)):
            if number < least:
                raise ValueError(f"{name}={number} must be at least {least}")
        self.background, self.split, self.size, self.num_textures = background, split, size, num_textures
        self.task = Pendulum(episode_length)

    @property
    def default_params(self) -> EnvParams:
        """`max_steps_in_episode`: `episode_length`."""
        return self.task.default_params

    def reset_env(self, key: Key[Array, ""], params: EnvParams) -> tuple[UInt8[Array, "P P 3"], PixelPendulumState]:
        """Draws angle, speed, texture and where it begins."""
        task_key, texture_key, shift_key, noise_key = jax.random.split(key, 4)
        _, pendulum = self.task.reset_env(task_key, params)
        state = PixelPendulumState(
            time=jnp.zeros((), jnp.int32),
            pendulum=pendulum,
            texture=jax.random.randint(texture_key, (), 0, self.num_textures),
            shift=jax.random.uniform(shift_key, (2,), minval=-1.0, maxval=1.0),
        )
        return self.render(noise_key, state), state

    def step_env(self, key: Key[Array, ""], state: PixelPendulumState, action, params: EnvParams):
        """Applies the torque and moves the background."""
        task_key, noise_key = jax.random.split(key)
        _, pendulum, reward, terminated, info = self.task.step_env(task_key, state.pendulum, action, params)
        shift = state.shift + draw_texture(state.texture, self.split).speed
        state = PixelPendulumState(state.time + 1, pendulum, state.texture, shift)
        return self.render(noise_key, state), state, reward, terminated, info

    def observation_space(self, params: EnvParams) -> Box:
        """The picture."""
        return Box(0, 255, (self.size, self.size, 3), jnp.uint8)

    def action_space(self, params: EnvParams) -> Box:
        """The torque."""
        return self.task.action_space(params)

    def render(self, key: Key[Array, ""], state: PixelPendulumState) -> UInt8[Array, "P P 3"]:
        """The picture of a state; the key is of the noise."""
        side = (jnp.arange(self.size) + 0.5) / self.size * 2.0 - 1.0
        x, y = jnp.meshgrid(side, -side)
        picture = self._background(key, state, x, y)
        # Distance to the rod, which stands on its end at the centre where theta is 0.
        tip = jnp.stack([jnp.sin(state.pendulum.theta), jnp.cos(state.pendulum.theta)])
        along = jnp.clip(x * tip[0] + y * tip[1], 0.0, ROD_LENGTH)
        distance = jnp.hypot(x - along * tip[0], y - along * tip[1])
        # One pixel wide at its edge, so that small turns show.
        rod = jnp.clip((ROD_WIDTH - distance) * self.size / 2.0 + 0.5, 0.0, 1.0)[..., None]
        picture = (1.0 - rod) * picture + rod * jnp.array(_ROD_COLOUR)
        return jnp.round(255.0 * picture).astype(jnp.uint8)

    def _background(self, key, state, x, y) -> Float[Array, "P P 3"]:
        grey = jnp.full((self.size, self.size, 3), 0.3)
        if self.background == "clean":
            return grey
        if self.background == "noise":
            return jnp.clip(grey + NOISE * jax.random.normal(key, grey.shape), 0.0, 1.0)
        texture = draw_texture(state.texture, self.split)
        places = jnp.stack([x, y], -1) - state.shift
        angle = jnp.einsum("hwk,cnk->hwcn", places, texture.direction) + texture.phase
        return 0.5 + 0.4 * jnp.sin(angle).mean(-1)
