"""The eigenvalues of a memory's recurrences, read off its own step: what each state is multiplied with.

Legend: T steps, B batch, d_in width of the input, n eigenvalues of a layer.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Complex, Float

from .attention import SlidingWindowAttention
from .block_gru import BlockGRU
from .blocks import Parallel, ResidualBlock, Stack
from .core import Carry
from .delta_net import DeltaNet, GatedDeltaNet
from .gru import GRU
from .linear_attention import LinearAttention
from .lru import LRU
from .lstm import LSTM
from .mamba2 import Mamba2
from .mamba3 import Mamba3
from .min_gru import MinGRU
from .mlp import MLP
from .none import NoMemory
from .pairs import from_pair
from .rg_lru import RGLRU
from .s4d import S4D
from .s5 import S5
from .s7 import S7
from .selective import SelectiveBlock

# One step of a layer, its parameters and its input fixed.
Step = Callable[[Carry], Carry]

# Layers whose eigenvalues no input changes.
CONSTANT = (S5, S4D, LRU)

_NOTES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((NoMemory, MLP), "has no state"),
    (SlidingWindowAttention, "keeps a window of past steps; nothing in it decays"),
    (LinearAttention, "adds up what it is given; its state does not decay"),
    (DeltaNet, "overwrites what a key recalled; its state does not decay"),
    ((BlockGRU, GRU, LSTM), "is recurrent through a nonlinearity: it has no eigenvalues of its own"),
)


@functools.singledispatch
def decay(layer: nn.Module, step: Step, carry: Carry) -> Complex[Array, "*batch n"] | None:
    """The eigenvalues by which one step of a layer multiplies its state, None where the layer has none to tell.

    lambda = d carry[t] / d carry[t-1], found by pushing a tangent through `step`: exact for recurrences that are linear
    in their state, and never out of step with the layer's own code. A layer of your own joins by its class:
    `@decay.register(MyLayer)`; it is taken to depend on the input unless it stands in `CONSTANT`.

    Args:
        layer: whose step it is.
        step: from the carry before a step, without a reset, to the carry after it.
        carry: the carry before the step, leaves `[*batch, ...]`.
    """
    return None


@decay.register(S5)
@decay.register(LRU)
def _pair_decay(layer: S5 | LRU, step: Step, carry: Array) -> Array:
    return from_pair(_push(step, carry, _unit_pair(carry)))


@decay.register(S4D)
def _s4d_decay(layer: S4D, step: Step, carry: Array) -> Array:
    if layer.eigenvalues == "real":
        return _complex(_push(step, carry, jnp.ones_like(carry)), 2)
    pair = from_pair(_push(step, carry, _unit_pair(carry)))
    return pair.reshape(*pair.shape[:-2], -1)


@decay.register(S7)
@decay.register(MinGRU)
def _real_decay(layer: S7 | MinGRU, step: Step, carry: Array) -> Array:
    return _complex(_push(step, carry, jnp.ones_like(carry)), 1)


@decay.register(RGLRU)
@decay.register(SelectiveBlock)
def _windowed_decay(layer: RGLRU | SelectiveBlock, step: Step, carry: tuple[Array, Array]) -> Array:
    window, state = carry
    return _complex(_push(lambda each: step((window, each))[1], state, jnp.ones_like(state)), state.ndim - 1)


@decay.register(Mamba2)
def _mamba2_decay(layer: Mamba2, step: Step, carry: tuple[Array, Array]) -> Array:
    """One number for each head."""
    window, state = carry
    return _complex(_push(lambda each: step((window, each))[1], state, jnp.ones_like(state))[..., 0, 0], 1)


@decay.register(Mamba3)
def _mamba3_decay(layer: Mamba3, step: Step, carry: tuple[Array, Array, Array, Array]) -> Array:
    """The decay of each head, turned by the angle that keys and queries turn by: a rotating state, seen from it."""
    angle, state, B, x = carry
    size = _push(lambda each: step((angle, each, B, x))[1], state, jnp.ones_like(state))[..., 0, 0]
    turn = step(carry)[0] - angle
    turning = size[..., None] * jnp.exp(1j * turn)
    if layer.d_state > 2 * layer.num_angles:  # some of the state does not turn
        turning = jnp.concatenate([turning, size[..., None].astype(turning.dtype)], axis=-1)
    return turning.reshape(*turning.shape[:-2], -1)


@decay.register(GatedDeltaNet)
def _gated_delta_decay(layer: GatedDeltaNet, step: Step, carry: tuple[Array, Array]) -> Array:
    """a of a (I - beta k k^T): its mean eigenvalue plus their deviation over sqrt(n - 1), as n - 1 of them are a."""
    window, state = carry
    size = state.shape[-2]
    matrix = _push(lambda each: step((window, each))[1], state, jnp.broadcast_to(jnp.eye(size), state.shape))
    mean = jnp.trace(matrix, axis1=-2, axis2=-1) / size
    deviation = matrix - mean[..., None, None] * jnp.eye(size)
    variance = (deviation**2).sum((-2, -1)) / size
    return _complex(mean + jnp.sqrt(variance / max(size - 1, 1)), 1)


def memory_layers(memory: nn.Module, name: str = "") -> dict[str, nn.Module]:
    """The layers inside stacks, blocks and parallel layers, by the path of their parameters: "layers_0/layer".

    A module that is none of these is a layer by itself, at the path `name`.
    """
    prefix = f"{name}/" if name else ""
    if isinstance(memory, Stack | Parallel):
        inside = {f"{prefix}layers_{index}": layer for index, layer in enumerate(memory.layers)}
    elif isinstance(memory, ResidualBlock):
        inside = {f"{prefix}layer": memory.layer}
    else:
        return {name: memory}
    found: dict[str, nn.Module] = {}
    for path, module in inside.items():
        found |= memory_layers(module, path)
    return found


def has_decay(layer: nn.Module) -> bool:
    """Whether `decay` knows the class of the layer."""
    return decay.dispatch(type(layer)) is not decay.dispatch(object)


def missing_decay(layer: nn.Module) -> str:
    """Why `layer_decays` says nothing about a layer, as the end of a sentence."""
    for classes, note in _NOTES:
        if isinstance(layer, classes):
            return note
    return "is not known; tell its eigenvalues by hippodrome.memory.spectrum.decay.register"


def layer_decays(
    memory: nn.Module, params: Any, x: Float[Array, "T B d_in"], reset: Bool[Array, "T B"]
) -> dict[str, Complex[Array, "..."]]:
    """The eigenvalues of every layer that has some, by the names of `memory_layers`.

    Args:
        memory: a memory, its variables `{"params": ...}`, and inputs that begin with the first step of a stream.

    Returns:
        `[n]` for the classes in `CONSTANT`; else those observed at each step, `[T, B, n]`, which mean nothing where
        `reset` is True, as no state is carried on there. float32: a time constant tau is good to a share 1e-7 tau.
    """
    inputs = _layer_inputs(memory, params, x, reset)
    found = {}
    for name, layer in memory_layers(memory).items():
        if not has_decay(layer):
            continue
        variables = {"params": _below(params["params"], name)}
        if isinstance(layer, CONSTANT):
            found[name] = _decay_now(layer, variables, layer.initial_carry((1,)), inputs[name][0, :1])[0]
        else:
            found[name] = _observed(layer, variables, inputs[name], reset)
    return found


def carry_size(memory: nn.Module) -> tuple[int, int]:
    """(values, bytes) of the carry of one batch element."""
    leaves = jax.tree.leaves(memory.initial_carry((1,)))
    return sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)


def _layer_inputs(memory: nn.Module, params: Any, x: Array, reset: Array) -> dict[str, Array]:
    """What each layer is given while the memory runs over the sequence, by name."""
    names = set(memory_layers(memory))
    seen: dict[str, Array] = {}

    def note_input(call, args, kwargs, context):
        # initial_carry may be asked of unbound modules, which have no path.
        if context.method_name == "__call__" and (name := "/".join(context.module.path)) in names:
            seen[name] = args[1]
        return call(*args, **kwargs)

    with nn.intercept_methods(note_input):
        memory.apply(params, memory.initial_carry(reset.shape[1:]), x, reset)
    return seen


def _observed(layer: nn.Module, variables: Any, x: Array, reset: Array) -> Array:
    def layer_step(carry, now):
        x_t, reset_t = now
        after, _ = layer.apply(variables, carry, x_t, reset_t, method="step")
        return after, _decay_now(layer, variables, carry, x_t)

    return jax.lax.scan(layer_step, layer.initial_carry(reset.shape[1:]), (x, reset))[1]


def _decay_now(layer: nn.Module, variables: Any, carry: Carry, x: Array) -> Any:
    no_reset = jnp.zeros(x.shape[:-1], bool)
    return decay(layer, lambda each: layer.apply(variables, each, x, no_reset, method="step")[0], carry)


def _push(step: Step, state: Array, tangent: Array) -> Array:
    return jax.jvp(step, (state,), (tangent,))[1]


def _unit_pair(carry: Array) -> Array:
    """1 + 0i in every state."""
    return jnp.zeros_like(carry).at[..., : carry.shape[-1] // 2].set(1.0)


def _complex(value: Array, state_axes: int) -> Array:
    """Real eigenvalues as complex ones, the axes of the state as one."""
    return value.reshape(*value.shape[: value.ndim - state_axes], -1).astype(jnp.complex64)


def _below(params: Any, name: str) -> Any:
    for part in filter(None, name.split("/")):
        params = params.get(part, {})
    return params
