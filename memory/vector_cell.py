"""Cells whose state is one vector that every step changes: the scan around them.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from .core import check_sequence, check_step, reset_where

Update = Callable[[Float[Array, "*batch D"], Float[Array, "*batch n"]], Float[Array, "*batch D"]]


class VectorCell(nn.Module):
    """Base of memories that are a loop over `state -> state`; the input's share is one product for all steps.

    Subclasses have a field `d_model` and `_cell(x)`, which returns the update `(state, share of the input) -> state`
    and that share `[..., n]` in float32. Carry and output: the state, float32 `[*batch, D]`.
    """

    if TYPE_CHECKING:
        d_model: int
    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch D"]:
        """Zeros, float32 `[*batch, D]`."""
        return jnp.zeros((*batch_shape, self.d_model), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "T *batch D"]]:
        """The whole sequence: the input's share at once, then a sequential scan."""
        check_sequence(self, carry, x, reset)
        cell, shares = self._cell(x)

        def recur(state, inputs):
            share, reset_t = inputs
            state = cell(reset_where(reset_t, jnp.zeros_like(state), state), share)
            return state, state

        carry, states = jax.lax.scan(recur, carry, (shares, reset))
        return carry, states.astype(x.dtype)

    def step(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch D"]]:
        """One step."""
        check_step(self, carry, x, reset)
        cell, share = self._cell(x)
        state = cell(reset_where(reset, jnp.zeros_like(carry), carry), share)
        return state, state.astype(x.dtype)

    def _cell(self, x: Float[Array, "*any d_in"]) -> tuple[Update, Float[Array, "*any n"]]:
        raise NotImplementedError
