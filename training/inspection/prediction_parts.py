"""The parts of an observation beside what a world model expected of them, and how far apart the two are.

Legend: `T` steps, `N` episodes, `F` numbers of a part.
"""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from scipy.special import softmax

from hippodrome.agents.dreamer.networks import is_image
from hippodrome.envs import Box, MultiDiscrete, part_names
from hippodrome.envs.encoding import encode_leaf, encoded_width


class Part(NamedTuple):
    """One part of the observations of episodes.

    Attributes:
        kind: what it is.
        where: its place in the observation, such as `['speed']`; "" where that has one part.
        true: what was seen, `[T, N, height, width, channels]` in [0, 1] for an image, `[T, N, F]` else: numbers as
            they are (uint8 divided by 255), choices one-hot.
        expected: the same of what the model expected: numbers, and the probability of each choice.
    """

    kind: Literal["image", "vector", "discrete"]
    where: str
    true: np.ndarray
    expected: np.ndarray

    def error(self, guess: np.ndarray) -> np.ndarray:
        """How wrong a guess like `expected` is at each step, `[T, N]`.

        The mean squared error of an image, the mean absolute error of numbers, the probability that was not given to
        the choices that were seen (their mean, where there are several).
        """
        if self.kind == "image":
            return ((self.true - guess) ** 2).mean((-3, -2, -1))
        if self.kind == "vector":
            return np.abs(self.true - guess).mean(-1)
        return 1.0 - (self.true * guess).sum(-1) / self.true.sum(-1)


def observation_parts(space: Any, observation: Any, outputs: list[Any]) -> list[Part]:
    """Every part of the observation.

    Args:
        space: of the observation.
        observation: what was seen, leaves `[T, N, ...]`.
        outputs: of the decoder, one array for each part.
    """
    leaves = jax.tree.leaves(observation)
    return [
        _part(name, leaf_space, true, np.asarray(output))
        for (name, leaf_space), true, output in zip(part_names(space), leaves, outputs, strict=True)
    ]


def _part(where: str, space: Any, true: Any, output: np.ndarray) -> Part:
    if is_image(space):
        return Part("image", where, np.asarray(true, np.float32) / 255.0, output)
    encoded = np.asarray(encode_leaf(space, true))
    if isinstance(space, Box):
        # float64: the decoder's symlog values of a model that learnt nothing may be too large for float32.
        expected = np.sign(output) * np.expm1(np.abs(output.astype(np.float64)))
        return Part("vector", where, encoded, expected)
    sizes = space.nvec if isinstance(space, MultiDiscrete) else [encoded_width(space)]
    choices = np.split(output, np.cumsum(sizes)[:-1], axis=-1)
    expected = np.concatenate([softmax(each, axis=-1) for each in choices], axis=-1)
    return Part("discrete", where, encoded, expected)
