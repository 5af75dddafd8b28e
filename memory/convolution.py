"""The short causal convolution before a state-space layer, its window a part of the carry.

Legend: T steps, *batch any batch axes, D channels, K taps.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from .core import reset_where


class ShortConvolution(nn.Module):
    """Depthwise causal convolution over time that never looks across a reset.

    y[t] = bias + sum_k kernel[K-1-k] * x[t-k], k = 0 ... K-1, terms from before the episode left out.

    Carry: the last K - 1 inputs, float32 `[*batch, K-1, D]`, zeros where the episode had not begun. K is at least 2.
    Source: Gu and Dao 2023 (Mamba), section 3.4.
    """

    features: int
    taps: int = 4

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch K-1 D"]:
        """Zeros, float32."""
        return jnp.zeros((*batch_shape, self.taps - 1, self.features), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch K-1 D"], x: Float[Array, "T *batch D"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch K-1 D"], Float[Array, "T *batch D"]]:
        """The whole sequence, in the dtype of x."""
        kernel, bias = self._parameters()
        num_steps, past = len(x), self.taps - 1
        window = jnp.moveaxis(carry, -2, 0)
        padded = jnp.concatenate([window, x.astype(jnp.float32)])
        # inside[t]: x[t-k] is of the same episode as x[t]. Of the steps before the first the window knows already.
        inside, y = jnp.ones_like(reset), bias + kernel[past] * padded[past:]
        for k in range(1, self.taps):
            inside = inside & ~_shift(reset, k - 1)
            y = y + kernel[past - k] * jnp.where(inside[..., None], padded[past - k : past - k + num_steps], 0)
        # The next window: its entry j was read j places before the end; resets from there on empty it.
        last = []
        for j in range(past):
            entry = padded[num_steps + j]
            since = reset[max(num_steps - past + j + 1, 0) :]
            last.append(reset_where(since.any(0), jnp.zeros_like(entry), entry))
        return jnp.stack(last, axis=-2), y.astype(x.dtype)

    def step(
        self, carry: Float[Array, "*batch K-1 D"], x: Float[Array, "*batch D"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch K-1 D"], Float[Array, "*batch D"]]:
        """One step."""
        kernel, bias = self._parameters()
        window = reset_where(reset, jnp.zeros_like(carry), carry)
        window = jnp.concatenate([window, x.astype(jnp.float32)[..., None, :]], axis=-2)
        return window[..., 1:, :], (bias + (kernel * window).sum(-2)).astype(x.dtype)

    @nn.compact
    def _parameters(self) -> tuple[Float[Array, "K D"], Float[Array, " D"]]:
        bound = 1.0 / math.sqrt(self.taps)

        def init(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        return self.param("kernel", init, (self.taps, self.features)), self.param("bias", init, (self.features,))


def _shift(reset: Bool[Array, "T *batch"], steps: int) -> Bool[Array, "T *batch"]:
    """reset[t - steps], False before the first step."""
    if steps == 0:
        return reset
    return jnp.concatenate([jnp.zeros_like(reset[:steps]), reset[:-steps]])[: len(reset)]
