"""Mamba: a state-space layer whose step, input and output maps depend on the input (S6).

Legend: T steps, *batch any batch axes, E d_inner, N d_state, R dt_rank.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array
from typing_extensions import Doc

from .errors import check_dt_range
from .inits import dt_bias
from .registry import register
from .selective import SelectiveBlock, outer, project_state


@register("mamba")
class Mamba(SelectiveBlock):
    """Mamba layer (Gu and Dao 2023): selective state-space recurrence between a short convolution and a gate.

    dt = softplus(W_dt r + dt_bias), (r, B, C) = x_proj(x);  A = -exp(A_log)
    h[t] = exp(dt A) * h[t-1] + (dt x) B,   y = C h + D_skip * x     for each of E channels with N states

    The input has any width. Carry: float32, the convolution's window `[*batch, K-1, E]` and the state `[*batch, N, E]`.
    Inputs may be bfloat16; step, decay and state stay float32.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Gu and Dao 2023, "Mamba: linear-time sequence modeling with selective state spaces", algorithm 2, section
    3.4; initial values as in section 3.6 and the authors' implementation.
    """

    dt_min: Annotated[float, Doc("smallest initial step")] = 0.001
    dt_max: Annotated[float, Doc("largest initial step")] = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_dt_range(self)

    def setup(self):
        super().setup()
        bound = self.rank**-0.5
        self.dt_kernel = self.param(
            "dt_kernel",
            lambda key: jax.random.uniform(key, (self.rank, self.d_inner), jnp.float32, -bound, bound),
        )
        self.dt_bias = self.param("dt_bias", dt_bias, (self.d_inner,), self.dt_min, self.dt_max)
        self.A_log = self.param(
            "A_log",
            lambda _: jnp.broadcast_to(jnp.log(jnp.arange(1.0, self.d_state + 1)), (self.d_inner, self.d_state)),
        )

    def _inputs(self, u: Array) -> tuple[Array, Array, Array, Array]:
        r, B, C = jnp.split(self.x_proj(u).astype(jnp.float32), [self.rank, self.rank + self.d_state], axis=-1)
        return jax.nn.softplus(r @ self.dt_kernel + self.dt_bias), u.astype(jnp.float32), B, C

    def _recurrence(self):
        A = -jnp.exp(self.A_log.T)

        def coefficients(inputs):
            dt, u, B, _ = inputs
            return jnp.exp(dt[..., None, :] * A), outer(dt * u, B)

        return coefficients, lambda state, inputs: project_state(state, inputs[3])
