"""Convolutions with gradients of their own: jax's numbers, inside loops and out of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents.dreamer.convolution import (
    conv_general_dilated,
    convolve,
    convolve_few_channels,
    convolve_upsampled,
)


def same_size(x):
    return x


def twice_the_size(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


@pytest.mark.parametrize(
    ("convolution", "before"),
    [(convolve, same_size), (convolve_few_channels, same_size), (convolve_upsampled, twice_the_size)],
)
@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 5), (6, 4, 3), (5, 7, 5), (3, 5, 7)])
def test_values_and_gradients_are_those_of_jax(convolution, before, height, width, side):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(3, height, width, 2)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(side, side, 2, 4)), jnp.float32)
    weight = jnp.asarray(generator.normal(size=(*before(x).shape[:3], 4)), jnp.float32)

    def native(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(before(x), kernel, (1, 1), "SAME", dimension_numbers=layout)
        return (weight * y).sum()

    def ours(x, kernel):
        return (weight * convolution(x, kernel)).sum()

    def in_a_loop(function):
        grad = jax.grad(function, (0, 1))
        return jax.jit(lambda x, kernel: jax.lax.fori_loop(0, 1, lambda _, pair: grad(*pair), (x, kernel)))(x, kernel)

    np.testing.assert_allclose(ours(x, kernel), native(x, kernel), rtol=1e-5)
    for got, want in zip(in_a_loop(ours), in_a_loop(native), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_the_layers_use_it():
    def names(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name

    traced = jax.make_jaxpr(conv_general_dilated)(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 1)))
    assert any("custom_vjp" in name for name in names(traced.jaxpr)) == (jax.default_backend() == "cpu")
