"""S7: S5 made selective, with all its maps dependent on the input and a decay that cannot leave the unit circle.

Legend: T steps, *batch any batch axes, H d_model, N d_state.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step, check_width, reset_where
from .errors import check_fields
from .expanded import expanded_recurrence
from .inits import hippo_legs
from .registry import register
from .scan import Method


@register("s7")
class S7(nn.Module):
    """S7 layer (Soydan et al. 2024).

    A = base + W_A x,   a = 1 - 1 / (A^2 + 1/2)  in [-1, 1)
    h[t] = a * h[t-1] + B(x) x + b(x),   y = C(x) h + D(x) * x,   out = y * sigmoid(W_g gelu(y))

    B(x) `[N, H]` and C(x) `[H, N]` are linear in x: 2 H^2 N parameters, so d_state is small. They are made step by
    step inside the scan. The width of the input is d_model (a Stack projects others). Carry: float32 `[*batch, N]`.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Soydan et al. 2024, "S7: selective and simplified state space layers for sequence modeling", section 3;
    initial values, which the paper leaves open: HiPPO's real diagonal for `base`, normal of deviation .02 for the maps.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("size of the state")] = 16
    chunk_size: Annotated[int, Doc("steps whose states are held at once")] = 64
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("decay_base",)
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def setup(self):
        small = nn.initializers.normal(0.02)
        width, size = self.d_model, self.d_state
        self.decay_base = self.param("decay_base", lambda _: jnp.asarray(np.diag(hippo_legs(size)).astype(np.float32)))
        self.to_vectors = self.param("to_vectors", small, (width, 2 * size + width))
        self.to_B = self.param("to_B", small, (width, size, width))
        self.to_C = self.param("to_C", small, (width, size, width))
        self.gate = Dense(width)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch N"]:
        """Zeros, float32."""
        return jnp.zeros((*batch_shape, self.d_state), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch N"], x: Float[Array, "T *batch H"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch N"], Float[Array, "T *batch H"]]:
        """The whole sequence by a scan over chunks."""
        check_sequence(self, carry, x, reset)
        check_width(self, x, self.d_model, "d_model; use a Stack for another width")
        coefficients, readout = self._recurrence()
        u = x.astype(jnp.float32)
        y, last = expanded_recurrence(
            coefficients, readout, u, reset, carry, method=self.method, chunk_size=self.chunk_size, at_once=True
        )
        return last, self._output(y, x)

    def step(
        self, carry: Float[Array, "*batch N"], x: Float[Array, "*batch H"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch N"], Float[Array, "*batch H"]]:
        """One step."""
        check_step(self, carry, x, reset)
        check_width(self, x, self.d_model, "d_model; use a Stack for another width")
        coefficients, readout = self._recurrence()
        u = x.astype(jnp.float32)
        a, b = coefficients(u)
        state = a * reset_where(reset, jnp.zeros_like(carry), carry) + b
        return state, self._output(readout(state, u), x)

    def _recurrence(self):
        base, to_vectors, to_B, to_C, size = self.decay_base, self.to_vectors, self.to_B, self.to_C, self.d_state

        def coefficients(u):
            A, bias = jnp.split(u @ to_vectors[:, : 2 * size], 2, axis=-1)
            b = jnp.einsum("...i,inj,...j->...n", u, to_B, u)
            return 1.0 - 1.0 / ((base + A) ** 2 + 0.5), b + bias

        def readout(state, u):
            return jnp.einsum("...i,inj,...n->...j", u, to_C, state) + (u @ to_vectors[:, 2 * size :]) * u

        return coefficients, readout

    def _output(self, y: Array, x: Array) -> Array:
        y = y.astype(x.dtype)
        return y * jax.nn.sigmoid(self.gate(nn.gelu(y)))
