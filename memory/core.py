"""The memory contract: what every sequence memory is, the reset rule, and the checks made before anything compiles.

Legend: T steps, *batch any batch axes, d_in width of the input, d_model width of the output.
"""

from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PyTree, PyTreeDef

Carry: TypeAlias = PyTree


@runtime_checkable
class Memory(Protocol):
    """A sequence memory: a flax.linen module with parameters only, no mutable collections, no hidden randomness.

    Laws (`check_memory` runs them): the sequence call equals the step loop; a sequence may be cut anywhere if the
    carry is handed on; where `reset` is True the whole carry is replaced by the initial one before `x` is used, and
    neither values nor gradients nor nan cross; batch elements do not see each other.

    A module may declare, as class variables: `ssm_parameters`, the names of its parameters that take the smaller
    learning rate and no weight decay (see `parameter_labels`), `default_activation`, what a block applies to its output
    ("gelu" for layers that are linear in their input, "none" for the others), and `default_block`, other defaults of
    the block and stack around it, by field.
    """

    @property
    def d_model(self) -> int:
        """Width of the output; a field of the module."""
        ...

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """A pytree of zeros with leading axes `batch_shape`; needs no parameters and works unbound."""
        ...

    def __call__(
        self, carry: Carry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Carry, Float[Array, "T *batch d_model"]]:
        """The whole sequence: returns the carry after its last step and all outputs."""
        ...

    def step(
        self, carry: Carry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Carry, Float[Array, "*batch d_model"]]:
        """The same maths for one step."""
        ...


def reset_where(reset: Bool[Array, "*batch"], new: Carry, old: Carry) -> Carry:
    """`new` where reset is True, else `old`, leaf by leaf, reset broadcast over the trailing axes.

    A selection, never a product: 0 * nan is nan, and the gradient into the discarded branch is exactly zero.
    """

    def select(new_leaf, old_leaf):
        old_leaf = jnp.asarray(old_leaf)
        mask = reset.reshape(reset.shape + (1,) * (old_leaf.ndim - reset.ndim))
        return jnp.where(mask, jnp.asarray(new_leaf, old_leaf.dtype), old_leaf)

    return jax.tree.map(select, new, old)


def matmul(x: Float[Array, "... n"], kernel: Float[Array, "n m"]) -> Float[Array, "... m"]:
    """x @ kernel in the dtype of x, accumulated and returned in at least float32.

    The leading axes are flattened first: XLA on CPU otherwise transposes x and its cotangent in memory for the
    gradient of the kernel, a quarter of the time of a layer (benchmarks/layer_speed.py).
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), preferred_element_type=wide)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """Affine map of the last axis, y = x @ kernel + bias, in the dtype of x; parameters are float32."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        """Apply it to the last axis of x. Raises ValueError for another width than at init."""
        if self.has_variable("params", "kernel"):
            owner = self.parent if isinstance(self.parent, nn.Module) else self
            check_width(owner, x, self.get_variable("params", "kernel").shape[0], "the width at init")
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        y = matmul(x, kernel)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y.astype(x.dtype)


def split_heads(x: Float[Array, "... n"], num_heads: int) -> Float[Array, "... H n/H"]:
    """The last axis as heads and their width."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def merge_heads(x: Float[Array, "... H n"]) -> Float[Array, "... H*n"]:
    """The inverse of `split_heads`."""
    return x.reshape(*x.shape[:-2], -1)


def unit_norm(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """x over its Euclidean length, by the last axis."""
    return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def check_sequence(memory: Memory, carry: Carry, x: Array, reset: Array) -> None:
    """Raise ValueError unless x is `[T, *batch, d_in]`, reset bool `[T, *batch]` and the carry fits `*batch`."""
    label = type(memory).__name__
    _check_arrays(label, x, reset)
    if jnp.ndim(x) < 2:
        raise ValueError(
            f"{label}: x has shape {jnp.shape(x)}, expected [T, *batch, d_in]; for one step use method='step'"
        )
    if jnp.shape(x)[0] < 1:
        raise ValueError(f"{label}: x has shape {jnp.shape(x)}, it must hold at least one step")
    _check_common(label, x, reset)
    _check_carry(memory, carry, jnp.shape(x)[1:-1])


def check_step(memory: Memory, carry: Carry, x: Array, reset: Array) -> None:
    """Raise ValueError unless x is `[*batch, d_in]`, reset bool `[*batch]` and the carry fits `*batch`."""
    label = f"{type(memory).__name__}.step"
    _check_arrays(label, x, reset)
    if jnp.ndim(x) < 1:
        raise ValueError(f"{label}: x has shape {jnp.shape(x)}, expected [*batch, d_in]")
    _check_common(label, x, reset)
    _check_carry(memory, carry, jnp.shape(x)[:-1])


def check_width(memory: Any, x: Array, width: int, why: str) -> None:
    """Raise ValueError unless the last axis of x is `width`; `why` says where the number comes from."""
    if jnp.shape(x)[-1] != width:
        raise ValueError(f"{type(memory).__name__}: x has shape {jnp.shape(x)}, its last axis must be {width} ({why})")


def _check_arrays(label: str, x: Array, reset: Array) -> None:
    for name, value in (("x", x), ("reset", reset)):
        if not hasattr(value, "shape"):
            raise ValueError(f"{label}: {name} is a {type(value).__name__}, it must be an array; use jnp.asarray")


def _check_common(label: str, x: Array, reset: Array) -> None:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"{label}: x has dtype {jnp.result_type(x)}, it must be floating; use x.astype(float)")
    if jnp.shape(reset) != jnp.shape(x)[:-1]:
        raise ValueError(
            f"{label}: reset has shape {jnp.shape(reset)}, expected {jnp.shape(x)[:-1]}, all but the last axis of x "
            f"of shape {jnp.shape(x)}"
        )
    if 0 in jnp.shape(x):
        raise ValueError(f"{label}: x has shape {jnp.shape(x)}, none of its axes may be empty")
    if jnp.result_type(reset) != jnp.bool_:
        raise ValueError(f"{label}: reset has dtype {jnp.result_type(reset)}, it must be bool; use reset.astype(bool)")


def _check_carry(memory: Memory, carry: Carry, batch_shape: tuple[int, ...]) -> None:
    # Not under eval_shape: a bound module may run its setup here, and its parameters must outlive the trace.
    expected = memory.initial_carry(batch_shape)
    label, remedy = type(memory).__name__, f"make it with initial_carry({batch_shape})"
    structure: PyTreeDef = jax.tree.structure(carry)
    if structure != jax.tree.structure(expected):
        raise ValueError(
            f"{label}: the carry has structure {structure}, expected {jax.tree.structure(expected)}; {remedy}"
        )
    for got, wanted in zip(jax.tree.leaves(carry), jax.tree.leaves(expected), strict=True):
        if jnp.shape(got) != wanted.shape:
            raise ValueError(
                f"{label}: a carry array has shape {jnp.shape(got)}, expected {wanted.shape} "
                f"for inputs with batch shape {batch_shape}; {remedy}"
            )
        if jnp.result_type(got) != wanted.dtype:
            raise ValueError(
                f"{label}: a carry array has dtype {jnp.result_type(got)}, expected {wanted.dtype}; {remedy}"
            )
