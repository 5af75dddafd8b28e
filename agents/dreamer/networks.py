"""Encoder and decoder of dictionary observations, and the heads of DreamerV3.

Legend: `E` embedding width, `D` feature width. Images are uint8 Boxes `[height, width, channels]`; every other part of
an observation is a vector. Source: Hafner et al. 2023 (DreamerV3).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from hippodrome.envs import Box, Discrete, MultiDiscrete, flat_spaces, part_names
from hippodrome.envs.encoding import encode_leaf, encoded_width
from hippodrome.memory.core import Dense
from hippodrome.memory.rssm import NormMLP

from .config import DreamerConfig
from .convolution import conv_general_dilated, conv_upsampled
from .twohot import symlog

_SMALLEST = 4
_MULTIPLIERS = (2, 3, 4, 4)


def is_image(space: Any) -> bool:
    """Whether a leaf space is encoded by convolutions."""
    return isinstance(space, Box) and len(space.shape) == 3 and space.dtype == jnp.uint8


def has_images(space: Any) -> bool:
    """Whether a part of an observation space is an image."""
    return any(is_image(leaf) for leaf in flat_spaces(space))


def observation_problems(space: Any) -> list[str]:
    """Why an observation space cannot be encoded, one message for each part."""
    found = []
    for where, leaf in part_names(space):
        part = f"observation space{where} {leaf!r}"
        if not isinstance(leaf, Box | Discrete | MultiDiscrete):
            found.append(f"{part} must be a Box, Discrete or MultiDiscrete, or a Dict or Tuple")
        elif isinstance(leaf, Box) and len(leaf.shape) >= 3 and not is_image(leaf):
            found.append(
                f"{part} has {len(leaf.shape)} axes; an image must be a uint8 Box of [height, "
                "width, channels] with values 0 ... 255, anything else must be flattened to one axis"
            )
        elif isinstance(leaf, Box) and leaf.dtype == jnp.uint8 and len(leaf.shape) == 2:
            found.append(
                f"{part} has no axis of channels; a grey picture must be {(*leaf.shape, 1)}, and what is no picture "
                "must be flattened to one axis"
            )
        elif is_image(leaf) and _is_channels_first(leaf.shape):
            height, width, channels = *leaf.shape[1:], leaf.shape[0]
            found.append(
                f"{part} has its channels first; an image must be [height, width, channels]: transpose it to "
                f"{(height, width, channels)}, the channels last"
            )
        elif is_image(leaf) and min(leaf.shape[:2]) < _SMALLEST:
            found.append(f"{part} must be at least {_SMALLEST} pixels high and wide; flatten it")
    return found


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an image would have at most four rows, and far more columns and channels."""
    return shape[0] <= 4 and min(shape[1:]) > 4 * shape[0]


def num_stages(shape: tuple[int, ...]) -> int:
    """How often an image can be halved until a side is below 8 or odd."""
    height, width = shape[:2]
    stages = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * _SMALLEST and stages < len(_MULTIPLIERS):
        height, width, stages = height // 2, width // 2, stages + 1
    return stages


class Encoder(nn.Module):
    """Observations to embeddings `[..., E]`: convolutions for images, an MLP over symlog of everything else.

    Attributes:
        space: the observation space.
        depth: channels of the first convolution are `2 depth`.
        units, layers: of the MLP.
    """

    space: Any
    depth: int
    units: int
    layers: int

    @nn.compact
    def __call__(self, observation: Any) -> Float[Array, "... E"]:
        """Leaves `[..., *shape]`."""
        leaves = list(zip(flat_spaces(self.space), jax.tree.leaves(observation), strict=True))
        vectors = [_encode_vector(space, value) for space, value in leaves if not is_image(space)]
        parts = []
        if vectors:
            parts.append(NormMLP((self.units,) * self.layers, name="mlp")(jnp.concatenate(vectors, axis=-1)))
        images = [(space, value) for space, value in leaves if is_image(space)]
        for index, (space, value) in enumerate(images):
            parts.append(self._convolve(index, space, value))
        return jnp.concatenate(parts, axis=-1)

    def _convolve(self, index: int, space: Any, value: Array) -> Array:
        leading = value.shape[:-3]
        x = value.reshape(-1, *value.shape[-3:]).astype(jnp.float32) / 255.0 - 0.5
        for stage in range(num_stages(space.shape)):
            x = _conv(self.depth * _MULTIPLIERS[stage], (5, 5), name=f"conv_{index}_{stage}")(x)
            # As max_pool, whose gradient is slow on CPUs.
            x = x.reshape(-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]).max((2, 4))
            x = nn.silu(nn.RMSNorm(epsilon=1e-4, name=f"norm_{index}_{stage}")(x))
        if num_stages(space.shape) == 0:
            x = _conv(self.depth * _MULTIPLIERS[0], (3, 3), name=f"conv_{index}_0")(x)
            x = nn.silu(nn.RMSNorm(epsilon=1e-4, name=f"norm_{index}_0")(x))
        return x.reshape(*leading, -1)


