"""The memories under test, each with parameters away from their initial values and its paths compiled once.

Data (inputs, resets, carries, cuts) are arguments of the compiled functions: hypothesis may draw as many as it likes.
"""

import dataclasses
from functools import cache, cached_property

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from hippodrome.memory import S4D, S5, Mamba, Mamba2, Mamba3, list_memories, make_memory

T, B, D_IN = 10, 3, 5
CHUNKS = (2, T)

_LAYERS = {
    "S5 layer, all options": lambda: S5(
        d_model=6, d_state=8, blocks=2, conj_sym=False, discretization="bilinear", clip_eigs=True, feedthrough=False,
        learn_initial_state=True,
    ),
    "S5 layer, associative": lambda: S5(
        d_model=D_IN, d_state=8, blocks=2, learn_initial_state=True, method="associative"
    ),
    "S5 layer, stable and polarized": lambda: S5(
        d_model=D_IN, d_state=8, parameterization="stable", polarized=True
    ),
    "S4D layer, real, bilinear": lambda: S4D(d_model=D_IN, d_state=3, eigenvalues="real", discretization="bilinear"),
    "Mamba layer, associative chunks": lambda: Mamba(d_model=4, d_state=3, chunk_size=4, method="associative"),
    "Mamba2 layer, groups": lambda: Mamba2(d_model=8, d_state=3, head_dim=4, groups=2, d_conv=2, chunk_size=4),
    "Mamba3 layer, MIMO": lambda: Mamba3(d_model=4, d_state=6, head_dim=4, mimo_rank=3, chunk_size=4),
}  # fmt: skip
# Small and awkward sizes: chunks and windows that do not divide T, and are shorter than it.
SMALL = {
    "attention": {"num_heads": 3, "window": 3},
    "block_gru": {"num_blocks": 2, "hidden": 3},
    "delta_net": {"num_heads": 2, "chunk_size": 4},
    "gated_delta_net": {"num_heads": 2, "chunk_size": 4},
    "linear_attention": {"num_heads": 2, "chunk_size": 4},
    "longhorn": {"d_state": 3, "chunk_size": 4},
    "lru": {"d_state": 4},
    "mamba": {"d_state": 3, "chunk_size": 4},
    "mamba2": {"d_state": 3, "head_dim": 4, "chunk_size": 4},
    "mamba3": {"d_state": 6, "head_dim": 4, "chunk_size": 4},
    "hybrid": {
        "layers": [
            "mlp",
            {"kind": "parallel", "layers": ["min_gru", {"kind": "attention", "num_heads": 3, "window": 3}]},
        ],
        "residual": "gru",
    },
    "parallel": {"layers": [{"kind": "attention", "num_heads": 3, "window": 3}, {"kind": "lru", "d_state": 4}]},
    "rg_lru": {"num_heads": 2},
    "s4d": {"d_state": 4, "chunk_size": 4},
    "s5": {"d_state": 8},
    "s7": {"d_state": 3, "chunk_size": 4},
}
_OPTIONS = ({}, {"num_layers": 2, "norm": "post", "glu": "full", "final_norm": True, "projection": "always"})


