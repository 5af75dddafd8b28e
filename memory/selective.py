"""The block that Mamba and Longhorn share: projection, short convolution, selective recurrence, gate, projection.

Legend: T steps, *batch any batch axes, E d_inner = expand * d_model, N d_state, R dt_rank.
"""

import math
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .convolution import ShortConvolution
from .core import Dense, check_sequence, check_step, reset_where
from .errors import check_fields, check_taps
from .expanded import expanded_recurrence
from .scan import Method

# GPUs and TPUs otherwise round the operands of a product, and so the float32 state, to fewer bits.
EXACT = jax.lax.Precision.HIGHEST

SelectiveCarry = tuple[Float[Array, "*batch K-1 E"], Float[Array, "*batch N E"]]


class SelectiveBlock(nn.Module):
    """x, z = in_proj(u);  x = silu(conv(x));  y = recurrence(x) + D_skip * x;  out = out_proj(y * silu(z)).

    A subclass makes `_inputs` (what the recurrence reads at each step) and `_recurrence`, which returns the functions
    `coefficients` and `readout` of `expanded_recurrence`. Carry: float32, the window of the convolution
    `[*batch, K-1, E]` and the state `[*batch, N, E]`; a reset empties both.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("states of each channel")] = 16
    d_conv: Annotated[int, Doc("taps of the short convolution, at least 2")] = 4
    expand: Annotated[int, Doc("channels inside, over d_model")] = 2
    dt_rank: Annotated[int | None, Doc("rank of the projection that makes the step; None: d_model / 16")] = None
    chunk_size: Annotated[int, Doc("steps whose states are held at once")] = 64
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("A_log", "dt_bias", "D_skip")
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        check_taps(self)
        super().__post_init__()

    @property
    def d_inner(self) -> int:
        """Channels inside."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """dt_rank with its default resolved."""
        return math.ceil(self.d_model / 16) if self.dt_rank is None else self.dt_rank

    def setup(self):
        self.in_proj = Dense(2 * self.d_inner, use_bias=False)
        self.conv = ShortConvolution(self.d_inner, self.d_conv)
        self.x_proj = Dense(self.rank + 2 * self.d_state, use_bias=False)
        self.out_proj = Dense(self.d_model, use_bias=False)
        self.D_skip = self.param("D_skip", nn.initializers.ones, (self.d_inner,))

    def initial_carry(self, batch_shape: tuple[int, ...]) -> SelectiveCarry:
        """Zeros, float32: (window of the convolution, state)."""
        window = jnp.zeros((*batch_shape, self.d_conv - 1, self.d_inner), jnp.float32)
        return window, jnp.zeros((*batch_shape, self.d_state, self.d_inner), jnp.float32)

    def __call__(
        self, carry: SelectiveCarry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[SelectiveCarry, Float[Array, "T *batch d_model"]]:
        """The whole sequence by a scan over chunks."""
        check_sequence(self, carry, x, reset)
        u, z = jnp.split(self.in_proj(x), 2, axis=-1)
        window, u = self.conv(carry[0], u, reset)
        u = nn.silu(u)
        y, state = expanded_recurrence(
            *self._recurrence(), self._inputs(u), reset, carry[1], method=self.method, chunk_size=self.chunk_size
        )
        return (window, state), self._output(y, u, z)

    def step(
        self, carry: SelectiveCarry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[SelectiveCarry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        u, z = jnp.split(self.in_proj(x), 2, axis=-1)
        window, u = self.conv.step(carry[0], u, reset)
        u = nn.silu(u)
        coefficients, readout = self._recurrence()
        inputs = self._inputs(u)
        a, b = coefficients(inputs)
        state = a * reset_where(reset, jnp.zeros_like(carry[1]), carry[1]) + b
        return (window, state), self._output(readout(state, inputs), u, z)

    def _inputs(self, u: Array) -> Any:
        raise NotImplementedError

    def _recurrence(self) -> tuple[Any, Any]:
        raise NotImplementedError

    def _output(self, y: Array, u: Array, z: Array) -> Array:
        y = (y + self.D_skip * u.astype(jnp.float32)).astype(u.dtype)
        return self.out_proj(y * nn.silu(z))


def outer(channels: Float[Array, "... E"], key: Float[Array, "... N"]) -> Float[Array, "... N E"]:
    """Every channel's value under every entry of the key; channels last, where a CPU's vectors lie."""
    # As a product, whose gradient is one too: the gradient of broadcasting would be a slow sum over the last axis.
    return jnp.einsum("...e,...n->...ne", channels, key, precision=EXACT)


def project_state(state: Float[Array, "... N E"], query: Float[Array, "... N"]) -> Float[Array, "... E"]:
    """Every channel's states against one vector."""
    return jnp.einsum("...ne,...n->...e", state, query, precision=EXACT)
