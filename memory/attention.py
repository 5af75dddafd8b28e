"""Sliding-window attention with its keys and values as carry.

Legend: T steps, *batch any batch axes, H heads, n width of a head, W window, C queries of a block.
"""

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Dense, check_sequence, check_step, merge_heads, reset_where, split_heads
from .errors import check_fields
from .registry import register
from .rotary import position_angles, rotate

AttentionCarry = tuple[Float[Array, "*batch W H n"], Float[Array, "*batch W H n"], Float[Array, "*batch W"]]


@register("attention")
class SlidingWindowAttention(nn.Module):
    """Causal softmax attention over the current step and up to `window` steps of the same episode before it.

    y = W_o sum_j softmax_j(q . k_j / sqrt(n)) v_j, with rotary positions: only distances count, so that positions are
    those since the reset.

    Run in blocks of `window` queries: memory and time are linear in T. The input has any width. Carry, float32: keys
    before rotation and values of the last W steps `[*batch, W, H, n]`, and 1 where they are of this episode
    `[*batch, W]`; a reset empties all three.

    Raises:
        ValueError: for fields that break the rules and for inputs that do not fit, before compilation.

    Source: Vaswani et al. 2017, section 3.2; Beltagy et al. 2020 (Longformer), section 3.1; Su et al. 2021 (rotary).
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    num_heads: Annotated[int, Doc("heads; divides d_model into even widths")] = 4
    window: Annotated[int, Doc("steps before the current one that are attended to")] = 64

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    default_activation: ClassVar[str] = "none"

    def __post_init__(self):
        check_fields(self)
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(
                f"SlidingWindowAttention: num_heads={self.num_heads} must divide d_model={self.d_model} into even "
                "widths"
            )
        super().__post_init__()

    def setup(self):
        self.qkv = Dense(3 * self.d_model, use_bias=False)
        self.out_proj = Dense(self.d_model, use_bias=False)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> AttentionCarry:
        """Zeros, float32: (keys, values, 1 where they are of this episode)."""
        entries = jnp.zeros((*batch_shape, self.window, self.num_heads, self.d_model // self.num_heads), jnp.float32)
        return entries, entries, jnp.zeros((*batch_shape, self.window), jnp.float32)

    def __call__(
        self, carry: AttentionCarry, x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[AttentionCarry, Float[Array, "T *batch d_model"]]:
        """The whole sequence, block by block."""
        check_sequence(self, carry, x, reset)
        num_steps, batch = reset.shape[0], reset.shape[1:]
        size = min(self.window, num_steps)
        num_blocks = -(-num_steps // size)
        q, k, v = (
            jnp.moveaxis(each.reshape(num_steps, math.prod(batch), *each.shape[-2:]), 0, 1) for each in self._qkv(x)
        )
        flat = jax.tree.map(lambda each: each.reshape(math.prod(batch), *each.shape[len(batch) :]), carry)
        k, v = (jnp.concatenate([past, each], axis=1) for past, each in zip(flat, (k, v), strict=False))
        # Episodes are numbered from 0, what the window holds of another one than step 0's past is -1.
        number = jnp.cumsum(reset.reshape(num_steps, -1).T, axis=1)
        number = jnp.concatenate([jnp.where(flat[2] > 0.5, 0, -1), number], axis=1)
        kept = number[:, -self.window :] == number[:, -1:]
        last = (
            *(jnp.where(kept[..., None, None], each[:, -self.window :], 0.0) for each in (k, v)),
            kept.astype(jnp.float32),
        )
        padding = num_blocks * size - num_steps
        q, k, v = (jnp.pad(each, ((0, 0), (0, padding), (0, 0), (0, 0))) for each in (q, k, v))
        number = jnp.pad(number, ((0, 0), (0, padding)), constant_values=-2)

        def attend(block):
            start = block * size

            def part(each, length, offset=0):
                return jax.lax.dynamic_slice_in_dim(each, start + offset, length, axis=1)

            return _attend(
                part(q, size),
                part(k, self.window + size),
                part(v, self.window + size),
                part(number, size, self.window),
                part(number, self.window + size),
            )

        y = jax.lax.map(attend, jnp.arange(num_blocks))
        y = jnp.moveaxis(y, 1, 2).reshape(num_blocks * size, *batch, self.d_model)[:num_steps]
        last = jax.tree.map(lambda each: each.reshape(*batch, *each.shape[1:]), last)
        return last, self.out_proj(y.astype(x.dtype))

    def step(
        self, carry: AttentionCarry, x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[AttentionCarry, Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        batch = reset.shape
        past = jax.tree.map(lambda each: reset_where(reset, jnp.zeros_like(each), each), carry)
        q, k, v = (each[..., None, :, :] for each in self._qkv(x))
        here = jnp.ones((*batch, 1))
        window = tuple(
            jnp.concatenate([old, new], axis=len(batch)) for old, new in zip(past, (k, v, here), strict=True)
        )
        number = jnp.where(window[2] > 0.5, 0, -1)
        flat = [each.reshape(math.prod(batch), *each.shape[len(batch) :]) for each in (q, *window[:2], number)]
        y = _attend(flat[0], flat[1], flat[2], flat[3][:, -1:], flat[3])
        # Entries of no episode are zero on every path, so that equal pasts have equal carries.
        held = (number >= 0).reshape(*number.shape, 1, 1)
        kept_k, kept_v = (jnp.where(held, each, 0.0)[..., 1:, :, :] for each in window[:2])
        last = (kept_k, kept_v, (number >= 0)[..., 1:].astype(jnp.float32))
        return last, self.out_proj(y.reshape(*batch, self.d_model).astype(x.dtype))

    def _qkv(self, x: Array) -> list[Array]:
        parts = jnp.split(self.qkv(x).astype(jnp.float32), 3, axis=-1)
        return [split_heads(each, self.num_heads) for each in parts]


def _attend(
    q: Float[Array, "B C H n"], k: Float[Array, "B L H n"], v: Float[Array, "B L H n"], query_episode, key_episode
) -> Float[Array, "B C D"]:
    """C queries over the last C + W = L entries; query i is entry W + i and sees entries i to W + i of its episode.

    Entries it does not see have no weight, non-finite or not; if it sees one that is not finite it is nan.
    """
    num_queries, length = q.shape[1], k.shape[1]
    window = length - num_queries
    distance = (window + jnp.arange(num_queries))[:, None] - jnp.arange(length)
    seen = (query_episode[:, :, None] == key_episode[:, None, :]) & (distance >= 0) & (distance <= window)
    sound = jnp.isfinite(k).all((-1, -2)) & jnp.isfinite(v).all((-1, -2))
    k, v = (jnp.where(sound[..., None, None], each, 0.0) for each in (k, v))
    asked = jnp.isfinite(q).all((-1, -2))
    q = jnp.where(asked[..., None, None], q, 0.0)
    angles = position_angles(jnp.arange(length, dtype=jnp.float32), q.shape[-1])
    q = rotate(q, angles[window:, None]) * q.shape[-1] ** -0.5
    scores = jnp.einsum("bchn,blhn->bhcl", q, rotate(k, angles[:, None]))
    weights = jax.nn.softmax(scores, axis=-1, where=seen[:, None])
    y = merge_heads(jnp.einsum("bhcl,blhn->bchn", weights, v))
    spoilt = (seen & ~sound[:, None, :]).any(-1) | ~asked
    return jnp.where(spoilt[..., None], jnp.nan, y)
