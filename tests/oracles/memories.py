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
    w = params["Lambda_re"]
    Lambda_re = {"direct": w, "exp": -np.exp(w), "stable": -1.0 / (w**2 + 0.5)}[module.parameterization]
    Lambda_re = np.minimum(Lambda_re, -1e-4) if module.clip_eigs else Lambda_re
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
    if module.polarized:
        A_bar[:2] = 1.0, 0.0
        B_bar[:2] = dt[0] * B[0], B[1]
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


def block_gru(module, params, carry, x, reset):
    def norm(scale, value):
        return value / np.sqrt((value**2).mean(-1, keepdims=True) + 1e-4) * scale

    blocks, outputs = module.num_blocks, []
    part = module.d_model // blocks
    for x_t, reset_t in zip(x, reset, strict=True):
        state = load(reset_t, 0.0, carry)
        u = silu(norm(params["scale_u"], state @ params["W_s"] + params["b_s"]))
        columns = []
        for g in range(blocks):
            block = slice(g * part, (g + 1) * part)
            kernel = np.concatenate([params["W_h"][g], params["W_u"][:, block], params["W_x"][:, block]])
            columns.append(np.concatenate([state[:, block], u, x_t], axis=-1) @ kernel + params["b_v"][block])
        v = silu(norm(params["scale_v"], np.concatenate(columns, axis=-1)))
        columns = []
        for g in range(blocks):
            block = slice(g * part, (g + 1) * part)
            r, c, z = np.split(v[:, block] @ params["W_g"][g] + params["b_g"][g], 3, axis=-1)
            z = sigmoid(z - 1.0)
            columns.append(z * np.tanh(sigmoid(r) * c) + (1.0 - z) * state[:, block])
        carry = np.concatenate(columns, axis=-1)
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


def silu(value):
    return value * sigmoid(value)


def softplus(value):
    return np.logaddexp(0.0, value)


def rms_norm(params, value):
    return value / np.sqrt((value**2).mean(-1, keepdims=True) + 1e-5) * params["scale"]


def heads(value, count):
    return value.reshape(*value.shape[:-1], count, -1)


def convolve(params, window, x_t, reset_t):
    """One step of the short convolution: (next window, output)."""
    window = np.concatenate([load(reset_t, 0.0, window), x_t[:, None]], axis=1)
    return window[:, 1:], params["bias"] + (params["kernel"] * window).sum(1)


def discretise(A, dt, rule):
    """A_bar and B_bar / B."""
    if rule == "zoh":
        return np.exp(A * dt), (np.exp(A * dt) - 1.0) / A
    return (1.0 + A * dt / 2.0) / (1.0 - A * dt / 2.0), dt / (1.0 - A * dt / 2.0)


def s4d(module, params, carry, x, reset):
    A, dt = -np.exp(params["A_log"]), np.exp(params["log_dt"])[:, None]
    real = module.eigenvalues == "real"
    C = params["C"] if real else 2.0 * (params["C"][..., 0] + 1j * params["C"][..., 1])
    A = A if real else A + 1j * params["A_im"]
    A_bar, scale = discretise(A, dt, module.discretization)
    size = A.shape[-1]
    state = carry if real else carry[..., :size] + 1j * carry[..., size:]
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        state = A_bar * load(reset_t, 0.0, state) + x_t[..., None]
        outputs.append((C * scale * state).sum(-1).real + params["D"] * x_t)
    carry = state if real else np.concatenate([state.real, state.imag], axis=-1)
    return carry, np.stack(outputs)


def lru(module, params, carry, x, reset):
    size = module.d_state
    decay = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    B = params["B_in"][:, :size] + 1j * params["B_in"][:, size:]
    C = params["C_out"][:size] + 1j * params["C_out"][size:]
    state, outputs = carry[:, :size] + 1j * carry[:, size:], []
    for x_t, reset_t in zip(x, reset, strict=True):
        state = decay * load(reset_t, 0.0, state) + np.exp(params["gamma_log"]) * (x_t @ B)
        outputs.append((state @ C).real + params["D"] * x_t)
    return np.concatenate([state.real, state.imag], axis=-1), np.stack(outputs)


def min_gru(module, params, carry, x, reset):
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        gate, candidate = np.split(affine(params["gate_and_candidate"], x_t), 2, axis=-1)
        z = sigmoid(gate)
        carry = (1.0 - z) * load(reset_t, 0.0, carry) + z * candidate
        outputs.append(carry)
    return carry, np.stack(outputs)


