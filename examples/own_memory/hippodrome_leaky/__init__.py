"""A memory of one's own for Hippodrome: a leaky integrator with learned time constants.

Importing this module registers the memory as "leaky"; its fields are then options in YAML and on the command line:

    PYTHONPATH=examples/own_memory uv run launch.py train --import hippodrome_leaky --memory.kind leaky \\
        --memory.tau-max 30

Once installed (`uv pip install examples/own_memory`) it is imported by its entry point, see pyproject.toml, and
`--import` is not needed.

Legend: T steps, *batch any batch axes, D d_model.
"""

from collections.abc import Callable
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from hippodrome.memory import linear_recurrence, register, reset_where
from hippodrome.memory.spectrum import decay

__all__ = ["LeakyIntegrator"]


@register("leaky")
class LeakyIntegrator(nn.Module):
    """Leaky integrator: each channel a running mean of its input, with a time constant of its own.

    h[t] = a * h[t-1] + (1 - a) * (W x[t] + b),  a = exp(-1 / tau),  y = h

    tau, in steps, starts log-spaced from tau_min to tau_max and is learned as its logarithm, so it stays positive.
    Carry: float32 `[*batch, D]`.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    tau_min: Annotated[float, Doc("smallest initial time constant, in steps")] = 1.0
    tau_max: Annotated[float, Doc("largest initial time constant, in steps")] = 100.0

    # These take ssm_learning_rate_factor times the learning rate and no weight decay.
    ssm_parameters: ClassVar[tuple[str, ...]] = ("log_tau",)
    # What a block applies to the output: the layer itself is linear in its input.
    default_activation: ClassVar[str] = "gelu"

    def __post_init__(self):
        if not 0 < self.tau_min <= self.tau_max:
            raise ValueError(
                f"LeakyIntegrator: tau_min={self.tau_min} and tau_max={self.tau_max} must satisfy "
                "0 < tau_min <= tau_max"
            )
        super().__post_init__()

    def setup(self):
        self.dense = nn.Dense(self.d_model)
        self.log_tau = self.param(
            "log_tau", lambda _: jnp.linspace(jnp.log(self.tau_min), jnp.log(self.tau_max), self.d_model)
        )

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch D"]:
        """Zeros, float32; needs no parameters."""
        return jnp.zeros((*batch_shape, self.d_model), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "T *batch D"]]:
        """The whole sequence; the resets are in the recurrence."""
        kept, new = self._coefficients(x)
        states, last = linear_recurrence(kept, new, reset, carry)
        return last, states.astype(x.dtype)

    def step(
        self, carry: Float[Array, "*batch D"], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch D"], Float[Array, "*batch D"]]:
        """One step of the same; the reset is a selection, never a product, for 0 * nan is nan."""
        kept, new = self._coefficients(x)
        state = kept * reset_where(reset, jnp.zeros_like(carry), carry) + new
        return state, state.astype(x.dtype)

    def _coefficients(self, x: Array) -> tuple[Array, Array]:
        """Decay `[D]` and what enters the state, float32."""
        decay = jnp.exp(-jnp.exp(-self.log_tau))
        return decay, (1.0 - decay) * self.dense(x).astype(jnp.float32)


@decay.register(LeakyIntegrator)
def leaky_decay(layer: LeakyIntegrator, step: Callable[[Array], Array], carry: Array) -> Array:
    """What one step multiplies the state with, for `hippodrome inspect`: ones pushed through the step, as complex."""
    return jax.jvp(step, (carry,), (jnp.ones_like(carry),))[1] + 0j
