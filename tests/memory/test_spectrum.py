"""Eigenvalues against equations written out by hand, and the gradient by lag against C A^lag B.

Legend: T steps, B batch, H d_model, P states.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hippodrome.memory import (
    LRU,
    RGLRU,
    S4D,
    S5,
    S7,
    GatedDeltaNet,
    Longhorn,
    Mamba,
    Mamba2,
    Mamba3,
    MinGRU,
    list_memories,
    make_memory,
)
from hippodrome.memory.horizon import lag_at_mass, memory_horizon
from hippodrome.memory.spectrum import (
    CONSTANT,
    carry_size,
    decay,
    has_decay,
    layer_decays,
    memory_layers,
    missing_decay,
)
from tests.memory.subjects import SMALL

T, B, H = 9, 2, 4

pytestmark = pytest.mark.usefixtures("unoptimised")


RESET = np.zeros((T, B), bool)
RESET[0], RESET[4, 1] = True, True


def drawn(memory):
    """Parameters of a memory, moved off their initial values, and inputs `[T, B, H]`."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (T, B, H))
    params = memory.init(keys[1], memory.initial_carry((B,)), x, jnp.asarray(RESET))
    noise = iter(jax.random.split(keys[2], len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape), params), x


def prepared(memory):
    """(parameters, inputs, resets), see `drawn`."""
    return *jax.jit(lambda: drawn(memory))(), jnp.asarray(RESET)


def float64(params):
    return {name: np.asarray(leaf, np.float64) for name, leaf in params["params"].items()}


def decays(memory, params, x, reset):
    return jax.jit(lambda *each: layer_decays(memory, *each))(params, x, reset)


def observed(memory):
    """(eigenvalues `[T, B, n]` of a lone layer, its parameters, inputs), all NumPy."""
    params, x, reset = prepared(memory)
    return jax.tree.map(np.asarray, (decays(memory, params, x, reset)[""], params["params"], x))


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def softplus(value):
    return np.log1p(np.exp(value))


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_s5_and_s4d_have_their_discretised_eigenvalues(rule):
    memory = S5(d_model=H, d_state=6, discretization=rule)
    params, x, reset = prepared(memory)
    p = float64(params)
    z = (p["Lambda_re"] + 1j * p["Lambda_im"]) * np.exp(p["log_dt"])
    expected = np.exp(z) if rule == "zoh" else (1 + z / 2) / (1 - z / 2)
    np.testing.assert_allclose(decays(memory, params, x, reset)[""], expected, rtol=1e-6)

    memory = S4D(d_model=H, d_state=6, discretization=rule, eigenvalues="lin" if rule == "zoh" else "real")
    params, x, reset = prepared(memory)
    p = float64(params)
    z = (-np.exp(p["A_log"]) + 1j * p.get("A_im", 0)) * np.exp(p["log_dt"])[:, None]
    expected = np.exp(z) if rule == "zoh" else (1 + z / 2) / (1 - z / 2)
    np.testing.assert_allclose(decays(memory, params, x, reset)[""], expected.reshape(-1), rtol=2e-6)


def test_lru_has_the_eigenvalues_of_its_parameters():
    memory = LRU(d_model=H, d_state=5)
    params, x, reset = prepared(memory)
    p = float64(params)
    expected = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    np.testing.assert_allclose(decays(memory, params, x, reset)[""], expected, rtol=1e-6)


def test_observed_decays_are_the_equations_of_the_gates():
    def expect(found, expected):
        np.testing.assert_allclose(found[~RESET], expected[~RESET], rtol=1e-5)

    found, p, x = observed(MinGRU(d_model=H))
    gate_and_candidate = x @ p["gate_and_candidate"]["kernel"] + p["gate_and_candidate"]["bias"]
    expect(found, 1 - sigmoid(gate_and_candidate[..., :H]))

    found, p, x = observed(S7(d_model=H, d_state=3))
    expect(found, 1 - 1 / ((p["decay_base"] + x @ p["to_vectors"][:, :3]) ** 2 + 0.5))

    found, p, x = observed(GatedDeltaNet(d_model=H, num_heads=2))
    expect(found, np.exp(-np.exp(p["A_log"]) * softplus(x @ p["decay"]["kernel"] + p["dt_bias"])))

    found, p, x = observed(Mamba2(d_model=H, d_state=3, head_dim=4))
    expect(found, np.exp(-np.exp(p["A_log"]) * softplus((x @ p["in_proj"]["kernel"])[..., -2:] + p["dt_bias"])))


