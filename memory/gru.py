"""GRU: the gated recurrent unit, with the input matmul hoisted out of the scan.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array
from typing_extensions import Doc

from .core import check_width, matmul
from .errors import check_fields
from .inits import orthogonal_blocks
from .registry import register
from .vector_cell import Update, VectorCell


@register("gru")
class GRU(VectorCell):
    """Gated recurrent unit (Cho et al. 2014, in the variant with the reset gate after the matmul).

    r = sigmoid(W_xr x + b_r + W_hr h),  z = sigmoid(W_xz x + b_z + W_hz h)
    n = tanh(W_xn x + b_n + r * (W_hn h + c_n)),  h' = (1 - z) * n + z * h,  y = h'

    The same cell as flax.linen.GRUCell. Carry: float32 `[*batch, D]`. Inputs may be bfloat16; the state is float32.

    Raises:
        ValueError: for inputs that do not fit, before compilation.

    Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", equations 5 to 8.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def _cell(self, x: Array) -> tuple[Update, Array]:
        """The update, and the input's share of the gates r, z, n `[..., 3D]` in float32."""
        if self.has_variable("params", "W_x"):
            check_width(self, x, self.get_variable("params", "W_x").shape[0], "the width at init")
        width = self.d_model
        W_x = self.param("W_x", nn.initializers.lecun_normal(), (x.shape[-1], 3 * width))
        b_x = self.param("b_x", nn.initializers.zeros, (3 * width,))
        W_h = self.param("W_h", orthogonal_blocks, (width, 3 * width))
        c_n = self.param("c_n", nn.initializers.zeros, (width,))

        def update(state, gates):
            r_x, z_x, n_x = jnp.split(gates, 3, axis=-1)
            r_h, z_h, n_h = jnp.split(state @ W_h, 3, axis=-1)
            z = nn.sigmoid(z_x + z_h)
            n = jnp.tanh(n_x + nn.sigmoid(r_x + r_h) * (n_h + c_n))
            return (1.0 - z) * n + z * state

        return update, matmul(x, W_x) + b_x