def rg_lru(module, params, carry, x, reset):
    (window, state), outputs = carry, []
    for x_t, reset_t in zip(x, reset, strict=True):
        u, gate = np.split(affine(params["in_proj"], x_t), 2, axis=-1)
        window, u = convolve(params["conv"], window, u, reset_t)
        blocks = heads(u, module.num_heads)
        r, i = (
            sigmoid(np.einsum("bhi,hij->bhj", blocks, kernel).reshape(u.shape) + bias)
            for kernel, bias in zip(params["gate_kernel"], params["gate_bias"], strict=True)
        )
        a = np.exp(-8.0 * softplus(params["decay_logit"]) * r)
        factor = np.where(reset_t[:, None], 1.0, np.sqrt(1.0 - a**2))
        state = a * load(reset_t, 0.0, state) + factor * i * u
        outputs.append(affine(params["out_proj"], state * gelu(gate)))
    return (window, state), np.stack(outputs)


def s7(module, params, carry, x, reset):
    size, outputs = module.d_state, []
    for x_t, reset_t in zip(x, reset, strict=True):
        A, bias, D = np.split(x_t @ params["to_vectors"], [size, 2 * size], axis=-1)
        B = np.einsum("bi,inj->bnj", x_t, params["to_B"])
        C = np.einsum("bi,inj->bjn", x_t, params["to_C"])
        a = 1.0 - 1.0 / ((params["decay_base"] + A) ** 2 + 0.5)
        carry = a * load(reset_t, 0.0, carry) + (B @ x_t[..., None])[..., 0] + bias
        y = (C @ carry[..., None])[..., 0] + D * x_t
        outputs.append(y * sigmoid(affine(params["gate"], gelu(y))))
    return carry, np.stack(outputs)


def selective(module, params, carry, x, reset, update):
    """The block of Mamba and Longhorn around `update(r, u, first, second, state) -> (state, y)`."""
    (window, state), outputs = carry, []
    rank, size = module.rank, module.d_state
    for x_t, reset_t in zip(x, reset, strict=True):
        u, z = np.split(x_t @ params["in_proj"]["kernel"], 2, axis=-1)
        window, u = convolve(params["conv"], window, u, reset_t)
        u = silu(u)
        r, first, second = np.split(u @ params["x_proj"]["kernel"], [rank, rank + size], axis=-1)
        step = r @ params["dt_kernel"] + params["dt_bias"]
        state, y = update(step, u, first[:, None, :], second[:, None, :], load(reset_t, 0.0, state).swapaxes(1, 2))
        state = state.swapaxes(1, 2)
        outputs.append(((y + params["D_skip"] * u) * silu(z)) @ params["out_proj"]["kernel"])
    return (window, state), np.stack(outputs)


def mamba(module, params, carry, x, reset):
    def update(step, u, B, C, state):
        dt = softplus(step)[..., None]
        state = np.exp(-dt * np.exp(params["A_log"])) * state + dt * B * u[..., None]
        return state, (state * C).sum(-1)

    return selective(module, params, carry, x, reset, update)


def longhorn(module, params, carry, x, reset):
    def update(step, u, k, q, state):
        beta = sigmoid(step)
        delta = (beta / (1.0 + beta * (k**2).sum(-1)))[..., None]
        state = (1.0 - delta * k**2) * state + delta * u[..., None] * k
        return state, (state * q).sum(-1)

    return selective(module, params, carry, x, reset, update)


def mamba2(module, params, carry, x, reset):
    (window, state), outputs = carry, []
    inner, keys, per_group = module.d_inner, module.groups * module.d_state, module.num_heads // module.groups
    for x_t, reset_t in zip(x, reset, strict=True):
        projected = x_t @ params["in_proj"]["kernel"]
        z, u, dt = np.split(projected, [inner, 2 * inner + 2 * keys], axis=-1)
        window, u = convolve(params["conv"], window, u, reset_t)
        u, B, C = np.split(silu(u), [inner, inner + keys], axis=-1)
        u = heads(u, module.num_heads)
        B, C = (np.repeat(heads(each, module.groups), per_group, axis=1) for each in (B, C))
        dt = softplus(dt + params["dt_bias"])
        a = np.exp(-dt * np.exp(params["A_log"]))[..., None, None]
        state = a * load(reset_t, 0.0, state) + np.einsum("bh,bhn,bhp->bhnp", dt, B, u)
        y = np.einsum("bhn,bhnp->bhp", C, state) + params["D_skip"][:, None] * u
        y = y.reshape(z.shape) * silu(z)
        outputs.append(rms_norm(params["normalisation"], y) @ params["out_proj"]["kernel"])
    return (window, state), np.stack(outputs)


