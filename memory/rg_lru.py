"""RG-LRU: the real-gated linear recurrent unit in the recurrent block of Griffin.

Legend: T steps, *batch any batch axes, E width of the recurrence, G heads of the gates.
"""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .convolution import ShortConvolution
from .core import Dense, check_sequence, check_step, reset_where
from .diagonal import recur
from .errors import check_fields, check_taps
from .registry import register
from .scan import Method, choose_method

RGLRUCarry = tuple[Float[Array, "*batch K-1 E"], Float[Array, "*batch E"]]


@register("rg_lru")
class RGLRU(nn.Module):
    """Griffin's recurrent block (De et al. 2024): projection, short convolution, RG-LRU, GELU gate, projection.

    u = conv(W_x x),  r = sigmoid(W_r u + b_r),  i = sigmoid(W_i u + b_i)    (block-diagonal W_r, W_i)
    a = exp(-8 softplus(p) r),  h[t] = a * h[t-1] + sqrt(1 - a^2) * (i * u)
    y = W_o (h * gelu(W_y x))

    At a reset the factor sqrt(1 - a^2) is 1: the first input is not diminished for a past that is not there. The
    gradient of that square root is bounded by 1000 in size. Carry: float32, the window of the convolution
    `[*batch, K-1, E]` and the state `[*batch, E]`; a reset empties both.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: De et al. 2024, "Griffin: mixing gated linear recurrences with local attention", sections 2.3 and 2.4,
    appendix A; the bound and the reset as in the authors' recurrentgemma.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_inner: Annotated[int | None, Doc("width of the recurrence; None: d_model")] = None
    num_heads: Annotated[int, Doc("blocks of the gates' matrices; divides the width of the recurrence")] = 4
    d_conv: Annotated[int, Doc("taps of the short convolution, at least 2")] = 4
    r_min: Annotated[float, Doc("smallest initial decay")] = 0.9
    r_max: Annotated[float, Doc("largest initial decay, below 1")] = 0.999
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("decay_logit",)
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.width % self.num_heads:
            raise ValueError(f"RGLRU: num_heads={self.num_heads} must divide the width of the recurrence, {self.width}")
        check_taps(self)
        if not 0 < self.r_min < self.r_max < 1:
            raise ValueError(f"RGLRU: r_min={self.r_min} and r_max={self.r_max} must satisfy 0 < r_min < r_max < 1")
        super().__post_init__()

    @property
    def width(self) -> int:
        """d_inner with its default resolved."""
        return self.d_model if self.d_inner is None else self.d_inner

    def setup(self):
        self.in_proj = Dense(2 * self.width)
        self.conv = ShortConvolution(self.width, self.d_conv)
        head = self.width // self.num_heads
        scale = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0, 1))
        self.gate_kernel = self.param("gate_kernel", scale, (2, self.num_heads, head, head))
        self.gate_bias = self.param("gate_bias", nn.initializers.zeros, (2, self.width))
        self.decay_logit = self.param("decay_logit", _decay_logit, self.width, self.r_min, self.r_max)
        self.out_proj = Dense(self.d_model)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> RGLRUCarry:
        """Zeros, float32: (window of the convolution, state)."""
        window = jnp.zeros((*batch_shape, self.d_conv - 1, self.width), jnp.float32)
        return window, jnp.zeros((*batch_shape, self.width), jnp.float32)

    def __call__(
        self, carry: RGLRUCarry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[RGLRUCarry, Float[Array, "T *batch d_model"]]:
        """The whole sequence by a scan over time."""
        check_sequence(self, carry, x, reset)
        u, gate = jnp.split(self.in_proj(x), 2, axis=-1)
        window, u = self.conv(carry[0], u, reset)
        decay, new = self._coefficients(u, reset)
        zero = jnp.zeros_like(carry[1])
        states = recur(choose_method(self.method), decay, None, new, reset, carry[1], zero)
        return (window, states[-1]), self._output(states, gate)

    def step(
        self, carry: RGLRUCarry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[RGLRUCarry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        u, gate = jnp.split(self.in_proj(x), 2, axis=-1)
        window, u = self.conv.step(carry[0], u, reset)
        decay, new = self._coefficients(u, reset)
        state = decay * reset_where(reset, jnp.zeros_like(carry[1]), carry[1]) + new
        return (window, state), self._output(state, gate)

    def _coefficients(self, u: Array, reset: Array) -> tuple[Array, Array]:
        """(a, sqrt(1 - a^2) i u), float32."""
        u = u.astype(jnp.float32)
        heads = u.reshape(*u.shape[:-1], self.num_heads, -1)
        gates = jnp.einsum("...hi,ghij->g...hj", heads, self.gate_kernel).reshape(2, *u.shape)
        bias = self.gate_bias.reshape(2, *(1,) * (u.ndim - 1), self.width)
        r, i = jax.nn.sigmoid(gates + bias)
        log_a = -8.0 * r * jax.nn.softplus(self.decay_logit)
        scale = jnp.where(reset[..., None], 1.0, _bounded_sqrt(-jnp.expm1(2.0 * log_a)))
        return jnp.exp(log_a), scale * i * u

    def _output(self, states: Array, gate: Array) -> Array:
        return self.out_proj(states.astype(gate.dtype) * nn.gelu(gate))


@jax.custom_jvp
def _bounded_sqrt(value: Array) -> Array:
    """sqrt with a derivative of at most 1000."""
    return jnp.sqrt(value)


@_bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    (value,), (tangent,) = primals, tangents
    root = jnp.sqrt(value)
    return root, tangent / jnp.maximum(2.0 * root, 1e-3)


def _decay_logit(key: Array, size: int, r_min: float, r_max: float) -> Float[Array, " E"]:
    """p with exp(-8 softplus(p)) uniform in area on the ring between the radii."""
    squared = jax.random.uniform(key, (size,), minval=r_min**2, maxval=r_max**2)
    softplus = -0.5 * jnp.log(squared) / 8.0
    return jnp.log(jnp.expm1(softplus))
