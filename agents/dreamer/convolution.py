"""Convolutions of pictures that are fast on CPUs, gradients and loops included.

Legend: `N` pictures, `H` and `W` their sides, `I` and `O` channels, `K` sides of the kernel, an odd number.

XLA's CPU backend hands a convolution inside a loop to its fast library only where batch comes first and channels last
(jax issue 12868). The gradient with respect to the kernel has neither, and takes some 160 times as long inside a loop
as outside (benchmarks/convolution_speed.py); a training step is a loop. `convolve` writes both gradients as
convolutions of that layout. `convolve_few_channels` is one matrix product, for the few channels of a picture, and
`convolve_upsampled` convolves a picture of twice the size without making it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Up to so many channels of the input one product is faster: three times with 3, no faster with 8.
_FEW = 4


@jax.custom_vjp
def convolve(x: Float[Array, "N H W I"], kernel: Float[Array, "K K I O"]) -> Float[Array, "N H W O"]:
    """Cross-correlation with zeros around, stride 1; the kernel's side K is odd."""
    return _correlate(x, kernel, "SAME")


def _forward(x, kernel):
    return _correlate(x, kernel, "SAME"), (x, kernel)


def _backward(residuals, gradient):
    x, kernel = residuals
    by_x = _correlate(gradient, kernel[::-1, ::-1].swapaxes(2, 3), "SAME")
    # Channels in the place of pictures, pictures in the place of channels: "I H W N" with "H W N O" is "I K K O".
    reach = kernel.shape[0] // 2
    around = [(reach, reach), (reach, reach)]
    by_kernel = _correlate(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), around)
    return by_x, by_kernel.transpose(1, 2, 0, 3)


convolve.defvjp(_forward, _backward)


def _correlate(x: Array, kernel: Array, padding: Any) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_LAYOUT)


def convolve_few_channels(x: Float[Array, "N H W I"], kernel: Float[Array, "K K I O"]) -> Float[Array, "N H W O"]:
    """`convolve` as one product, fast where I is small.

    Of each of K rows, two neighbouring blocks of K - 1 places give K - 1 outputs.
    """
    side, _, channels, outputs = kernel.shape
    block, reach = side - 1, side // 2
    count, height, width, _ = x.shape
    blocks = -(-width // block)
    right = (blocks + 1) * block - width - reach
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, right), (0, 0)))
    padded = padded.reshape(count, height + 2 * reach, blocks + 1, block * channels)
    pairs = jnp.concatenate([padded[:, :, :-1], padded[:, :, 1:]], -1)
    rows = jnp.concatenate([pairs[:, row : row + height] for row in range(side)], -1)
    # The kernel as seen by each output of a block: "K 2(K-1) I K-1 O", zeros where it does not reach.
    shifted = jnp.stack([jnp.pad(kernel, ((0, 0), (at, block - 1 - at), (0, 0), (0, 0))) for at in range(block)], 3)
    y = rows @ shifted.reshape(side * 2 * block * channels, block * outputs)
    return y.reshape(count, height, blocks * block, outputs)[:, :, :width]


def convolve_upsampled(x: Float[Array, "N H W I"], kernel: Float[Array, "K K I O"]) -> Float[Array, "N 2H 2W O"]:
    """`convolve` of x with every place repeated twice along both sides.

    The outputs of even rows see each row of x through a kernel of their own, of about half as many rows, and so do odd
    ones and columns: four small convolutions of x, here one with 4 O channels.
    """
    count, height, width, _ = x.shape
    outputs = kernel.shape[3]
    by_row = _merge_taps(kernel)  # [taps, parity, K, I, O], of rows
    both = _merge_taps(by_row.transpose(2, 0, 1, 3, 4))  # [taps, parity] of columns, then of rows
    small = both.transpose(2, 0, 4, 3, 1, 5).reshape(both.shape[2], both.shape[0], -1, 4 * outputs)
    y = conv_general_dilated(x, small).reshape(count, height, width, 2, 2, outputs)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(count, 2 * height, 2 * width, outputs)


def _merge_taps(kernel: Float[Array, "K ..."]) -> Float[Array, "taps 2 ..."]:
    """Taps of a repeated axis added up by the place they fall on, for outputs at even and at odd places."""
    reach = kernel.shape[0] // 2
    low = (reach + 1) // 2
    falls = np.zeros((2 * low + 1, 2, kernel.shape[0]), np.float32)
    for parity in range(2):
        for offset in range(-reach, reach + 1):
            falls[(parity + offset) // 2 + low, parity, offset + reach] = 1.0
    return jnp.einsum("tpk,k...->tp...", falls.astype(kernel.dtype), kernel)


def conv_general_dilated(lhs: Array, rhs: Array, *_: Any, **__: Any) -> Array:
    """What `nn.Conv` calls: the fastest form on CPUs, jax's own elsewhere. For stride 1 and padding "SAME" only."""
    if jax.default_backend() != "cpu":
        return _correlate(lhs, rhs, "SAME")
    return convolve_few_channels(lhs, rhs) if lhs.shape[-1] <= _FEW else convolve(lhs, rhs)


def conv_upsampled(lhs: Array, rhs: Array, *_: Any, **__: Any) -> Array:
    """What `nn.Conv` calls instead where its input is to be of twice the size. As `conv_general_dilated`."""
    return convolve_upsampled(lhs, rhs)