def mamba3(module, params, carry, x, reset):
    count, rank, inner, pairs = module.num_heads, module.mimo_rank, module.d_inner, module.num_angles
    keys, ones = rank * module.d_state, np.ones((count, rank, module.head_dim))
    mimo_x, mimo_z, mimo_o = (params.get(name, ones) for name in ("mimo_x", "mimo_z", "mimo_o"))

    def turned(value, angle):
        pair = value[..., : 2 * pairs : 2] + 1j * value[..., 1 : 2 * pairs : 2]
        pair = pair * np.exp(1j * angle)[:, :, None]
        value = value.copy()
        value[..., : 2 * pairs : 2], value[..., 1 : 2 * pairs : 2] = pair.real, pair.imag
        return value

    def prepared(name, value):
        value = rms_norm(params[f"{name}_norm"], heads(value, rank))
        return value[:, None] + params[f"{name}_bias"]

    def written(B, u):
        return np.einsum("bhrn,hrp,bhp->bhnp", B, mimo_x, u)

    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        angle, state, B_before, u_before = (load(reset_t, 0.0, each) for each in carry)
        widths = np.cumsum([inner, inner, keys, keys, count, count, count])
        z, u, B, C, dt, A, s, theta = np.split(x_t @ params["in_proj"]["kernel"], widths, axis=-1)
        z, u = heads(z, count), heads(u, count)
        dt, s = softplus(dt + params["dt_bias"]), sigmoid(s)
        A = -np.maximum(np.where(A > 0, 1.0 + A, 1.0 / (1.0 + np.abs(A))), 1e-4)
        angle = (angle + np.pi * np.tanh(theta)[:, None] * dt[..., None]) % (2.0 * np.pi)
        B, C = turned(prepared("B", B), angle), turned(prepared("C", C), angle)
        alpha = np.exp(A * dt)
        beta, gamma = ((1.0 - s) * dt * alpha), s * dt
        alpha, beta, gamma = (each[..., None, None] for each in (alpha, beta, gamma))
        state = alpha * state + beta * written(B_before, u_before) + gamma * written(B, u)
        y = np.einsum("bhrn,bhnp->bhrp", C, state) + params["D_skip"][:, None, None] * u[:, :, None] * mimo_x
        y = (y * silu(z[:, :, None] * mimo_z) * mimo_o).sum(2)
        outputs.append(y.reshape(len(y), -1) @ params["out_proj"]["kernel"])
        carry = (angle, state, B, u)
    return carry, np.stack(outputs)


def linear_attention(module, params, carry, x, reset):
    outputs = []
    for x_t, reset_t in zip(x, reset, strict=True):
        q, k, v = (heads(each, module.num_heads) for each in np.split(x_t @ params["qkv"]["kernel"], 3, axis=-1))
        q, k = (np.where(each > 0, each + 1.0, np.exp(np.minimum(each, 0.0))) for each in (q, k))
        carry = load(reset_t, 0.0, carry)
        carry[..., :-1] += k[..., :, None] * v[..., None, :]
        carry[..., -1] += k
        y = np.einsum("bhn,bhnm->bhm", q, carry[..., :-1]) / ((q * carry[..., -1]).sum(-1)[..., None] + 1e-6)
        outputs.append(affine(params["out_proj"], y.reshape(len(y), -1)))
    return carry, np.stack(outputs)


def delta_net(module, params, carry, x, reset):
    (window, state), outputs = carry, []
    for x_t, reset_t in zip(x, reset, strict=True):
        window, qkv = convolve(params["conv"], window, x_t @ params["qkv"]["kernel"], reset_t)
        q, k, v = (heads(each, module.num_heads) for each in np.split(silu(qkv), 3, axis=-1))
        q, k = (each / np.sqrt((each**2).sum(-1, keepdims=True) + 1e-6) for each in (q, k))
        beta = sigmoid(x_t @ params["beta"]["kernel"])[..., None, None]
        state = load(reset_t, 0.0, state)
        if module.gated:
            rate = softplus(x_t @ params["decay"]["kernel"] + params["dt_bias"])
            state = np.exp(-np.exp(params["A_log"]) * rate)[..., None, None] * state
        # S (I - beta k k^T) + beta v k^T, with S as values by keys.
        erase = np.eye(k.shape[-1]) - beta * k[..., :, None] * k[..., None, :]
        state = erase @ state + beta * k[..., :, None] * v[..., None, :]
        y = np.einsum("bhn,bhnm->bhm", q / np.sqrt(q.shape[-1]), state)
        y = rms_norm(params["normalisation"], y)
        if module.gated:
            y = y * silu(heads(x_t @ params["gate"]["kernel"], module.num_heads))
        outputs.append(y.reshape(len(y), -1) @ params["out_proj"]["kernel"])
    return (window, state), np.stack(outputs)