@dataclasses.dataclass(frozen=True)
class Subject:
    """A memory and its functions; calls with one shape compile once."""

    name: str
    memory: object

    @cached_property
    def params(self):
        x, reset = jnp.zeros((T, B, D_IN)), jnp.zeros((T, B), bool)
        variables = jax.jit(self.memory.init)(jax.random.key(1), self.memory.initial_carry((B,)), x, reset)
        return random_like(variables, seed=2, scale=0.2, around=variables)

    @cached_property
    def _programs(self):
        """Values and gradients of both paths, one program each: compiling is most of what the tests cost."""

        def program(run):
            def loss(params, carry, x, reset, weights, carry_weights):
                last, y = run(params, carry, x, reset)
                return weighted_sum(weights, y) + weighted_sum(carry_weights, last), (last, y)

            return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))

        return program(self.memory.apply), program(self._loop)

    def sequence(self, params, carry, x, reset):
        """(carry, y) of the sequence call."""
        if x.shape == (T, B, D_IN) and x.dtype == np.float32:
            return self._programs[0](params, carry, x, reset, *self.zero_weights)[1]
        return self.plain_sequence(params, carry, x, reset)

    def _loop(self, params, carry, x, reset):
        return jax.lax.scan(lambda state, now: self.memory.apply(params, state, *now, method="step"), carry, (x, reset))

    @cached_property
    def plain_sequence(self):
        """The sequence call for other shapes and types, without its gradient."""
        return jax.jit(self.memory.apply)

    def loop(self, params, carry, x, reset):
        """(carry, y) of the loop over `step`."""
        return self._programs[1](params, carry, x, reset, *self.zero_weights)[1]

    def gradient(self, params, carry, x, reset, weights, carry_weights):
        """Gradient of sum(weights * y) + sum(carry weights * last carry) by (params, carry, x)."""
        return self._programs[0](params, carry, x, reset, weights, carry_weights)[0]

    def loop_gradient(self, params, carry, x, reset, weights, carry_weights):
        """The same through the loop over `step`."""
        return self._programs[1](params, carry, x, reset, weights, carry_weights)[0]

    @property
    def zero_weights(self):
        return jnp.zeros(self.output_shape), self.zero_carry

    def carry(self, seed):
        return random_like(self.memory.initial_carry((B,)), seed=seed)

    @property
    def zero_carry(self):
        return self.memory.initial_carry((B,))

    @property
    def output_shape(self):
        return (T, B, self.memory.d_model)


def weighted_sum(weights, values):
    """Sum of weights * values over two pytrees; where the weight is 0 the value is not looked at."""
    terms = jax.tree.map(lambda w, v: jnp.where(w == 0, 0.0, v * w).sum(), weights, values)
    return sum(jax.tree.leaves(terms), start=jnp.zeros(()))


def random_like(tree, *, seed, scale=1.0, around=None):
    """Normal float32 values in the structure of `tree`, added to `around` if given."""
    generator = np.random.default_rng(seed)
    noise = jax.tree.map(lambda leaf: jnp.asarray(scale * generator.normal(size=leaf.shape), jnp.float32), tree)
    return noise if around is None else jax.tree.map(jnp.add, around, noise)


@cache
def subject(name: str) -> Subject:
    """The subject of that name, made once in a session."""
    if name in _LAYERS:
        return Subject(name, _LAYERS[name]())
    kind, option = name.split(" stack ")
    return Subject(name, make_memory(kind, d_model=6, **SMALL.get(kind, {}), **_OPTIONS[int(option)]))


STACKS = [f"{kind} stack 0" for kind in list_memories()] + ["gru stack 1"]
NAMES = [*_LAYERS, *STACKS]


@dataclasses.dataclass(frozen=True)
class Data:
    """One stream: inputs, resets and the seed it came from."""

    x: np.ndarray
    reset: np.ndarray
    seed: int


@st.composite
def streams(draw):
    """Inputs and resets anywhere, none and all included."""
    seed = draw(st.integers(0, 2**16))
    reset = draw(st.lists(st.lists(st.booleans(), min_size=B, max_size=B), min_size=T, max_size=T))
    x = np.random.default_rng(seed).normal(size=(T, B, D_IN)).astype(np.float32)
    return Data(x, np.array(reset), seed)


@st.composite
def chunkings(draw):
    """Lengths out of CHUNKS that sum to T, in any order."""
    lengths = []
    while sum(lengths) < T:
        lengths.append(draw(st.sampled_from([each for each in CHUNKS if each <= T - sum(lengths)])))
    return lengths


def assert_close(got, want, tolerance=1e-5, what=""):
    """Every leaf equal within `tolerance` relative to the largest value of that leaf, and finite."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        label = f"{what}{jax.tree_util.keystr(path)}"
        assert np.isfinite(left).all(), f"{label} is not finite"
        scale = max(np.abs(right).max(initial=0.0), 1e-3)
        difference = np.abs(left - right).max(initial=0.0) / scale
        assert difference <= tolerance, f"{label} differs by {difference:.3g} relative"