def test_mamba3_decays_by_its_step_and_turns_by_its_angle():
    found, p, x = observed(Mamba3(d_model=H, d_state=8, head_dim=4))
    # The last columns of the projection, for 2 heads: dt, A, s, and the angles of 2 pairs.
    dt, A, _, theta = np.split((x @ p["in_proj"]["kernel"])[..., -8:], [2, 4, 6], axis=-1)
    dt = softplus(dt + p["dt_bias"])
    size = np.exp(-np.where(A < 0, 1 / (1 - A), 1 + A) * dt)[..., None]
    turn = np.pi * np.tanh(theta)[..., None, :] * dt[..., None]
    expected = np.concatenate([size * np.exp(1j * turn), size], axis=-1).reshape(T, B, -1)
    np.testing.assert_allclose(found[~RESET], expected[~RESET], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "memory", [Mamba(d_model=H, d_state=3), Longhorn(d_model=H, d_state=3), RGLRU(d_model=H, num_heads=2)]
)
def test_decays_behind_a_convolution_are_what_the_state_is_multiplied_with(memory):
    found, params, x = observed(memory)
    step = jax.jit(lambda carry, x, reset: memory.apply({"params": params}, carry, x, reset, method="step")[0])
    # Two carries that differ in the state alone differ, one step on, by the decay times their difference.
    carry = memory.initial_carry((B,))
    for t in range(3):
        after = step(carry, x[t], RESET[t])
        other = step((carry[0], carry[1] + 2.0), x[t], RESET[t])
        if t:
            expected = (other[1] - after[1]).reshape(B, -1) / 2.0
            np.testing.assert_allclose(found[t], expected, rtol=1e-4, atol=1e-6)
        carry = after


def test_every_memory_tells_its_layers_their_size_and_eigenvalues_or_why_not():
    for kind in list_memories():
        memory = make_memory(kind, d_model=6, **SMALL.get(kind, {}))
        layers = memory_layers(memory)
        params, x = jax.eval_shape(lambda memory=memory: drawn(memory))
        found = jax.eval_shape(lambda *each, memory=memory: layer_decays(memory, *each), params, x, jnp.asarray(RESET))
        assert set(found) == {name for name, layer in layers.items() if has_decay(layer)}
        for name, layer in layers.items():
            branch = params["params"]
            for part in name.split("/"):
                branch = branch[part]
            if name not in found:
                assert "not known" not in missing_decay(layer), kind
            else:
                assert found[name].shape[:-1] == (() if isinstance(layer, CONSTANT) else (T, B))
        leaves = jax.tree.leaves(memory.initial_carry((1,)))
        assert sum(carry_size(layer)[0] for layer in layers.values()) == sum(leaf.size for leaf in leaves)
        assert carry_size(memory)[1] == 4 * carry_size(memory)[0]


def test_layers_are_found_in_stacks_and_side_by_side():
    memory = make_memory("hybrid", layers=["s5", {"kind": "parallel", "layers": ["lru", "gru"]}], d_model=8)
    assert list(memory_layers(memory)) == ["layers_0/layer", "layers_1/layer/layers_0", "layers_1/layer/layers_1"]
    params, x, reset = prepared(memory)
    found = decays(memory, params, x, reset)
    assert set(found) == {"layers_0/layer", "layers_1/layer/layers_0"}
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params["params"]["layers_1"]["layer"]["layers_0"].items()}
    expected = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    np.testing.assert_allclose(found["layers_1/layer/layers_0"], expected, rtol=1e-6)
    assert carry_size(memory_layers(memory)["layers_0/layer"]) == (64, 256)
    assert carry_size(S5(d_model=8, d_state=6, conj_sym=False)) == (12, 48)


class Leaky(nn.Module):
    """h[t] = .5 h[t-1] + x[t], y = h; where `forgets` is False, resets are not heeded."""

    d_model: int = 1
    forgets: bool = True

    def initial_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.d_model))

    def __call__(self, carry, x, reset):
        return jax.lax.scan(lambda carry, now: self.step(carry, *now), carry, (x, reset))

    def step(self, carry, x, reset):
        kept = jnp.where(reset[..., None] & self.forgets, 0.0, carry)
        return (0.5 * kept + x,) * 2