class Decoder(nn.Module):
    """Features to what each part of the observation is expected to be.

    Images are means in (0, 1); vectors are symlog values; discrete parts are logits, one after the other for
    MultiDiscrete. Attributes as of `Encoder`.
    """

    space: Any
    depth: int
    units: int
    layers: int

    @nn.compact
    def __call__(self, features: Float[Array, "... D"]) -> list[Float[Array, "..."]]:
        """One array for each leaf space."""
        leaves = flat_spaces(self.space)
        outputs = []
        hidden = None
        for index, space in enumerate(leaves):
            if is_image(space):
                outputs.append(self._deconvolve(index, space, features))
                continue
            if hidden is None:
                hidden = NormMLP((self.units,) * self.layers, name="mlp")(features)
            outputs.append(Dense(encoded_width(space), name=f"out_{index}")(hidden).astype(jnp.float32))
        return outputs

    def _deconvolve(self, index: int, space: Any, features: Array) -> Array:
        height, width, channels = space.shape
        stages = num_stages(space.shape)
        height, width = height >> stages, width >> stages
        leading = features.shape[:-1]
        first = self.depth * _MULTIPLIERS[max(stages - 1, 0)]
        # A narrow layer first: from the features to every place directly would be most of a large decoder.
        x = NormMLP((self.units,), name=f"narrow_{index}")(features)
        x = Dense(height * width * first, name=f"space_{index}")(x)
        x = x.reshape(-1, height, width, first)
        x = nn.silu(nn.RMSNorm(epsilon=1e-4, name=f"norm_{index}_in")(x))
        for stage in range(stages - 1, 0, -1):
            name = f"conv_{index}_{stage}"
            x = _conv(self.depth * _MULTIPLIERS[stage - 1], (5, 5), name=name, upsample=True)(x)
            x = nn.silu(nn.RMSNorm(epsilon=1e-4, name=f"norm_{index}_{stage}")(x))
        x = _conv(channels, (5, 5), name=f"conv_{index}_out", upsample=stages > 0)(x)
        return nn.sigmoid(x.astype(jnp.float32)).reshape(*leading, *space.shape)


def reconstruction_loss(space: Any, outputs: list[Array], observation: Any) -> Float[Array, "..."]:
    """Squared error of images and of symlog vectors, cross entropy of discrete parts; summed over all of them."""
    total: Any = 0.0
    for leaf, output, value in zip(flat_spaces(space), outputs, jax.tree.leaves(observation), strict=True):
        if is_image(leaf):
            error = (output - value.astype(jnp.float32) / 255.0) ** 2
            total += error.sum((-3, -2, -1))
        elif isinstance(leaf, Box):
            total += ((output - _encode_vector(leaf, value)) ** 2).sum(-1)
        else:
            sizes = leaf.nvec.tolist() if isinstance(leaf, MultiDiscrete) else [encoded_width(leaf)]
            choices = value if isinstance(leaf, MultiDiscrete) else value[..., None]
            at = 0
            for index, size in enumerate(sizes):
                log_probs = jax.nn.log_softmax(output[..., at : at + size])
                total -= jnp.take_along_axis(log_probs, choices[..., index, None], axis=-1)[..., 0]
                at += size
    return jnp.asarray(total)


class Head(nn.Module):
    """An MLP with a linear output.

    Attributes:
        outputs: width.
        units, layers: of the MLP.
        gain: of the output layer's initialisation; 0 starts at 0.
    """

    outputs: int
    units: int
    layers: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, features: Float[Array, "... D"]) -> Float[Array, "... N"]:
        """float32."""
        x = NormMLP((self.units,) * self.layers, name="mlp")(features)
        init = nn.initializers.variance_scaling(self.gain**2, "fan_in", "truncated_normal")
        kernel_init = init if self.gain else nn.initializers.zeros
        return nn.Dense(self.outputs, kernel_init=kernel_init, name="out")(x).astype(jnp.float32)


def build_modules(config: DreamerConfig, observation_space: Any, num_outputs: int) -> dict[str, nn.Module]:
    """Every module but the recurrent state-space model, by name; what no loss needs is left out.

    Args:
        config: widths, and weights of the losses.
        observation_space: of encoder and decoder.
        num_outputs: of the actor.
    """
    coders = {"space": observation_space, "depth": config.image_depth, "units": config.units}
    bins, units = config.value_bins, config.units
    modules: dict[str, nn.Module] = {
        "encoder": Encoder(**coders, layers=config.encoder_layers),
        "reward": Head(bins, units, config.reward_layers, gain=0.0),
        "continuation": Head(1, units, config.reward_layers),
        "actor": Head(num_outputs, units, config.actor_layers, gain=0.01),
        "critic": Head(bins, units, config.critic_layers, gain=0.0),
    }
    if config.reconstruction_coef:
        modules["decoder"] = Decoder(**coders, layers=config.decoder_layers)
    if config.latent_coef or config.barlow_coef:
        modules["projection"] = Dense(config.projection_size)
    if config.barlow_coef:
        modules["embedding_projection"] = Dense(config.projection_size)
    return modules


def _conv(features: int, kernel_size: tuple[int, int], *, name: str, upsample: bool = False) -> nn.Conv:
    """With `upsample`, of pictures with every pixel repeated twice along both sides."""
    convolution = conv_upsampled if upsample else conv_general_dilated
    return nn.Conv(features, kernel_size, conv_general_dilated=convolution, name=name)


def _encode_vector(space: Any, value: Array) -> Array:
    """One-hot for discrete parts, symlog for numbers."""
    encoded = encode_leaf(space, value)
    return symlog(encoded) if isinstance(space, Box) else encoded
