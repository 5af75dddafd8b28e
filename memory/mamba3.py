"""Mamba-3: trapezoidal discretisation, a rotating state, and updates of more than one rank.

Legend: T steps, *batch any batch axes, E d_inner, H heads, P head_dim, N d_state, R mimo_rank, S rotated pairs.
"""

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step, merge_heads, reset_where, split_heads
from .errors import check_dt_range, check_fields
from .inits import dt_bias
from .matrix import matrix_recurrence, matrix_step
from .registry import register
from .rotary import rotate

Mamba3Carry = tuple[
    Float[Array, "*batch H S"], Float[Array, "*batch H N P"], Float[Array, "*batch H R N"], Float[Array, "*batch H P"]
]
A_FLOOR = 1e-4


@register("mamba3")
class Mamba3(nn.Module):
    """Mamba-3 layer (Lahoti et al. 2026): no convolution, the previous input by the trapezoidal rule instead.

    z, x, B, C, dt, A, s, theta = in_proj(u)
    dt = softplus(dt + dt_bias),  A = -max(heavy_tail(A), 1e-4),  s = sigmoid(s)
    angle[t] = angle[t-1] + pi tanh(theta) dt  mod 2 pi;  B, C = rotate(rms_norm(.) + bias, angle)
    S[t] = exp(A dt) * (S[t-1] + (1-s) dt B[t-1] x[t-1]^T) + s dt B[t] x[t]^T,   y = S^T C + D_skip * x
    out = out_proj(y * silu(z)),   heavy_tail(a) = 1 + a, or 1 / (1 - a) where a < 0

    With mimo_rank R > 1 every head writes and reads R entries a step: x, z and y go through learned factors for each
    head, entry and channel (1/R, 1 and 1/R at init), and B and C have R rows.
    Run in chunks of matrix products (`matrix_recurrence`): each input is written with the weights of its own step and
    of the next one together. The input has any width. Carry, float32: angle `[*batch, H, S]`, state
    `[*batch, H, N, P]`, previous B `[*batch, H, R, N]` and previous x `[*batch, H, P]`; a reset empties all four.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Lahoti et al. 2026, "Mamba-3: improved sequence modeling using state space principles", section 3; the
    authors' implementation for initial values and the activation of A.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("width of keys: rows of each head's state")] = 64
    expand: Annotated[int, Doc("channels inside, over d_model")] = 2
    head_dim: Annotated[int, Doc("channels of a head; divides expand * d_model")] = 32
    mimo_rank: Annotated[int, Doc("entries that a head writes and reads each step")] = 1
    rope_fraction: Annotated[float, Doc("share of d_state that rotates")] = 0.5
    dt_min: Annotated[float, Doc("smallest initial step")] = 0.001
    dt_max: Annotated[float, Doc("largest initial step")] = 0.1
    chunk_size: Annotated[int, Doc("steps of a chunk")] = 32

    ssm_parameters: ClassVar[tuple[str, ...]] = ("dt_bias", "D_skip")
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.d_inner % self.head_dim:
            raise ValueError(f"Mamba3: head_dim={self.head_dim} must divide expand * d_model = {self.d_inner}")
        if not 0 < self.rope_fraction <= 1 or self.num_angles < 1:
            raise ValueError(
                f"Mamba3: rope_fraction={self.rope_fraction} of d_state={self.d_state} must hold at least one pair and "
                "be at most 1"
            )
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
    def num_angles(self) -> int:
        """Rotated pairs of the state."""
        return int(self.d_state * self.rope_fraction) // 2

    def setup(self):
        heads, rank, keys = self.num_heads, self.mimo_rank, self.mimo_rank * self.d_state
        self._splits = [
            sum(widths) for widths in _prefixes((self.d_inner, self.d_inner, keys, keys, heads, heads, heads))
        ]
        self.in_proj = Dense(self._splits[-1] + self.num_angles, use_bias=False)
        self.dt_bias = self.param("dt_bias", dt_bias, (heads,), self.dt_min, self.dt_max)
        self.B_bias = self.param("B_bias", nn.initializers.ones, (heads, rank, self.d_state))
        self.C_bias = self.param("C_bias", nn.initializers.ones, (heads, rank, self.d_state))
        self.B_norm, self.C_norm = nn.RMSNorm(epsilon=1e-5), nn.RMSNorm(epsilon=1e-5)
        self.D_skip = self.param("D_skip", nn.initializers.ones, (heads,))
        if rank > 1:
            shape = (heads, rank, self.head_dim)
            self.mimo_x = self.param("mimo_x", nn.initializers.constant(1.0 / rank), shape)
            self.mimo_z = self.param("mimo_z", nn.initializers.ones, shape)
            self.mimo_o = self.param("mimo_o", nn.initializers.constant(1.0 / rank), shape)
        self.out_proj = Dense(self.d_model, use_bias=False)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Mamba3Carry:
        """Zeros, float32: (angle, state, previous B, previous x)."""
        heads = (*batch_shape, self.num_heads)
        return (
            jnp.zeros((*heads, self.num_angles), jnp.float32),
            jnp.zeros((*heads, self.d_state, self.head_dim), jnp.float32),
            jnp.zeros((*heads, self.mimo_rank, self.d_state), jnp.float32),
            jnp.zeros((*heads, self.head_dim), jnp.float32),
        )

    def __call__(
        self, carry: Mamba3Carry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Mamba3Carry, Float[Array, "T *batch d_model"]]:
        """The whole sequence, chunk by chunk."""
        check_sequence(self, carry, x, reset)
        z, x, B, C, dt, log_decay, s, turn = self._project(x)
        first = jax.tree.map(lambda each: reset_where(reset[0], jnp.zeros_like(each), each), carry)
        angles = _sum_angles(first[0], turn, reset)
        B, C = rotate(B, angles[..., None, :]), rotate(C, angles[..., None, :])
        entries = self._entries(x)
        written, ahead = s * dt, (1.0 - s) * dt
        # Across a reset nothing is written, and nothing may flow back.
        following = jnp.concatenate([jnp.where(reset[1:, ..., None], 0.0, ahead[1:]), jnp.zeros_like(ahead[:1])])
        state = first[1] + self._update(first[2], ahead[0][..., None] * first[3])
        values = (written + following)[..., None, None] * entries
        q, k, v = (_by_entries(each) for each in (C, B, values))
        y, last = matrix_recurrence(q, k, v, log_decay, reset, state, chunk_size=self.chunk_size)
        y = jnp.moveaxis(y.reshape(len(x), self.mimo_rank, *y.shape[1:]), 1, -2)
        # What the next step writes of this input must not be read yet.
        y = y - following[..., None, None] * ((C @ jnp.swapaxes(B, -1, -2)) @ entries)
        return (angles[-1], last, B[-1], x[-1]), self._output(y, entries, z)

    def step(
        self, carry: Mamba3Carry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Mamba3Carry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        z, x, B, C, dt, log_decay, s, turn = self._project(x)
        angle, state, B_before, x_before = jax.tree.map(
            lambda each: reset_where(reset, jnp.zeros_like(each), each), carry
        )
        angle = jnp.mod(angle + turn, 2.0 * math.pi)
        B, C = rotate(B, angle[..., None, :]), rotate(C, angle[..., None, :])
        entries = self._entries(x)
        state = state + self._update(B_before, ((1.0 - s) * dt)[..., None] * x_before)
        y, state = matrix_step(C, B, (s * dt)[..., None, None] * entries, log_decay, reset, state)
        return (angle, state, B, x), self._output(y, entries, z)

    def _project(self, x: Array) -> tuple[Array, ...]:
        """z, x `[..., H, P]`, B, C `[..., H, R, N]` before rotation, dt, A dt, s `[..., H]`, turn `[..., H, S]`."""
        z, u, B, C, dt, A, s, theta = jnp.split(self.in_proj(x), self._splits, axis=-1)
        u, B, C, dt, A, s, theta = (each.astype(jnp.float32) for each in (u, B, C, dt, A, s, theta))
        B = self.B_norm(split_heads(B, self.mimo_rank))[..., None, :, :] + self.B_bias
        C = self.C_norm(split_heads(C, self.mimo_rank))[..., None, :, :] + self.C_bias
        dt = jax.nn.softplus(dt + self.dt_bias)
        A = -jnp.maximum(_heavy_tail(A), A_FLOOR)
        turn = math.pi * jnp.tanh(theta)[..., None, :] * dt[..., None]
        return z, split_heads(u, self.num_heads), B, C, dt, A * dt, jax.nn.sigmoid(s), turn

    def _entries(self, x: Array) -> Array:
        """The R values that a step writes, `[..., H, R, P]`."""
        return x[..., None, :] if self.mimo_rank == 1 else x[..., None, :] * self.mimo_x

    def _update(self, B: Array, x: Array) -> Array:
        """Sum over entries of B x^T, `[..., H, N, P]`."""
        return jnp.swapaxes(B, -1, -2) @ self._entries(x)

    def _output(self, y: Array, entries: Array, z: Array) -> Array:
        """From what was read `[..., H, R, P]` to the output."""
        y = y + self.D_skip[:, None, None] * entries
        gate = split_heads(z.astype(jnp.float32), self.num_heads)[..., None, :]
        y = y * nn.silu(gate * self.mimo_z) * self.mimo_o if self.mimo_rank > 1 else y * nn.silu(gate)
        return self.out_proj(merge_heads(y.sum(-2)).astype(z.dtype))


def _heavy_tail(a: Array) -> Array:
    return jnp.maximum(a, 0.0) + 1.0 / (1.0 - jnp.minimum(a, 0.0))


def _sum_angles(angle: Array, turn: Float[Array, "T *batch H S"], reset: Bool[Array, "T *batch"]) -> Array:
    """Angles of all steps, mod 2 pi at each: a float32 sum of many turns would lose the fraction that counts."""
    flag = jnp.broadcast_to(reset.reshape(*reset.shape, 1, 1), turn.shape)
    turn = turn.at[0].add(angle)

    def combine(left, right):
        (angle_left, flag_left), (angle_right, flag_right) = left, right
        return (
            jnp.where(flag_right, angle_right, jnp.mod(angle_left + angle_right, 2.0 * math.pi)),
            flag_left | flag_right,
        )

    return jnp.mod(jax.lax.associative_scan(combine, (turn, flag))[0], 2.0 * math.pi)


def _by_entries(each: Float[Array, "T *batch H R n"]) -> Float[Array, "TR *batch H n"]:
    """The entries of each step one after the other."""
    each = jnp.moveaxis(each, -2, 1)
    return each.reshape(each.shape[0] * each.shape[1], *each.shape[2:])


def _prefixes(widths: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [widths[: end + 1] for end in range(len(widths))]
