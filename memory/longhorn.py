"""Longhorn: a state-space layer that solves online regression, recalling by key what it was given.

Legend: T steps, *batch any batch axes, E d_inner, N d_state, R dt_rank.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from .registry import register
from .selective import SelectiveBlock, outer, project_state


@register("longhorn")
class Longhorn(SelectiveBlock):
    """Longhorn layer (Liu et al. 2024): the closed form of one implicit online-regression step, diagonal in the key.

    (r, k, q) = x_proj(x);  beta = sigmoid(W_dt r + b_dt);  delta = beta / (1 + beta * sum(k^2))
    S[t] = (1 - delta k^2) * S[t-1] + (delta x) k,   y = S q + D_skip * x     for each of E channels with N states

    Block, carry and errors as in Mamba. Source: Liu et al. 2024, "Longhorn: state space models are amortized online
    learners", equations 7 to 10.
    """

    def setup(self):
        super().setup()
        self.dt_kernel = self.param("dt_kernel", nn.initializers.lecun_normal(), (self.rank, self.d_inner))
        self.dt_bias = self.param("dt_bias", nn.initializers.zeros, (self.d_inner,))

    def _inputs(self, u: Array) -> tuple[Array, Array, Array, Array]:
        r, k, q = jnp.split(self.x_proj(u).astype(jnp.float32), [self.rank, self.rank + self.d_state], axis=-1)
        beta = jax.nn.sigmoid(r @ self.dt_kernel + self.dt_bias)
        delta = beta / (1.0 + beta * (k**2).sum(-1, keepdims=True))
        return delta, u.astype(jnp.float32), k, q

    def _recurrence(self):
        def coefficients(inputs):
            delta, u, k, _ = inputs
            return 1.0 - outer(delta, k**2), outer(delta * u, k)

        return coefficients, lambda state, inputs: project_state(state, inputs[3])
