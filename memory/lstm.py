"""LSTM: long short-term memory, with the input matmul hoisted out of the scan.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import check_sequence, check_step, check_width, matmul, reset_where
from .errors import check_fields
from .inits import orthogonal_blocks
from .registry import register

LSTMCarry = tuple[Float[Array, "*batch D"], Float[Array, "*batch D"]]


@register("lstm")
class LSTM(nn.Module):
    """Long short-term memory with a forget gate.

    i, f, o = sigmoid(W_x x + b + W_h h),  g = tanh(W_x x + b + W_h h)  (one row of gates each)
    c' = f * c + i * g,  h' = o * tanh(c'),  y = h'

    Carry: `(c, h)`, float32 `[*batch, D]` each. Inputs may be bfloat16; the state is float32.

    Raises:
        ValueError: for inputs that do not fit, before compilation.

    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000, "Learning to forget", section 3.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    forget_bias: Annotated[float, Doc("initial bias of the forget gate")] = 1.0

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def initial_carry(self, batch_shape: tuple[int, ...]) -> LSTMCarry:
        """Zeros `(c, h)`, float32 `[*batch, D]` each."""
        shape = (*batch_shape, self.d_model)
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def __call__(
        self, carry: LSTMCarry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[LSTMCarry, Float[Array, "T *batch D"]]:
        """The whole sequence: one matmul over all inputs, then a sequential scan."""
        check_sequence(self, carry, x, reset)
        gates, W_h = self._gates(x)

        def recur(state, inputs):
            gates_t, reset_t = inputs
            state = _cell(reset_where(reset_t, jax.tree.map(jnp.zeros_like, state), state), gates_t, W_h)
            return state, state[1]

        carry, outputs = jax.lax.scan(recur, carry, (gates, reset))
        return carry, outputs.astype(x.dtype)

    def step(
        self, carry: LSTMCarry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[LSTMCarry, Float[Array, "*batch D"]]:
        """One step."""
        check_step(self, carry, x, reset)
        gates, W_h = self._gates(x)
        state = _cell(reset_where(reset, jax.tree.map(jnp.zeros_like, carry), carry), gates, W_h)
        return state, state[1].astype(x.dtype)

    @nn.compact
    def _gates(self, x: Array):
        """The input's share of the gates i, f, g, o `[..., 4D]` in float32, and the recurrent weights."""
        if self.has_variable("params", "W_x"):
            check_width(self, x, self.get_variable("params", "W_x").shape[0], "the width at init")
        width = self.d_model
        W_x = self.param("W_x", nn.initializers.lecun_normal(), (x.shape[-1], 4 * width))
        b_x = self.param("b_x", lambda _: jnp.zeros(4 * width).at[width : 2 * width].set(self.forget_bias))
        W_h = self.param("W_h", orthogonal_blocks, (width, 4 * width))
        return matmul(x, W_x) + b_x, W_h


def _cell(state: LSTMCarry, gates: Array, W_h: Array) -> LSTMCarry:
    """One LSTM update from the input's share of the gates."""
    cell, output = state
    i, f, g, o = jnp.split(gates + output @ W_h, 4, axis=-1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    return cell, nn.sigmoid(o) * jnp.tanh(cell)