def attention(module, params, carry, x, reset):
    outputs, width = [], module.d_model // module.num_heads
    frequencies = 10_000.0 ** (-np.arange(0, width, 2) / width)

    def placed(value, position):
        pair = (value[..., ::2] + 1j * value[..., 1::2]) * np.exp(1j * position * frequencies)
        return np.stack([pair.real, pair.imag], axis=-1).reshape(value.shape)

    for x_t, reset_t in zip(x, reset, strict=True):
        past_k, past_v, held = (load(reset_t, 0.0, each) for each in carry)
        q, k, v = (heads(each, module.num_heads) for each in np.split(x_t @ params["qkv"]["kernel"], 3, axis=-1))
        past_k, past_v = (np.concatenate([old, new[:, None]], axis=1) for old, new in ((past_k, k), (past_v, v)))
        held = np.concatenate([held > 0.5, np.ones((len(held), 1), bool)], axis=1)
        past_k, past_v = (np.where(held[..., None, None], each, 0.0) for each in (past_k, past_v))
        y = np.zeros_like(q)
        for b, h in np.ndindex(q.shape[:2]):
            entries = np.flatnonzero(held[b])
            # Positions count from the oldest entry; only their distances matter.
            scores = [placed(q[b, h], entries[-1]) @ placed(past_k[b, j, h], j) / np.sqrt(width) for j in entries]
            weights = np.exp(scores - np.max(scores))
            y[b, h] = (weights / weights.sum()) @ past_v[b, entries, h]
        carry = (past_k[:, 1:], past_v[:, 1:], held[:, 1:].astype(float))
        outputs.append(y.reshape(len(y), -1) @ params["out_proj"]["kernel"])
    return carry, np.stack(outputs)


def mlp(module, params, carry, x, reset):
    gate, value = np.split(x @ params["gate_and_value"]["kernel"], 2, axis=-1)
    return (), (silu(gate) * value) @ params["out_proj"]["kernel"]


def parallel(module, params, carry, x, reset):
    carries, total = [], 0.0
    for index, layer in enumerate(module.layers):
        last, y = run(layer, params[f"layers_{index}"], carry[index], x, reset)
        carries.append(last)
        total = total + rms_norm(params[f"normalisations_{index}"], y)
    return tuple(carries), total / len(module.layers)


def gru_gate(params, x, w):
    r_w, z_w, h_w = np.split(w @ params["from_layer"]["kernel"], 3, axis=-1)
    r_x, z_x = np.split(x @ params["from_stream"]["kernel"], 2, axis=-1)
    z = sigmoid(z_w + z_x - params["bias"])
    h = np.tanh(h_w + (sigmoid(r_w + r_x) * x) @ params["candidate"]["kernel"])
    return (1.0 - z) * x + z * h


def residual_block(module, params, carry, x, reset):
    u = layer_norm(params["normalisation"], x) if module.norm == "pre" else x
    carry, v = run(module.layer, params["layer"], carry, u, reset)
    v = gelu(v) if module.activation == "gelu" else v
    if module.glu == "half":
        v = v * sigmoid(affine(params["gate"], v))
    elif module.glu == "full":
        value, gate = np.split(affine(params["value_and_gate"], v), 2, axis=-1)
        v = value * sigmoid(gate)
    if module.residual == "none":
        y = v
    else:
        y = gru_gate(params["residual_gate"], x, v) if module.residual == "gru" else x + v
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
    "BlockGRU": block_gru,
    "GRU": gru,
    "LSTM": lstm,
    "NoMemory": no_memory,
    "MLP": mlp,
    "Parallel": parallel,
    "S4D": s4d,
    "LRU": lru,
    "MinGRU": min_gru,
    "RGLRU": rg_lru,
    "S7": s7,
    "Mamba": mamba,
    "Longhorn": longhorn,
    "Mamba2": mamba2,
    "Mamba3": mamba3,
    "LinearAttention": linear_attention,
    "DeltaNet": delta_net,
    "GatedDeltaNet": delta_net,
    "SlidingWindowAttention": attention,
    "ResidualBlock": residual_block,
    "Stack": stack,
}


def run(module, params, carry, x, reset):
    """The twin of `module` over a whole sequence `x` [T, B, d_in]."""
    return TWINS[type(module).__name__](module, params, carry, x, reset)
