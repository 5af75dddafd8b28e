"""A gated feed-forward layer, for compositions that keep time mixing and feature mixing apart.

Legend: T steps, *batch any batch axes, d_in width of the input.
"""

from typing import Annotated, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step
from .errors import check_fields
from .registry import register


@register("mlp")
class MLP(nn.Module):
    """SwiGLU layer: y = W_o (silu(W_g x) * W_v x), whatever came before. Carry: `()`.

    Raises:
        ValueError: for inputs that do not fit, before compilation.

    Source: Shazeer 2020, "GLU variants improve transformer".
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    expand: Annotated[int, Doc("features inside, over d_model")] = 2

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def setup(self):
        self.gate_and_value = Dense(2 * self.expand * self.d_model, use_bias=False)
        self.out_proj = Dense(self.d_model, use_bias=False)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> tuple[()]:
        """The empty carry `()`."""
        return ()

    def __call__(
        self, carry: tuple[()], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[tuple[()], Float[Array, "T *batch d_model"]]:
        """The whole sequence, every step by itself."""
        check_sequence(self, carry, x, reset)
        return (), self._mix(x)

    def step(
        self, carry: tuple[()], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[tuple[()], Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        return (), self._mix(x)

    def _mix(self, x: Array) -> Array:
        gate, value = jnp.split(self.gate_and_value(x), 2, axis=-1)
        return self.out_proj(nn.silu(gate) * value)
