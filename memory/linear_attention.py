"""Linear attention: a sum of values by key, read by query.

Legend: T steps, *batch any batch axes, H heads, n width of a head.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step, merge_heads, split_heads
from .errors import check_fields
from .matrix import matrix_recurrence, matrix_step
from .registry import register


@register("linear_attention")
class LinearAttention(nn.Module):
    """Linear attention (Katharopoulos et al. 2020, the fast autoregressive transformer, FART).

    q = phi(W_q x), k = phi(W_k x), v = W_v x,  phi = elu + 1
    S[t] = S[t-1] + k v^T,  z[t] = z[t-1] + k,  y = W_o (S^T q / (z . q + 1e-6))

    z is one more column of S. The input has any width. Carry: float32 `[*batch, H, n, n + 1]`.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Katharopoulos et al. 2020, "Transformers are RNNs", equations 16 to 20.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    num_heads: Annotated[int, Doc("heads; divides d_model")] = 4
    chunk_size: Annotated[int, Doc("steps of a chunk")] = 32

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.d_model % self.num_heads:
            raise ValueError(f"LinearAttention: num_heads={self.num_heads} must divide d_model={self.d_model}")
        super().__post_init__()

    def setup(self):
        self.qkv = Dense(3 * self.d_model, use_bias=False)
        self.out_proj = Dense(self.d_model)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch H n n+1"]:
        """Zeros, float32."""
        width = self.d_model // self.num_heads
        return jnp.zeros((*batch_shape, self.num_heads, width, width + 1), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch H n n+1"], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch H n n+1"], Float[Array, "T *batch d_model"]]:
        """The whole sequence, chunk by chunk."""
        check_sequence(self, carry, x, reset)
        q, k, v, log_decay = self._inputs(x)
        y, state = matrix_recurrence(q, k, v, log_decay, reset, carry, chunk_size=self.chunk_size)
        return state, self._output(y, x)

    def step(
        self, carry: Float[Array, "*batch H n n+1"], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch H n n+1"], Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        q, k, v, log_decay = self._inputs(x)
        q, k, v = (each[..., None, :] for each in (q, k, v))
        y, state = matrix_step(q, k, v, log_decay, reset, carry)
        return state, self._output(y[..., 0, :], x)

    def _inputs(self, x: Array) -> tuple[Array, Array, Array, Array]:
        qkv = self.qkv(x).astype(jnp.float32)
        q, k, v = (split_heads(each, self.num_heads) for each in jnp.split(qkv, 3, axis=-1))
        ones = jnp.ones((*v.shape[:-1], 1))
        return jax.nn.elu(q) + 1.0, jax.nn.elu(k) + 1.0, jnp.concatenate([v, ones], axis=-1), jnp.zeros(v.shape[:-1])

    def _output(self, y: Array, x: Array) -> Array:
        return self.out_proj(merge_heads(y[..., :-1] / (y[..., -1:] + 1e-6)).astype(x.dtype))
