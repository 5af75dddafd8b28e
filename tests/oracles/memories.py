"""Every memory step by step in float64 NumPy: `run(module, params, carry, x, reset) -> (carry, y)`.

Parameters come as the nested dictionary under "params". States are complex where the mathematics is; a carry of S5
comes and goes as real then imaginary parts.
"""

import numpy as np


def sigmoid(value):
    return 1.0 / (1.0 + np.exp(-value))


def gelu(value):
    return 0.5 * value * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (value + 0.044715 * value**3)))


def layer_norm(params, value):
    centred = value - value.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return centred / deviation * params["scale"] + params["bias"]


def affine(params, value):
    return value @ params["kernel"] + params["bias"]


def load(reset, new, old):
    """`new` in the rows where reset is True."""
    old = old.copy()
    old[reset] = new
    return old


def s5(module, params, carry, x, reset):
    Lambda_re = np.minimum(params["Lambda_re"], -1e-4) if module.clip_eigs else params["Lambda_re"]
    Lambda = Lambda_re + 1j * params["Lambda_im"]
    B = params["B"][..., 0] + 1j * params["B"][..., 1]
    C = params["C"][..., 0] + 1j * params["C"][..., 1]
    dt = np.exp(params["log_dt"])
    if module.discretization == "zoh":
        A_bar = np.exp(Lambda * dt)
        B_bar = ((A_bar - 1.0) / Lambda)[:, None] * B
    else:
        A_bar = (1.0 + Lambda * dt / 2.0) / (1.0 - Lambda * dt / 2.0)
        B_bar = (dt / (1.0 - Lambda * dt / 2.0))[:, None] * B
    size = len(Lambda)
    state = carry[:, :size] + 1j * carry[:, size:]
    initial = np.zeros(size, complex)
    if module.learn_initial_state:
        initial = params["initial_state"][:size] + 1j * params["initial_state"][size:]
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        state = A_bar * load(reset_t, initial, state) + x_t @ B_bar.T
        y = (2.0 if module.conj_sym else 1.0) * (state @ C.T).real
        outputs.append(y + params["D"] * x_t if module.feedthrough else y)
    return np.concatenate([state.real, state.imag], axis=-1), np.stack(outputs)


def gru(module, params, carry, x, reset):
    width, outputs = module.d_model, []
    x_r, x_z, x_n = (slice(i * width, (i + 1) * width) for i in range(3))
    W_x, b_x, W_h = params["W_x"], params["b_x"], params["W_h"]
    for x_t, reset_t in zip(x, reset, strict=True):
        state = load(reset_t, 0.0, carry)
        r = sigmoid(x_t @ W_x[:, x_r] + b_x[x_r] + state @ W_h[:, x_r])
        z = sigmoid(x_t @ W_x[:, x_z] + b_x[x_z] + state @ W_h[:, x_z])
        n = np.tanh(x_t @ W_x[:, x_n] + b_x[x_n] + r * (state @ W_h[:, x_n] + params["c_n"]))
        carry = (1.0 - z) * n + z * state
        outputs.append(carry)
    return carry, np.stack(outputs)


def lstm(module, params, carry, x, reset):
    width, outputs = module.d_model, []
    cell, hidden = carry
    rows = [slice(i * width, (i + 1) * width) for i in range(4)]
    for x_t, reset_t in zip(x, reset, strict=True):
        cell, hidden = load(reset_t, 0.0, cell), load(reset_t, 0.0, hidden)
        i, f, g, o = (x_t @ params["W_x"][:, r] + params["b_x"][r] + hidden @ params["W_h"][:, r] for r in rows)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return (cell, hidden), np.stack(outputs)


def no_memory(module, params, carry, x, reset):
    return (), affine(params["dense"], x)


def residual_block(module, params, carry, x, reset):
    u = layer_norm(params["normalisation"], x) if module.norm == "pre" else x
    carry, v = run(module.layer, params["layer"], carry, u, reset)
    v = gelu(v) if module.activation == "gelu" else v
    if module.glu == "half":
        v = v * sigmoid(affine(params["gate"], v))
    elif module.glu == "full":
        value, gate = np.split(affine(params["value_and_gate"], v), 2, axis=-1)
        v = value * sigmoid(gate)
    y = x + v
    return carry, layer_norm(params["normalisation"], y) if module.norm == "post" else y


def stack(module, params, carry, x, reset):
    y = affine(params["project"], x) if "project" in params else x
    carries = []
    for index, layer in enumerate(module.layers):
        layer_carry, y = run(layer, params[f"layers_{index}"], carry[index], y, reset)
        carries.append(layer_carry)
    return tuple(carries), layer_norm(params["normalisation"], y) if module.final_norm else y


TWINS = {
    "S5": s5,
    "GRU": gru,
    "LSTM": lstm,
    "NoMemory": no_memory,
    "ResidualBlock": residual_block,
    "Stack": stack,
}


def run(module, params, carry, x, reset):
    """The twin of `module` over a whole sequence `x` [T, B, d_in]."""
    return TWINS[type(module).__name__](module, params, carry, x, reset)
