"""minGRU: a GRU without its state in the gates, and so a linear recurrence.

Legend: T steps, *batch any batch axes, d_in width of the input, D d_model.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step, reset_where
from .diagonal import recur
from .errors import check_fields
from .registry import register
from .scan import Method, choose_method


@register("min_gru")
class MinGRU(nn.Module):
    """minGRU layer (Feng et al. 2024).

    z = sigmoid(W_z x + b_z),  h[t] = (1 - z) * h[t-1] + z * (W_h x + b_h),  y = h

    Carry: float32 `[*batch, D]`. Inputs may be bfloat16; gates and state are float32.

    Raises:
        ValueError: for inputs that do not fit, before compilation.

    Source: Feng et al. 2024, "Were RNNs all we needed?", section 3.1.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def setup(self):
        self.gate_and_candidate = Dense(2 * self.d_model)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch D"]:
        """Zeros, float32."""
        return jnp.zeros((*batch_shape, self.d_model), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "T *batch D"]]:
        """The whole sequence by a scan over time."""
        check_sequence(self, carry, x, reset)
        keep, new = self._gates(x)
        states = recur(choose_method(self.method), keep, None, new, reset, carry, jnp.zeros_like(carry))
        return states[-1], states.astype(x.dtype)

    def step(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch D"]]:
        """One step."""
        check_step(self, carry, x, reset)
        keep, new = self._gates(x)
        state = keep * reset_where(reset, jnp.zeros_like(carry), carry) + new
        return state, state.astype(x.dtype)

    def _gates(self, x: Array) -> tuple[Array, Array]:
        """(1 - z, z * candidate) in float32."""
        gate, candidate = jnp.split(self.gate_and_candidate(x).astype(jnp.float32), 2, axis=-1)
        return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * candidate