def test_a_layer_of_ones_own_joins_by_its_class():
    x, reset = jnp.ones((T, B, 1)), jnp.zeros((T, B), bool)
    assert not has_decay(Leaky()) and "decay.register" in missing_decay(Leaky())
    assert layer_decays(Leaky(), {"params": {}}, x, reset) == {}
    decay.register(Leaky, lambda _, step, carry: jax.jvp(step, (carry,), (jnp.ones_like(carry),))[1] + 0j)
    np.testing.assert_array_equal(layer_decays(Leaky(), {"params": {}}, x, reset)[""], np.full((T, B, 1), 0.5))


def horizon(memory, params, x, reset, lags, num_probes=4):
    run = jax.jit(lambda *each: memory_horizon(memory, *each, lags=lags, num_probes=num_probes))
    gradient, samples = run(params, x, reset, jax.random.key(5))
    return np.asarray(gradient), np.asarray(samples)


def test_the_gradient_of_an_s5_layer_by_lag_is_c_a_to_the_lag_b():
    memory, lags = S5(d_model=1, d_state=6), 5
    x = jax.random.normal(jax.random.key(0), (2 * lags, 3, 1))
    reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
    params = jax.jit(memory.init)(jax.random.key(1), memory.initial_carry((3,)), x, reset)
    p = float64(params)
    eigenvalues = p["Lambda_re"] + 1j * p["Lambda_im"]
    A = np.exp(eigenvalues * np.exp(p["log_dt"]))
    B_bar = (A - 1) / eigenvalues * (p["B"][:, 0, 0] + 1j * p["B"][:, 0, 1])
    C = p["C"][0, :, 0] + 1j * p["C"][0, :, 1]
    expected = np.array([2 * (C * A**lag * B_bar).sum().real for lag in range(lags + 1)])
    expected[0] += p["D"][0]
    gradient, samples = horizon(memory, params, x, reset, lags)
    # One output: a random sign drops out of the norm, and every sample is the same.
    np.testing.assert_allclose(gradient, np.abs(expected), rtol=1e-4)
    np.testing.assert_array_equal(samples, np.full(lags + 1, 4 * 3))


def test_random_cotangents_estimate_the_frobenius_norm():
    memory, lags = LRU(d_model=3, d_state=4), 4
    x = jax.random.normal(jax.random.key(0), (2 * lags, 8, 3))
    reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
    params = jax.jit(memory.init)(jax.random.key(1), memory.initial_carry((8,)), x, reset)

    def outputs(one):
        return memory.apply(params, memory.initial_carry((1,)), one[:, None], reset[:, :1])[1]

    jacobian = np.asarray(jax.jit(jax.jacrev(outputs))(x[:, 0]))[:, 0]  # [T, H, T, H]
    expected = [np.linalg.norm(jacobian[-1, :, -1 - lag]) for lag in range(lags + 1)]
    gradient, _ = horizon(memory, params, x, reset, lags, num_probes=128)
    # 1,024 samples whose squares vary by about their mean: a standard error of 2 %.
    np.testing.assert_allclose(gradient, expected, rtol=0.08)


@pytest.mark.parametrize("forgets", [True, False])
def test_no_lag_crosses_an_episode_start(forgets):
    """The same for a memory that does not heed resets: what lies before is left out, not only zero."""
    num_steps, lags = 40, 8
    reset = jnp.zeros((num_steps, 3), bool).at[::4].set(True)
    gradient, samples = horizon(Leaky(forgets=forgets), {"params": {}}, jnp.ones((num_steps, 3, 1)), reset, lags, 16)
    np.testing.assert_allclose(gradient[:4], 0.5 ** np.arange(4), rtol=1e-6)
    assert np.isnan(gradient[4:]).all() and (samples[4:] == 0).all()
    # Every step of an episode is as likely: all have a lag 0, a quarter a lag 3.
    assert samples[0] == 48 and 0 < samples[3] < samples[2] < samples[1] < 48


def test_a_memory_of_nothing_has_a_horizon_of_zero():
    memory = make_memory("none", d_model=H)
    params, x, reset = prepared(memory)
    gradient, _ = horizon(memory, params, x, reset, 3)
    assert gradient[0] > 0 and (gradient[1:] == 0).all()
    assert [lag_at_mass(gradient, share) for share in (0.5, 0.9, 0.99)] == [0, 0, 0]


def test_lag_at_mass_by_hand():
    gradient = np.array([4.0, 3.0, 2.0, 1.0, np.nan])
    assert [lag_at_mass(gradient, share) for share in (0.4, 0.5, 0.9, 0.99, 1.0)] == [0, 1, 2, 3, 3]
    assert lag_at_mass(np.array([0.0, np.nan]), 0.5) is None
    assert lag_at_mass(np.array([1.0, np.inf]), 0.5) is None
