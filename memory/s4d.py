"""S4D: one diagonal state-space model for each channel.

Legend: T steps, *batch any batch axes, H d_model, N d_state, P states kept (N/2 complex, or N real ones).
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import check_sequence, check_step, check_width, reset_where
from .errors import check_dt_range, check_fields
from .expanded import expanded_recurrence
from .inits import hippo_blocks, log_uniform
from .pairs import from_pair, to_pair
from .registry import register
from .s5 import discretize
from .scan import Method


@register("s4d")
class S4D(nn.Module):
    """S4D layer (Gu et al. 2022): each channel has a diagonal state space of its own, mixed by what follows.

    h[t] = A_bar * h[t-1] + x[t],   y[t] = 2 Re(sum(C * scale * h[t])) + D * x[t]    for each of H channels
    A_bar, scale by ZOH or bilinear as in S5, with B = 1;  A = -exp(A_log) + i A_im, step exp(log_dt) per channel

    Eigenvalues at init, n = 0 ... N/2 - 1: "lin" -1/2 + i pi n; "inv" -1/2 + i N/pi (N / (2n+1) - 1); "dss" those of
    the normal part of HiPPO-LegS (DSS, also called S4D-LegS); "real" -(n+1), N of them, without imaginary parts and
    the factor 2.
    The width of the input is d_model (a Stack projects others). Carry: float32 `[*batch, H, N]`, real then imaginary
    parts where complex. Inputs may be bfloat16; the state stays float32.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Gu et al. 2022, "On the parameterization and initialization of diagonal state space models", sections 3 and
    4; Gupta et al. 2022 (DSS), section 3.2.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("size of each channel's state; even unless eigenvalues is real")] = 64
    eigenvalues: Annotated[Literal["lin", "inv", "dss", "real"], Doc("eigenvalues at the start")] = "lin"
    discretization: Annotated[Literal["zoh", "bilinear"], Doc("how the continuous system is made discrete")] = "zoh"
    dt_min: Annotated[float, Doc("smallest initial step")] = 0.001
    dt_max: Annotated[float, Doc("largest initial step")] = 0.1
    chunk_size: Annotated[int, Doc("steps whose states are held at once")] = 64
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "A_im", "log_dt")
    default_activation: ClassVar[str] = "gelu"

    def __post_init__(self):
        check_fields(self)
        if self.eigenvalues != "real" and self.d_state % 2:
            raise ValueError(f"S4D: d_state={self.d_state} must be even, or eigenvalues='real'")
        check_dt_range(self)
        super().__post_init__()

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch H N"]:
        """Zeros, float32."""
        return jnp.zeros((*batch_shape, self.d_model, self.d_state), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch H N"], x: Float[Array, "T *batch H"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch H N"], Float[Array, "T *batch H"]]:
        """The whole sequence by a scan over chunks."""
        check_sequence(self, carry, x, reset)
        A_bar, C, D = self._system(x)
        y, last = expanded_recurrence(
            lambda u: (A_bar, u[..., None]),
            lambda state, _: (C * state).real.sum(-1),
            x.astype(jnp.float32),
            reset,
            self._to_state(carry),
            method=self.method,
            chunk_size=self.chunk_size,
        )
        return self._to_carry(last), (y + D * x).astype(x.dtype)

    def step(
        self, carry: Float[Array, "*batch H N"], x: Float[Array, "*batch H"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch H N"], Float[Array, "*batch H"]]:
        """One step."""
        check_step(self, carry, x, reset)
        A_bar, C, D = self._system(x)
        state = (
            A_bar * self._to_state(reset_where(reset, jnp.zeros_like(carry), carry)) + x.astype(jnp.float32)[..., None]
        )
        return self._to_carry(state), ((C * state).real.sum(-1) + D * x).astype(x.dtype)

    @nn.compact
    def _system(self, x: Array) -> tuple[Array, Array, Array]:
        """A_bar `[H, P]`, what reads the state out `[H, P]`, and D `[H]`."""
        check_width(self, x, self.d_model, "d_model; use a Stack for another width")
        start = initial_eigenvalues(self.d_state, self.eigenvalues)
        shape = (self.d_model, start.size)
        A_log = self.param("A_log", lambda _: jnp.broadcast_to(jnp.asarray(np.log(-start.real), jnp.float32), shape))
        log_dt = self.param("log_dt", log_uniform, (self.d_model,), self.dt_min, self.dt_max)
        D = self.param("D", nn.initializers.normal(1.0), (self.d_model,))
        A, dt = -jnp.exp(A_log), jnp.exp(log_dt)[:, None]
        if self.eigenvalues == "real":
            C = self.param("C", nn.initializers.normal(1.0), shape)
        else:
            A_im = self.param("A_im", lambda _: jnp.broadcast_to(jnp.asarray(start.imag, jnp.float32), shape))
            A = jax.lax.complex(A, A_im)
            # Unit variance in all: half of it in each part.
            C = self.param("C", nn.initializers.normal(0.5**0.5), (*shape, 2))
            C = 2.0 * jax.lax.complex(C[..., 0], C[..., 1])
        A_bar, scale = discretize(A, dt, self.discretization)
        return A_bar, C * scale, D

    def _to_state(self, carry: Array) -> Array:
        return carry if self.eigenvalues == "real" else from_pair(carry)

    def _to_carry(self, state: Array) -> Array:
        return state if self.eigenvalues == "real" else to_pair(state)


def initial_eigenvalues(d_state: int, kind: str) -> np.ndarray:
    """The eigenvalues `[P]` of each channel at init, see S4D."""
    if kind == "real":
        return -np.arange(1.0, d_state + 1) + 0j
    n = np.arange(d_state // 2)
    if kind == "lin":
        return -0.5 + 1j * np.pi * n
    if kind == "inv":
        return -0.5 + 1j * d_state / np.pi * (d_state / (2 * n + 1) - 1)
    return hippo_blocks(d_state, 1, conj_sym=True)[0]
