"""GRU, LSTM and NoMemory: against the cells of flax.linen with the same weights, and their initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from hippodrome.memory import GRU, LSTM, NoMemory

pytestmark = pytest.mark.usefixtures("unoptimised")
D, D_IN, B, T = 6, 4, 3, 7


@pytest.fixture
def data():
    x = jax.random.normal(jax.random.key(0), (T, B, D_IN))
    return x, jnp.zeros((T, B), bool)


def perturbed(memory, x, reset):
    params = jax.jit(memory.init)(jax.random.key(1), memory.initial_carry((B,)), x, reset)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + 0.1 * generator.normal(size=leaf.shape).astype(np.float32), params)


def loop(cell, variables, carry, x):
    apply, outputs = jax.jit(cell.apply), []
    for x_t in x:
        carry, y = apply(variables, carry, x_t)
        outputs.append(y)
    return carry, jnp.stack(outputs)


def test_gru_equals_flax_grucell(data):
    memory = GRU(d_model=D)
    params = perturbed(memory, *data)
    p = params["params"]
    W_x, b_x, W_h = (np.split(p[name], 3, axis=-1) for name in ("W_x", "b_x", "W_h"))
    cell = {f"i{gate}": {"kernel": W_x[i], "bias": b_x[i]} for i, gate in enumerate("rzn")}
    cell |= {f"h{gate}": {"kernel": W_h[i]} for i, gate in enumerate("rz")}
    cell["hn"] = {"kernel": W_h[2], "bias": p["c_n"]}
    start = jax.random.normal(jax.random.key(2), (B, D))
    want = loop(nn.GRUCell(D), {"params": cell}, start, data[0])
    got = jax.jit(memory.apply)(params, start, *data)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6)


def test_lstm_equals_flax_lstmcell(data):
    memory = LSTM(d_model=D)
    params = perturbed(memory, *data)
    p = params["params"]
    W_x, b_x, W_h = (np.split(p[name], 4, axis=-1) for name in ("W_x", "b_x", "W_h"))
    cell = {f"i{gate}": {"kernel": W_x[i]} for i, gate in enumerate("ifgo")}
    cell |= {f"h{gate}": {"kernel": W_h[i], "bias": b_x[i]} for i, gate in enumerate("ifgo")}
    start = tuple(jax.random.normal(jax.random.key(i), (B, D)) for i in (2, 3))
    want = loop(nn.OptimizedLSTMCell(D), {"params": cell}, start, data[0])
    got = jax.jit(memory.apply)(params, start, *data)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6), got, want)


def test_recurrent_weights_start_orthogonal_and_the_forget_gate_open(data):
    for memory, gates in ((GRU(d_model=D), 3), (LSTM(d_model=D, forget_bias=2.0), 4)):
        params = jax.jit(memory.init)(jax.random.key(0), memory.initial_carry((B,)), *data)["params"]
        for block in np.split(params["W_h"], gates, axis=1):
            np.testing.assert_allclose(block @ block.T, np.eye(D), atol=1e-5)
    np.testing.assert_array_equal(params["b_x"], np.repeat([0.0, 2.0, 0.0, 0.0], D))


def test_no_memory_forgets_everything(data):
    memory = NoMemory(d_model=D)
    params = jax.jit(memory.init)(jax.random.key(0), (), *data)
    carry, y = memory.apply(params, (), *data)
    assert carry == () and y.shape == (T, B, D)
    np.testing.assert_array_equal(memory.apply(params, (), data[0][::-1], data[1])[1], y[::-1])


@pytest.mark.parametrize("memory", [GRU(d_model=D), LSTM(d_model=D)])
def test_another_input_width_than_at_init_is_refused(memory, data):
    params = jax.jit(memory.init)(jax.random.key(0), memory.initial_carry((B,)), *data)
    with pytest.raises(ValueError, match=r"its last axis must be 4 \(the width at init\)"):
        memory.apply(params, memory.initial_carry((B,)), data[0][..., :2], data[1])


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match=r"GRU\.d_model=0 must be a positive integer"):
        GRU(d_model=0)
    with pytest.raises(ValueError, match=r"LSTM\.forget_bias='1' must be a finite number"):
        LSTM(forget_bias="1")
    with pytest.raises(ValueError, match=r"NoMemory\.d_model=None must be a positive integer"):
        NoMemory(d_model=None)
