"""Convolutions whose gradients are fast inside loops on CPUs.

Legend: `N` pictures, `H` and `W` their sides, `I` and `O` channels, `K` sides of the kernel.

XLA's CPU backend hands a convolution inside a loop to its fast library only where batch comes first and channels last
(jax issue 12868). The gradient with respect to the kernel has neither, and takes some 160 times as long inside a loop
as outside (benchmarks/convolution_speed.py); a training step is a loop. Here both gradients are written as convolutions
of that layout.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


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


def conv_general_dilated(lhs: Array, rhs: Array, *rest: Any, **options: Any) -> Array:
    """What `nn.Conv` calls: `convolve` on CPUs, jax's own elsewhere. For stride 1 and padding "SAME" only."""
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(lhs, rhs, *rest, **options)
    return convolve(lhs, rhs)
