"""Complex arrays as real pairs: real parts then imaginary parts along the last axis.

XLA on CPU multiplies complex matrices slowly, and converting between a matmul and a scan costs a pass over memory.
With `swap` exchanging the halves, multiplication by a complex `a` is `decay * h + twist * swap(h)`, where decay =
[Re a, Re a] and twist = [-Im a, Im a]; a real recurrence has twist None.

Legend: F the last axis of one complex array.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def to_pair(value: Complex[Array, "*rest F"]) -> Float[Array, "*rest 2F"]:
    """A complex array as real parts then imaginary parts along the last axis."""
    return jnp.concatenate([value.real, value.imag], axis=-1)


def from_pair(pair: Float[Array, "*rest 2F"]) -> Complex[Array, "*rest F"]:
    """The complex array a pair stands for."""
    return jax.lax.complex(*jnp.split(pair, 2, axis=-1))


def pair_factors(a: Complex[Array, "*rest F"]) -> tuple[Float[Array, "*rest 2F"], Float[Array, "*rest 2F"]]:
    """(decay, twist) with a * h = decay * h + twist * swap(h) on pairs."""
    return jnp.concatenate([a.real, a.real], axis=-1), jnp.concatenate([-a.imag, a.imag], axis=-1)


def multiply(decay: Array, twist: Array | None, state: Array) -> Array:
    """a * state on real arrays (twist None) or on pairs."""
    return decay * state if twist is None else decay * state + twist * swap(state)


def multiply_transposed(decay, twist, g):
    """The transpose of `multiply` in its state: multiplication by the conjugate."""
    return decay * g if twist is None else decay * g - twist * swap(g)


def times(factor: Array, state: Array, paired: bool) -> Array:
    """factor * state, both pairs or both real."""
    if not paired:
        return factor * state
    re, im = jnp.split(factor, 2, axis=-1)
    return multiply(jnp.concatenate([re, re], -1), jnp.concatenate([-im, im], -1), state)


def swap(pair: Array) -> Array:
    """Imaginary parts then real parts."""
    return jnp.roll(pair, pair.shape[-1] // 2, axis=-1)
