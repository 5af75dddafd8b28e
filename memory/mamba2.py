"""Mamba-2: state-space duality, a selective recurrence whose decay is one number for each head.

Legend: T steps, *batch any batch axes, E d_inner, H heads, P head_dim, G groups, N d_state.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .convolution import ShortConvolution
from .core import Dense, check_sequence, check_step, merge_heads, split_heads
from .errors import check_dt_range, check_fields, check_taps
from .inits import dt_bias
from .matrix import matrix_recurrence, matrix_step
from .registry import register

Mamba2Carry = tuple[Float[Array, "*batch K-1 E+2GN"], Float[Array, "*batch H N P"]]


@register("mamba2")
class Mamba2(nn.Module):
    """Mamba-2 layer (Dao and Gu 2024).

    z, xBC, dt = in_proj(u);  x, B, C = silu(conv(xBC));  dt = softplus(dt + dt_bias);  A = -exp(A_log)
    S[t] = exp(dt A) * S[t-1] + B (dt x)^T,   y = S^T C + D_skip * x     for each of H heads
    out = out_proj(rms_norm(y * silu(z)))

    Run in chunks of matrix products (`matrix_recurrence`). The input has any width. Carry: float32, the window of the
    convolution `[*batch, K-1, E + 2 G N]` and the state `[*batch, H, N, P]`; a reset empties both.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Dao and Gu 2024, "Transformers are SSMs", sections 6 and 7; initial values as in the authors'
    implementation.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("width of keys: rows of each head's state")] = 64
    d_conv: Annotated[int, Doc("taps of the short convolution, at least 2")] = 4
    expand: Annotated[int, Doc("channels inside, over d_model")] = 2
    head_dim: Annotated[int, Doc("channels of a head; divides expand * d_model")] = 32
    groups: Annotated[int, Doc("groups of heads that share B and C; divides the number of heads")] = 1
    dt_min: Annotated[float, Doc("smallest initial step")] = 0.001
    dt_max: Annotated[float, Doc("largest initial step")] = 0.1
    chunk_size: Annotated[int, Doc("steps of a chunk")] = 32

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias", "D_skip")
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        check_taps(self)
        if self.d_inner % self.head_dim:
            raise ValueError(f"Mamba2: head_dim={self.head_dim} must divide expand * d_model = {self.d_inner}")
        if self.num_heads % self.groups:
            raise ValueError(f"Mamba2: groups={self.groups} must divide the number of heads, {self.num_heads}")
        check_dt_range(self)
        super().__post_init__()

    @property
    def d_inner(self) -> int:
        """Channels inside."""
        return self.expand * self.d_model

    @property
    def num_heads(self) -> int:
        """Heads."""
        return self.d_inner // self.head_dim

    @property
    def _conv_width(self) -> int:
        return self.d_inner + 2 * self.groups * self.d_state

    def setup(self):
        self.in_proj = Dense(self.d_inner + self._conv_width + self.num_heads, use_bias=False)
        self.conv = ShortConvolution(self._conv_width, self.d_conv)
        self.A_log = self.param(
            "A_log", lambda key: jnp.log(jax.random.uniform(key, (self.num_heads,), minval=1.0, maxval=16.0))
        )
        self.dt_bias = self.param("dt_bias", dt_bias, (self.num_heads,), self.dt_min, self.dt_max)
        self.D_skip = self.param("D_skip", nn.initializers.ones, (self.num_heads,))
        self.normalisation = nn.RMSNorm(epsilon=1e-5)
        self.out_proj = Dense(self.d_model, use_bias=False)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Mamba2Carry:
        """Zeros, float32: (window of the convolution, state)."""
        window = jnp.zeros((*batch_shape, self.d_conv - 1, self._conv_width), jnp.float32)
        return window, jnp.zeros((*batch_shape, self.num_heads, self.d_state, self.head_dim), jnp.float32)

    def __call__(
        self, carry: Mamba2Carry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Mamba2Carry, Float[Array, "T *batch d_model"]]:
        """The whole sequence, chunk by chunk."""
        check_sequence(self, carry, x, reset)
        z, u, dt = self._project(x)
        window, u = self.conv(carry[0], u, reset)
        q, k, x, v, log_decay = self._inputs(u, dt)
        y, state = matrix_recurrence(q, k, v, log_decay, reset, carry[1], chunk_size=self.chunk_size)
        return (window, state), self._output(y, x, z)

    def step(
        self, carry: Mamba2Carry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Mamba2Carry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        z, u, dt = self._project(x)
        window, u = self.conv.step(carry[0], u, reset)
        q, k, x, v, log_decay = self._inputs(u, dt)
        q, k, v = (each[..., None, :] for each in (q, k, v))
        y, state = matrix_step(q, k, v, log_decay, reset, carry[1])
        return (window, state), self._output(y[..., 0, :], x, z)

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        splits = [self.d_inner, self.d_inner + self._conv_width]
        z, u, dt = jnp.split(self.in_proj(x), splits, axis=-1)
        return z, u, jax.nn.softplus(dt.astype(jnp.float32) + self.dt_bias)

    def _inputs(self, u: Array, dt: Array) -> tuple[Array, ...]:
        """(C, B, x, dt x, dt A), by heads, float32."""
        width = self.groups * self.d_state
        x, B, C = jnp.split(nn.silu(u).astype(jnp.float32), [self.d_inner, self.d_inner + width], axis=-1)
        x, B, C = split_heads(x, self.num_heads), split_heads(B, self.groups), split_heads(C, self.groups)
        if self.groups > 1:
            B, C = (jnp.repeat(each, self.num_heads // self.groups, axis=-2) for each in (B, C))
        return C, B, x, dt[..., None] * x, -dt * jnp.exp(self.A_log)

    def _output(self, y: Array, x: Array, z: Array) -> Array:
        y = merge_heads(y + self.D_skip[:, None] * x)
        return self.out_proj(self.normalisation(y * nn.silu(z.astype(jnp.float32))).astype(z.dtype))
