"""S5: a diagonal linear state-space layer with many inputs and outputs.

Legend: T steps, *batch any batch axes, H d_model, N d_state, P states kept (N/2 with conjugate symmetry).
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import check_sequence, check_step, check_width, matmul, reset_where
from .diagonal import recur
from .errors import check_dt_range, check_fields
from .inits import hippo_blocks, log_uniform, perturbed_hippo, truncated_normal
from .pairs import multiply, pair_factors, to_pair
from .registry import register
from .scan import Method, choose_method


@register("s5")
class S5(nn.Module):
    """S5 layer (Smith et al. 2023): HiPPO-initialised diagonal state space, discretised with a learned step.

    h[t] = A_bar * h[t-1] + B_bar x[t],   y[t] = 2 Re(C h[t]) + D * x[t]     (without conj_sym: Re(C h) + D x)
    ZOH (equation 6):  A_bar = exp(Lambda dt),  B_bar = (A_bar - 1) / Lambda * B
    bilinear:          A_bar = (1 + Lambda dt/2) / (1 - Lambda dt/2),  B_bar = dt / (1 - Lambda dt/2) * B

    Options: "ptd" begins from a perturbed HiPPO-LegS matrix instead of its normal part (conj_sym=False). With
    parameterization "stable" Re(Lambda) = -1 / (w^2 + 1/2), in [-2, 0), with "exp" -exp(w). "polarized" fixes A_bar of
    the first state at 1 and of the second at 0, against recency and over-smoothing.
    The input has any width d_in; the feedthrough D needs d_in = d_model (a Stack projects where they differ).
    Complex states, B and C are real pairs throughout (`pairs.py`), one real matmul into the state and one out of it:
    XLA's complex matmul is slow on CPU (benchmarks/layer_speed.py).
    Carry: float32 `[*batch, 2P]`, real then imaginary parts. Inputs may be bfloat16: the matmuls follow them, state and
    decay stay float32.

    Raises:
        ValueError: for fields that break the rules below and for inputs that do not fit, before compilation.

    Source: Smith et al. 2023, "Simplified state space layers for sequence modeling", sections 3 and 4, appendix B;
    ptd: Yu et al. 2023; stable: Wang and Li 2024 (StableSSM), section 3.4; polarized: Wang et al. 2025, "Understanding
    and mitigating bottlenecks of state space models through the lens of recency and over-smoothing", section 5.
    """

    d_model: Annotated[int, Doc("width of the layer")] = 64
    d_state: Annotated[int, Doc("size of the state, before conjugate symmetry halves it")] = 64
    blocks: Annotated[int, Doc("number of HiPPO blocks the state starts from; divides d_state")] = 1
    conj_sym: Annotated[bool, Doc("keep one of each conjugate pair of states")] = True
    eigenvalues: Annotated[Literal["normal", "ptd"], Doc("of HiPPO-LegS: its normal part, or perturbed")] = "normal"
    perturbation: Annotated[float, Doc("norm of the perturbation of ptd, over that of HiPPO-LegS")] = 0.1
    parameterization: Annotated[
        Literal["direct", "exp", "stable"], Doc("of Re(Lambda): itself, -exp(w), or -1 / (w^2 + 1/2)")
    ] = "direct"
    polarized: Annotated[bool, Doc("fix one state at A_bar = 1 and one at 0")] = False
    discretization: Annotated[Literal["zoh", "bilinear"], Doc("how the continuous system is made discrete")] = "zoh"
    dt_min: Annotated[float, Doc("smallest initial step")] = 0.001
    dt_max: Annotated[float, Doc("largest initial step")] = 0.1
    clip_eigs: Annotated[bool, Doc("keep Re(Lambda) <= -1e-4, stable at any length")] = False
    feedthrough: Annotated[bool, Doc("add D * x to the output")] = True
    learn_initial_state: Annotated[bool, Doc("learn the state that a reset loads (zero otherwise)")] = False
    method: Annotated[Method, Doc("scan over time; auto chooses by backend")] = "auto"

    ssm_parameters: ClassVar[tuple[str, ...]] = ("Lambda_re", "Lambda_im", "B", "log_dt", "initial_state")
    default_activation: ClassVar[str] = "gelu"

    def __post_init__(self):
        check_fields(self)
        if self.d_state % self.blocks:
            raise ValueError(f"S5: d_state={self.d_state} must be divisible by blocks={self.blocks}")
        if self.conj_sym and (self.d_state // self.blocks) % 2:
            raise ValueError(
                f"S5: d_state / blocks = {self.d_state // self.blocks} must be even with conj_sym=True; "
                "choose another d_state or blocks, or conj_sym=False"
            )
        check_dt_range(self)
        if self.eigenvalues == "ptd" and (self.conj_sym or self.parameterization == "stable"):
            raise ValueError(
                "S5: eigenvalues='ptd' come in no conjugate pairs and lie below -2: it needs conj_sym=False and a "
                f"parameterization other than 'stable', not conj_sym={self.conj_sym} and {self.parameterization!r}"
            )
        if self.perturbation <= 0:
            raise ValueError(f"S5: perturbation={self.perturbation} must be positive")
        if self.polarized and self.d_state // (2 if self.conj_sym else 1) < 3:
            raise ValueError(f"S5: polarized needs at least 3 states, d_state={self.d_state} leaves fewer")
        super().__post_init__()

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Float[Array, "*batch 2P"]:
        """Zeros, float32 `[*batch, 2P]`."""
        return jnp.zeros((*batch_shape, self.d_state * (1 if self.conj_sym else 2)), jnp.float32)

    def __call__(
        self, carry: Float[Array, "*batch 2P"], x: Float[Array, "T *batch H"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Float[Array, "*batch 2P"], Float[Array, "T *batch H"]]:
        """The whole sequence by a scan over time."""
        check_sequence(self, carry, x, reset)
        factors, W_in, W_out, D, initial = self._system(x)
        initial = jnp.broadcast_to(initial, carry.shape)
        states = recur(choose_method(self.method), *factors, matmul(x, W_in), reset, carry, initial)
        return states[-1], _output(states, x, W_out, D)

    def step(
        self, carry: Float[Array, "*batch 2P"], x: Float[Array, "*batch H"], reset: Bool[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch 2P"], Float[Array, "*batch H"]]:
        """One step."""
        check_step(self, carry, x, reset)
        factors, W_in, W_out, D, initial = self._system(x)
        state = multiply(*factors, reset_where(reset, initial, carry)) + matmul(x, W_in)
        return state, _output(state, x, W_out, D)

    @nn.compact
    def _system(self, x: Array) -> tuple[tuple[Array, Array], Array, Array, Array | None, Array]:
        """The discrete system on pairs: the factors of A_bar, matrices into and out of the state, D, initial state."""
        d_in = x.shape[-1]
        if self.feedthrough:
            check_width(self, x, self.d_model, "d_model, as D * x is added; use a Stack or feedthrough=False")
        elif self.has_variable("params", "B"):
            check_width(self, x, self.get_variable("params", "B").shape[1], "the width at init")
        if self.eigenvalues == "ptd":
            eigenvalues, V, inverse = perturbed_hippo(self.d_state, self.blocks, self.perturbation)
        else:
            eigenvalues, V = hippo_blocks(self.d_state, self.blocks, self.conj_sym)
            inverse = V.conj().T
        num_kept = eigenvalues.size
        start = _to_parameter(eigenvalues.real, self.parameterization)
        Lambda_re = self.param("Lambda_re", lambda _: jnp.asarray(start, jnp.float32))
        Lambda_im = self.param("Lambda_im", lambda _: jnp.asarray(eigenvalues.imag, jnp.float32))
        log_dt = self.param("log_dt", log_uniform, (num_kept,), self.dt_min, self.dt_max)
        B = self.param("B", _init_B, inverse, d_in)
        C = self.param("C", _init_C, V, self.d_model)
        D = self.param("D", nn.initializers.normal(1.0), (self.d_model,)) if self.feedthrough else None
        initial = jnp.zeros(())
        if self.learn_initial_state:
            initial = self.param("initial_state", nn.initializers.zeros, (2 * num_kept,))
        if self.parameterization == "exp":
            Lambda_re = -jnp.exp(Lambda_re)
        elif self.parameterization == "stable":
            Lambda_re = -1.0 / (Lambda_re**2 + 0.5)
        Lambda = jax.lax.complex(jnp.minimum(Lambda_re, -1e-4) if self.clip_eigs else Lambda_re, Lambda_im)
        dt = jnp.exp(log_dt)
        A_bar, scale = discretize(Lambda, dt, self.discretization)
        if self.polarized:
            A_bar = A_bar.at[0].set(1.0).at[1].set(0.0)
            scale = scale.at[0].set(dt[0]).at[1].set(1.0)
        B_bar = scale[:, None] * jax.lax.complex(B[..., 0], B[..., 1])
        W_in = to_pair(B_bar.T)
        factor = 2.0 if self.conj_sym else 1.0
        W_out = factor * jnp.concatenate([C[..., 0], -C[..., 1]], axis=1).T
        return pair_factors(A_bar), W_in, W_out, D, initial


def discretize(Lambda: Array, dt: Array, rule: str) -> tuple[Array, Array]:
    """A_bar and the factor B_bar / B, both `[P]`; equations in the docstring of S5."""
    if rule == "zoh":
        A_bar = jnp.exp(Lambda * dt)
        return A_bar, (A_bar - 1.0) / Lambda
    inverse = 1.0 / (1.0 - Lambda * dt / 2.0)
    return inverse * (1.0 + Lambda * dt / 2.0), inverse * dt


def _output(states: Array, x: Array, W_out: Array, D: Array | None) -> Array:
    """2 Re(C h) + D x, in the dtype of x."""
    y = matmul(states.astype(x.dtype), W_out)
    return (y if D is None else y + D * x).astype(x.dtype)


def _to_parameter(Lambda_re: np.ndarray, parameterization: str) -> np.ndarray:
    """The parameter whose value stands for these real parts."""
    if parameterization == "exp":
        return np.log(-Lambda_re)
    if parameterization == "stable":
        return np.sqrt(-1.0 / Lambda_re - 0.5)
    return Lambda_re


def _init_B(key: Array, inverse: np.ndarray, d_in: int) -> Float[Array, "P d_in 2"]:
    """V^-1 B with B lecun normal over the state axis, as (real, imaginary) pairs."""
    B = truncated_normal(key, (inverse.shape[1], d_in), fan_in=inverse.shape[1])
    return jnp.stack([inverse.real.astype(np.float32) @ B, inverse.imag.astype(np.float32) @ B], axis=-1)


def _init_C(key: Array, V: np.ndarray, d_model: int) -> Float[Array, "H P 2"]:
    """C V with complex C, each part truncated normal of variance 1 / N, as (real, imaginary) pairs."""
    re, im = truncated_normal(key, (2, d_model, V.shape[0]), fan_in=V.shape[0])
    V_re, V_im = V.real.astype(np.float32), V.imag.astype(np.float32)
    return jnp.stack([re @ V_re - im @ V_im, re @ V_im + im @ V_re], axis=-1)
