"""Block-diagonal GRU: the recurrent core of DreamerV3.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model, H hidden, G blocks.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float
from typing_extensions import Doc

from .core import check_width, matmul, merge_heads, split_heads
from .errors import check_fields
from .registry import register
from .vector_cell import Update, VectorCell


@register("block_gru")
class BlockGRU(VectorCell):
    """GRU whose state is split in blocks that only a narrow common input connects (Hafner et al. 2023, DreamerV3).

    u = silu(rms_norm(W_s h)) of width H;  for each block g:  v_g = silu(rms_norm(W_v [h_g, u, x]))
    r_g, c_g, z_g = W_g v_g;  c = tanh(sigmoid(r) * c),  z = sigmoid(z - 1),  h' = z * c + (1 - z) * h,  y = h'

    rms_norm is over the whole width. Carry: float32 `[*batch, D]`. Inputs may be bfloat16; the state is float32.

    Raises:
        ValueError: for a d_model that the blocks do not divide, or inputs that do not fit, before compilation.

    Source: Hafner et al. 2023, "Mastering diverse domains through world models", and the code published with it.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    hidden: Annotated[int | None, Doc("width of what the blocks share; none given: d_model / 8")] = None
    num_blocks: Annotated[int, Doc("blocks of the state; they divide d_model")] = 8

    # The cell has all of its own; its state itself is the output.
    default_block: ClassVar[dict[str, str]] = {
        "norm": "none",
        "residual": "none",
        "glu": "none",
        "projection": "never",
    }

    def __post_init__(self):
        check_fields(self)
        if self.d_model % self.num_blocks:
            raise ValueError(
                f"BlockGRU: d_model={self.d_model} must be divisible by num_blocks={self.num_blocks}; "
                f"set d_model={-(-self.d_model // self.num_blocks) * self.num_blocks}"
            )
        super().__post_init__()

    @nn.compact
    def _cell(self, x: Array) -> tuple[Update, Array]:
        """The update, and the input's share `[..., D]` in float32."""
        if self.has_variable("params", "W_x"):
            check_width(self, x, self.get_variable("params", "W_x").shape[0], "the width at init")
        width, blocks, hidden = self.d_model, self.num_blocks, self.hidden or max(self.d_model // 8, 1)
        part = width // blocks
        # W_v [h_g, u, x]: of one product per block, the share of u and x is one for all blocks.
        init = _normal(part + hidden + x.shape[-1])
        W_x = self.param("W_x", init, (x.shape[-1], width))
        W_u = self.param("W_u", init, (hidden, width))
        W_h = self.param("W_h", init, (blocks, part, part))
        b_v = self.param("b_v", nn.initializers.zeros, (width,))
        W_g = self.param("W_g", _normal(part), (blocks, part, 3 * part))
        b_g = self.param("b_g", nn.initializers.zeros, (blocks, 3 * part))
        W_s = self.param("W_s", _normal(width), (width, hidden))
        b_s = self.param("b_s", nn.initializers.zeros, (hidden,))
        scale_u = self.param("scale_u", nn.initializers.ones, (hidden,))
        scale_v = self.param("scale_v", nn.initializers.ones, (width,))

        def cell(state, pushed):
            u = nn.silu(_rms_norm(matmul(state, W_s) + b_s, scale_u))
            v = merge_heads(_by_block(split_heads(state, blocks), W_h)) + matmul(u, W_u) + pushed
            v = split_heads(nn.silu(_rms_norm(v, scale_v)), blocks)
            r, c, z = (merge_heads(each) for each in jnp.split(_by_block(v, W_g) + b_g, 3, axis=-1))
            z = nn.sigmoid(z - 1.0)
            return z * jnp.tanh(nn.sigmoid(r) * c) + (1.0 - z) * state

        return cell, matmul(x, W_x) + b_v


def _rms_norm(x: Float[Array, "... n"], scale: Float[Array, " n"]) -> Float[Array, "... n"]:
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-4) * scale


def _normal(fan_in: int) -> nn.initializers.Initializer:
    """Truncated normal of variance 1 / fan_in."""
    return nn.initializers.truncated_normal(fan_in**-0.5 / 0.87962566103423978)


def _by_block(x: Float[Array, "... G n"], kernel: Float[Array, "G n m"]) -> Float[Array, "... G m"]:
    """Each block through its own matrix."""
    return jnp.einsum("...gn,gnm->...gm", x, kernel)
