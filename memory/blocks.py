"""Residual blocks and stacks around any memory layer; the same block for all, so that comparisons are matched.

Legend: T steps, *batch any batch axes, d_in width of the input, d_model width of the output.
"""

from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float
from typing_extensions import Doc

from .core import Carry, Dense, check_sequence, check_step, check_width
from .errors import check_fields


class GRUGate(nn.Module):
    """A residual connection that is a GRU over depth (GTrXL), near the identity at init.

    r = sigmoid(W_r w + U_r x),  z = sigmoid(W_z w + U_z x - 2),  h = tanh(W_h w + U_h (r * x))
    y = (1 - z) * x + z * h

    Source: Parisotto et al. 2020, "Stabilizing transformers for reinforcement learning", section 3.2.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "... n"], w: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Combine the stream x with the output w of a layer."""
        width = x.shape[-1]
        r_w, z_w, h_w = jnp.split(Dense(3 * width, use_bias=False, name="from_layer")(w), 3, axis=-1)
        r_x, z_x = jnp.split(Dense(2 * width, use_bias=False, name="from_stream")(x), 2, axis=-1)
        bias = self.param("bias", nn.initializers.constant(2.0), (width,))
        z = nn.sigmoid(z_w + z_x - bias)
        h = jnp.tanh(h_w + Dense(width, use_bias=False, name="candidate")(nn.sigmoid(r_w + r_x) * x))
        return ((1.0 - z) * x + z * h).astype(x.dtype)


class ResidualBlock(nn.Module):
    """One memory layer with normalisation, activation, gate and residual connection.

    u = norm(x) ("pre") or x;  v = activation(layer(u))
    w = Dense1(v) * sigmoid(Dense2(v)) ("full"), v * sigmoid(Dense(v)) ("half") or v ("none")
    y = x + w ("add"), GRUGate(x, w) ("gru") or w ("none");  with norm "post" y = norm(y)

    norm is layer normalisation over features. The block needs d_in = d_model unless residual is "none".
    Raises ValueError for a field outside its choices. Source: Smith et al. 2023 (S5), appendix G.1; GLU: Dauphin 2017.
    """

    layer: nn.Module
    norm: Annotated[Literal["pre", "post", "none"], Doc("layer normalisation before, after or nowhere")] = "pre"
    activation: Annotated[Literal["gelu", "none"], Doc("applied to the output of the memory layer")] = "gelu"
    glu: Annotated[Literal["full", "half", "none"], Doc("gated linear unit after the activation")] = "half"
    residual: Annotated[Literal["add", "gru", "none"], Doc("sum with the input, the gate of GTrXL, or neither")] = "add"

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()

    def setup(self):
        if self.norm != "none":
            self.normalisation = nn.LayerNorm()
        if self.glu == "half":
            self.gate = Dense(self.layer.d_model)
        elif self.glu == "full":
            self.value_and_gate = Dense(2 * self.layer.d_model)
        if self.residual == "gru":
            self.residual_gate = GRUGate()

    @property
    def d_model(self) -> int:
        """Width of the output."""
        return self.layer.d_model

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """The carry of the layer."""
        return self.layer.initial_carry(batch_shape)

    def __call__(
        self, carry: Carry, x: Float[Array, "T *batch d_model"], reset: Bool[Array, "T *batch"]
    ) -> tuple[Carry, Float[Array, "T *batch d_model"]]:
        """The whole sequence."""
        return self._around(self.layer, carry, x, reset)

    def step(
        self, carry: Carry, x: Float[Array, "*batch d_model"], reset: Bool[Array, "*batch"]
    ) -> tuple[Carry, Float[Array, "*batch d_model"]]:
        """One step."""
        return self._around(self.layer.step, carry, x, reset)

    def _around(self, run, carry, x, reset):
        """The block around `run`, the layer's sequence call or its step."""
        if x.shape[-1] != self.d_model and self.residual != "none":
            raise ValueError(
                f"ResidualBlock: x has shape {x.shape}, its last axis must be d_model={self.d_model} for the residual "
                "sum; let the Stack around it project (projection: auto)"
            )
        u = x
        if self.norm == "pre":
            # XLA on CPU otherwise computes the normalisation again for each of its uses (7 % of a gradient).
            u = jax.lax.optimization_barrier(self.normalisation(x))
        carry, v = run(carry, u, reset)
        if self.activation == "gelu":
            v = nn.gelu(v)
        if self.glu == "half":
            v = v * nn.sigmoid(self.gate(v))
        elif self.glu == "full":
            # One product of twice the width: faster than two for the few rows of a rollout's step.
            value, gate = jnp.split(self.value_and_gate(v), 2, axis=-1)
            v = value * nn.sigmoid(gate)
        y = v
        if self.residual != "none":
            y = self.residual_gate(x, v) if self.residual == "gru" else x + v
        return carry, (self.normalisation(y) if self.norm == "post" else y).astype(x.dtype)


