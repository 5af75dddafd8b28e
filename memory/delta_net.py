"""DeltaNet and Gated DeltaNet: associative memories that replace what a key recalled before.

Legend: T steps, *batch any batch axes, H heads, n width of keys, m width of values, K taps.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .convolution import ShortConvolution
from .core import Dense, check_sequence, check_step, merge_heads, split_heads, unit_norm
from .errors import check_fields, check_taps
from .inits import dt_bias
from .matrix import matrix_recurrence, matrix_step
from .registry import register

DeltaCarry = tuple[Float[Array, "*batch K-1 D"], Float[Array, "*batch H n m"]]


@register("delta_net")
class DeltaNet(nn.Module):
    """DeltaNet layer (Yang et al. 2024): the delta rule over unit keys.

    q, k, v = silu(conv(W x));  q, k of unit length, q over sqrt(n);  beta = sigmoid(W_beta x)
    S[t] = S[t-1] + k (beta (v - S[t-1]^T k))^T,   y = W_o rms_norm(S^T q)     for each of H heads

    Run in chunks (`matrix_recurrence`). The input has any width. Carry: float32, the window of the convolution
    `[*batch, K-1, 3 * d_model]` and the state `[*batch, H, n, m]`; a reset empties both.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Schlag et al. 2021, "Linear transformers are secretly fast weight programmers"; Yang et al. 2024,
    "Parallelizing linear transformers with the delta rule over sequence length", sections 2 and 3.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    num_heads: Annotated[int, Doc("heads; divides d_model")] = 2
    d_conv: Annotated[int, Doc("taps of the short convolution, at least 2")] = 4
    chunk_size: Annotated[int, Doc("steps of a chunk")] = 32

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias")
    default_activation: ClassVar[str] = "none"
    gated: ClassVar[bool] = False

    def __post_init__(self):
        check_fields(self)
        name = type(self).__name__
        if self.d_model % self.num_heads:
            raise ValueError(f"{name}: num_heads={self.num_heads} must divide d_model={self.d_model}")
        check_taps(self)
        super().__post_init__()

    def setup(self):
        self.qkv = Dense(3 * self.d_model, use_bias=False)
        self.conv = ShortConvolution(3 * self.d_model, self.d_conv)
        self.beta = Dense(self.num_heads, use_bias=False)
        self.normalisation = nn.RMSNorm(epsilon=1e-5)
        self.out_proj = Dense(self.d_model, use_bias=False)
        if self.gated:
            self.decay = Dense(self.num_heads, use_bias=False)
            self.A_log = self.param(
                "A_log", lambda key: jnp.log(jax.random.uniform(key, (self.num_heads,), minval=1.0, maxval=16.0))
            )
            self.dt_bias = self.param("dt_bias", dt_bias, (self.num_heads,))
            self.gate = Dense(self.d_model, use_bias=False)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> DeltaCarry:
        """Zeros, float32: (window of the convolution, state)."""
        width = self.d_model // self.num_heads
        window = jnp.zeros((*batch_shape, self.d_conv - 1, 3 * self.d_model), jnp.float32)
        return window, jnp.zeros((*batch_shape, self.num_heads, width, width), jnp.float32)

    def __call__(
        self, carry: DeltaCarry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[DeltaCarry, Float[Array, "T *batch d_model"]]:
        """The whole sequence, chunk by chunk."""
        check_sequence(self, carry, x, reset)
        window, qkv = self.conv(carry[0], self.qkv(x), reset)
        q, k, v, log_decay, beta = self._inputs(qkv, x)
        y, state = matrix_recurrence(q, k, v, log_decay, reset, carry[1], beta, chunk_size=self.chunk_size)
        return (window, state), self._output(y, x)

    def step(
        self, carry: DeltaCarry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[DeltaCarry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        window, qkv = self.conv.step(carry[0], self.qkv(x), reset)
        q, k, v, log_decay, beta = self._inputs(qkv, x)
        q, k, v = (each[..., None, :] for each in (q, k, v))
        y, state = matrix_step(q, k, v, log_decay, reset, carry[1], beta)
        return (window, state), self._output(y[..., 0, :], x)

    def _inputs(self, qkv: Array, x: Array) -> tuple[Array, ...]:
        """(q, k, v, log decay, beta) by heads, float32."""
        parts = jnp.split(nn.silu(qkv).astype(jnp.float32), 3, axis=-1)
        q, k, v = (split_heads(each, self.num_heads) for each in parts)
        beta = jax.nn.sigmoid(self.beta(x).astype(jnp.float32))
        log_decay = jnp.zeros_like(beta)
        if self.gated:
            log_decay = -jnp.exp(self.A_log) * jax.nn.softplus(self.decay(x).astype(jnp.float32) + self.dt_bias)
        return unit_norm(q) * q.shape[-1] ** -0.5, unit_norm(k), v, log_decay, beta

    def _output(self, y: Array, x: Array) -> Array:
        y = self.normalisation(y)
        if self.gated:
            y = y * nn.silu(split_heads(self.gate(x).astype(jnp.float32), self.num_heads))
        return self.out_proj(merge_heads(y).astype(x.dtype))


@register("gated_delta_net")
class GatedDeltaNet(DeltaNet):
    """Gated DeltaNet layer (Yang et al. 2025): the delta rule over a state that decays, with a gated output.

    S = a S[t-1],  a = exp(-exp(A_log) softplus(W_a x + dt_bias));  S[t] = S + k (beta (v - S^T k))^T
    y = W_o (rms_norm(S[t]^T q) * silu(W_g x));  all else as in DeltaNet.

    Source: Yang et al. 2025, "Gated delta networks: improving Mamba2 with delta rule", section 3.
    """

    gated: ClassVar[bool] = True
