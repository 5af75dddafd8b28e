"""LRU: the linear recurrent unit, a complex diagonal recurrence started on a ring.

Legend: T steps, *batch any batch axes, H d_model, N d_state (complex states).
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import check_sequence, check_step, check_width, matmul, reset_where
from .diagonal import recur
from .errors import check_fields
from .inits import ring
from .pairs import multiply, pair_factors
from .registry import register
from .scan import Method, choose_method


@register("lru")
class LRU(nn.Module):
    """Linear recurrent unit (Orvieto et al. 2023).

    h[t] = lambda * h[t-1] + gamma * (B x[t]),   y[t] = Re(C h[t]) + D * x[t]
    lambda = exp(-exp(nu_log) + i exp(theta_log)),   gamma = exp(gamma_log), sqrt(1 - |lambda|^2) at init

    The width of the input is d_model (a Stack projects others). Carry: float32 `[*batch, 2N]`, real then imaginary
    parts. Inputs may be bfloat16: the matmuls follow them, the state stays float32.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", section 3 and appendix A.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("complex states")] = 64
    r_min: Annotated[float, Doc("inner radius of the initial ring of eigenvalues")] = 0.9
    r_max: Annotated[float, Doc("outer radius of the initial ring, at most 1")] = 0.999
    max_phase: Annotated[float, Doc("largest initial phase")] = 6.283185307179586
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("nu_log", "theta_log", "gamma_log")
    default_activation: ClassVar[str] = "gelu"

    def __post_init__(self):
        check_fields(self)
        if not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(f"LRU: r_min={self.r_min} and r_max={self.r_max} must satisfy 0 <= r_min < r_max <= 1")
        if self.max_phase <= 0:
            raise ValueError(f"LRU: max_phase={self.max_phase} must be positive")
        super().__post_init__()

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch 2N"]:
        """Zeros, float32."""
        return jnp.zeros((*batch_shape, 2 * self.d_state), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch 2N"], x: Float[Array, "T *batch H"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch 2N"], Float[Array, "T *batch H"]]:
        """The whole sequence by a scan over time."""
        check_sequence(self, carry, x, reset)
        factors, W_in, W_out, D = self._system(x)
        zero = jnp.zeros_like(carry)
        states = recur(choose_method(self.method), *factors, matmul(x, W_in), reset, carry, zero)
        return states[-1], self._output(states, x, W_out, D)

    def step(
        self, carry: Float[Array, "*batch 2N"], x: Float[Array, "*batch H"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch 2N"], Float[Array, "*batch H"]]:
        """One step."""
        check_step(self, carry, x, reset)
        factors, W_in, W_out, D = self._system(x)
        state = multiply(*factors, reset_where(reset, jnp.zeros_like(carry), carry)) + matmul(x, W_in)
        return state, self._output(state, x, W_out, D)

    @nn.compact
    def _system(self, x: Array) -> tuple[tuple[Array, Array], Array, Array, Array]:
        """The factors of lambda on pairs, the matrices into and out of the state, and D."""
        check_width(self, x, self.d_model, "d_model; use a Stack for another width")
        width, size = self.d_model, self.d_state

        def nu_and_theta(key):
            return ring(key, size, self.r_min, self.r_max, self.max_phase)

        # One key for both: a parameter initialiser may draw its own part of the ring.
        nu_log = self.param("nu_log", lambda key: jnp.log(nu_and_theta(key)[0]))
        theta_log = self.param("theta_log", lambda key: jnp.log(nu_and_theta(key)[1]))
        nu = jnp.exp(nu_log)
        gamma_log = self.param("gamma_log", lambda _: 0.5 * jnp.log1p(-jnp.exp(-2.0 * nu)))
        B = self.param("B_in", nn.initializers.normal((2 * width) ** -0.5), (width, 2 * size))
        C = self.param("C_out", nn.initializers.normal(size**-0.5), (2 * size, width))
        D = self.param("D", nn.initializers.normal(1.0), (width,))
        eigenvalues = jnp.exp(jax.lax.complex(-nu, jnp.exp(theta_log)))
        W_in = B * jnp.tile(jnp.exp(gamma_log), 2)
        # Re(C h) = Re C Re h - Im C Im h.
        W_out = C * np.repeat([1.0, -1.0], size).astype(np.float32)[:, None]
        return pair_factors(eigenvalues), W_in, W_out, D

    @staticmethod
    def _output(states: Array, x: Array, W_out: Array, D: Array) -> Array:
        return (matmul(states.astype(x.dtype), W_out) + D * x).astype(x.dtype)