class _Layers(nn.Module):
    """What Stack and Parallel share: layers of one d_model, a tuple of carries; `_through` says how inputs pass."""

    layers: tuple[nn.Module, ...]

    def __post_init__(self):
        check_fields(self)
        widths = [layer.d_model for layer in self.layers]
        if len(set(widths)) != 1:
            raise ValueError(
                f"{type(self).__name__}: its layers have d_model {widths}; there must be at least one, all of one width"
            )
        super().__post_init__()

    @property
    def d_model(self) -> int:
        """Width of the output."""
        return self.layers[0].d_model

    def initial_carry(self, batch_shape: tuple[int, ...]) -> tuple[Carry, ...]:
        """The tuple of the initial carries of the layers."""
        return tuple(layer.initial_carry(batch_shape) for layer in self.layers)

    def __call__(
        self, carry: tuple[Carry, ...], x: Float[Array, "T *batch d_in"], reset: Bool[Array, "T *batch"]
    ) -> tuple[tuple[Carry, ...], Float[Array, "T *batch d_model"]]:
        """The whole sequence."""
        check_sequence(self, carry, x, reset)
        return self._through([layer.__call__ for layer in self.layers], carry, x, reset)

    def step(
        self, carry: tuple[Carry, ...], x: Float[Array, "*batch d_in"], reset: Bool[Array, "*batch"]
    ) -> tuple[tuple[Carry, ...], Float[Array, "*batch d_model"]]:
        """One step."""
        check_step(self, carry, x, reset)
        return self._through([layer.step for layer in self.layers], carry, x, reset)

    def _through(self, runs, carry, x, reset):
        raise NotImplementedError


class Parallel(_Layers):
    """Layers side by side on the same input, as heads of attention beside heads of a state-space model.

    y = sum_i scale_i * rms_norm(layer_i(x)) / number of layers

    A layer like any other; the carry is the tuple of the carries. All layers have one d_model. Raises ValueError for
    layers that do not fit together. Source: Dong et al. 2024, "Hymba: a hybrid-head architecture", section 2.1.
    """

    default_activation: ClassVar[str] = "none"

    def setup(self):
        self.normalisations = [nn.RMSNorm(epsilon=1e-5) for _ in self.layers]

    def _through(self, runs, carry, x, reset):
        carries, outputs = zip(*(run(each, x, reset) for run, each in zip(runs, carry, strict=True)), strict=True)
        normalised = [norm(y) for norm, y in zip(self.normalisations, outputs, strict=True)]
        # Where one layer is not finite no gradient enters the others: in their matrix products 0 * nan would spread it
        # over steps that a reset keeps apart.
        sound = jnp.stack([jnp.isfinite(y).all(-1, keepdims=True) for y in normalised]).all(0)
        return carries, jnp.where(sound, sum(normalised) / len(normalised), jnp.nan).astype(x.dtype)


class Stack(_Layers):
    """Layers or blocks one after the other, with an input projection to d_model; a memory like any single layer.

    y = final_norm(layer_L(... layer_1(project(x))))

    The projection is a Dense layer, made where the widths differ ("auto"), always, or never. The carry is the tuple
    of the carries of the layers. All layers have one d_model. Raises ValueError for layers that do not fit together.
    """

    projection: Annotated[
        Literal["auto", "always", "never"], Doc("dense layer from the input to d_model; auto: where the widths differ")
    ] = "auto"
    final_norm: Annotated[bool, Doc("layer normalisation after the last block")] = False

    def setup(self):
        self.project = Dense(self.d_model)
        if self.final_norm:
            self.normalisation = nn.LayerNorm()

    def _through(self, runs, carry, x, reset):
        """Project, run every layer on its own carry, normalise."""
        if not self.is_initializing() and self.projection != "never":
            params = self.variables.get("params", {})
            width = params["project"]["kernel"].shape[0] if "project" in params else self.d_model
            check_width(self, x, width, "the width at init")
        y = x
        if self.projection == "always" or (self.projection == "auto" and x.shape[-1] != self.d_model):
            y = self.project(x)
        carries = []
        for run, layer_carry in zip(runs, carry, strict=True):
            layer_carry, y = run(layer_carry, y, reset)
            carries.append(layer_carry)
        y = self.normalisation(y) if self.final_norm else y
        return tuple(carries), y.astype(x.dtype)
