"""S5: its initialisation against the published facts, its discretisation, its options and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from hippodrome.memory import S5
from hippodrome.memory.inits import hippo_blocks, hippo_legs, hippo_normal_eigen, perturbed_hippo

pytestmark = pytest.mark.usefixtures("unoptimised")


def params_of(memory, d_in=None, seed=0):
    x = jnp.zeros((1, 1, memory.d_model if d_in is None else d_in))
    carry = memory.initial_carry((1,))
    return jax.jit(memory.init)(jax.random.key(seed), carry, x, jnp.zeros((1, 1), bool))["params"]


def run(memory, params, x, reset=None, carry=None):
    x = jnp.asarray(x, jnp.float32)[:, None]
    reset = jnp.zeros(x.shape[:2], bool) if reset is None else jnp.asarray(reset)[:, None]
    carry = memory.initial_carry((1,)) if carry is None else carry
    carry, y = jax.jit(memory.apply)({"params": params}, carry, x, reset)
    return carry[0], y[:, 0]


def test_hippo_legs_by_hand():
    root = np.sqrt
    np.testing.assert_allclose(hippo_legs(3), [[-1, 0, 0], [-root(3), -2, 0], [-root(5), -root(15), -3]], rtol=1e-15)


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_eigenvectors_diagonalise_the_normal_part_of_hippo(size):
    eigenvalues, V = hippo_normal_eigen(size)
    p = np.sqrt(np.arange(size) + 0.5)
    np.testing.assert_allclose(V @ np.diag(eigenvalues) @ V.conj().T - np.outer(p, p), hippo_legs(size), atol=1e-9)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(size), atol=1e-12)
    np.testing.assert_array_equal(eigenvalues.real, -0.5)


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("conj_sym", [True, False])
def test_blocks_are_copies_of_one_hippo_matrix_on_a_diagonal(blocks, conj_sym):
    eigenvalues, V = hippo_blocks(16, blocks, conj_sym)
    size, kept = 16 // blocks, 16 // blocks // (2 if conj_sym else 1)
    whole, vectors = hippo_normal_eigen(size)
    np.testing.assert_array_equal(eigenvalues.reshape(blocks, kept), np.broadcast_to(whole[:kept], (blocks, kept)))
    np.testing.assert_array_equal(V, linalg.block_diag(*[vectors[:, :kept]] * blocks))
    memory = S5(d_model=3, d_state=16, blocks=blocks, conj_sym=conj_sym)
    assert memory.initial_carry(()).shape == (2 * eigenvalues.size,)


def test_conjugate_symmetry_keeps_one_of_each_pair():
    kept, whole = (hippo_blocks(32, 1, conj_sym)[0] for conj_sym in (True, False))
    both = np.concatenate([kept, kept.conj()])
    np.testing.assert_allclose(np.sort_complex(both), np.sort_complex(whole), atol=1e-10)
    assert (kept.imag < 0).all()


def test_initial_scales_are_the_published_ones():
    params = params_of(S5(d_model=256, d_state=256))
    np.testing.assert_array_equal(params["Lambda_re"], -0.5)
    # lecun over the whole state: 256 ** -0.5 = .0625 per real part, not its square .0039; V is unitary and keeps it.
    assert np.std(params["C"]) == pytest.approx(0.0625, rel=0.02)
    # V^-1 keeps half of the conjugate pairs: half the energy of B [256, H] in 128 complex rows, so half per part.
    assert np.std(params["B"]) == pytest.approx(0.0625 * 0.5**0.5, rel=0.02)
    assert np.std(params["D"]) == pytest.approx(1.0, rel=0.15)
    dt = np.exp(params["log_dt"])
    assert dt.min() >= 1e-3 * (1 - 1e-5) and dt.max() <= 0.1 * (1 + 1e-5)
    assert np.mean(params["log_dt"]) == pytest.approx(np.log(1e-2), abs=0.4)
    assert params["log_dt"].shape == (128,)


def test_truncated_c_has_no_outliers_before_it_meets_v():
    # C V with V unitary: back in the original basis every part is cut at two (rescaled) standard deviations.
    params = params_of(S5(d_model=64, d_state=64, conj_sym=False))
    C = (params["C"][..., 0] + 1j * params["C"][..., 1]) @ hippo_blocks(64, 1, False)[1].conj().T
    assert max(np.abs(C.real).max(), np.abs(C.imag).max()) <= 2.0 / 0.8796 / 8.0 + 1e-4


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@pytest.mark.parametrize("conj_sym", [True, False])
def test_impulse_response_is_the_discretised_system(discretization, conj_sym):
    memory = S5(d_model=2, d_state=8, conj_sym=conj_sym, discretization=discretization)
    params = params_of(memory)
    Lambda = np.complex128(params["Lambda_re"] + 1j * params["Lambda_im"])
    B, C = (np.complex128(params[name][..., 0] + 1j * params[name][..., 1]) for name in "BC")
    A_bar, B_bar = [], []
    for eigenvalue, row, dt in zip(Lambda, B, np.exp(np.float64(params["log_dt"])), strict=True):
        if (
            discretization == "zoh"
        ):  # one matrix exponential holds both: exp [[L, B], [0, 0]] dt = [[A_bar, B_bar], ...]
            block = np.zeros((3, 3), complex)
            block[0, 0], block[0, 1:] = eigenvalue * dt, row * dt
            block = linalg.expm(block)
            A_bar.append(block[0, 0])
            B_bar.append(block[0, 1:])
        else:
            A_bar.append((1 + eigenvalue * dt / 2) / (1 - eigenvalue * dt / 2))
            B_bar.append(dt * row / (1 - eigenvalue * dt / 2))
    A_bar, B_bar = np.array(A_bar), np.array(B_bar)
    impulse = np.zeros((6, 2))
    impulse[0, 1] = 1.0
    y = run(memory, params, impulse)[1]
    factor = 2.0 if conj_sym else 1.0
    want = np.stack([factor * (C @ (A_bar**t * B_bar[:, 1])).real for t in range(6)])
    want[0, 1] += params["D"][1]
    np.testing.assert_allclose(y, want, atol=2e-6)


def test_conjugate_pairs_give_the_same_layer_as_the_full_state():
    half, full = (S5(d_model=2, d_state=8, conj_sym=conj_sym) for conj_sym in (True, False))
    params = params_of(half)
    double = dict(params)
    for name, sign in {"Lambda_re": 1, "Lambda_im": -1, "log_dt": 1}.items():
        double[name] = np.concatenate([params[name], sign * params[name]])
    mirrored = np.array([1.0, -1.0])
    double["B"] = np.concatenate([params["B"], params["B"] * mirrored])
    double["C"] = np.concatenate([params["C"], params["C"] * mirrored], axis=1)
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(run(half, params, x)[1], run(full, double, x)[1], rtol=1e-4, atol=1e-5)


def test_a_learned_initial_state_enters_at_every_reset_and_learns():
    memory = S5(d_model=3, d_state=4, learn_initial_state=True)
    params = params_of(memory)
    assert not params["initial_state"].any()
    params = params | {"initial_state": jnp.array([1.0, -2.0, 0.5, 3.0])}
    x, reset = np.zeros((6, 3)), np.array([True, False, False, True, False, False])
    y = run(memory, params, x, reset)[1]
    assert np.abs(y[0]).max() > 0.1
    np.testing.assert_allclose(y[:3], y[3:], rtol=1e-6)
    from_carry = run(memory, params, x[:3], np.zeros(3, bool), params["initial_state"][None])[1]
    np.testing.assert_allclose(y[:3], from_carry, rtol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(run(memory, p, x, reset)[1]))(params)["initial_state"]
    without_reset = jax.grad(lambda p: jnp.sum(run(memory, p, x)[1]))(params)["initial_state"]
    assert gradient.all() and not without_reset.any()


def test_clip_eigs_keeps_a_grown_eigenvalue_stable():
    grown = params_of(S5(d_model=2, d_state=4)) | {"Lambda_re": jnp.array([0.4, 0.2]), "log_dt": jnp.zeros(2)}
    x = np.ones((400, 2))
    free = run(S5(d_model=2, d_state=4), grown, x)[1]
    clipped = run(S5(d_model=2, d_state=4, clip_eigs=True), grown, x)[1]
    assert not np.isfinite(free).all()
    assert np.isfinite(clipped).all()
    same = run(S5(d_model=2, d_state=4, clip_eigs=True), grown | {"Lambda_re": jnp.full(2, -1e-4)}, x)[1]
    np.testing.assert_array_equal(clipped, same)


def test_without_feedthrough_any_input_width_and_no_d():
    memory = S5(d_model=4, d_state=8, feedthrough=False)
    params = params_of(memory, d_in=7)
    assert "D" not in params and params["B"].shape == (4, 7, 2)
    assert run(memory, params, np.ones((2, 7)))[1].shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 30, "blocks": 4}, "d_state=30 must be divisible by blocks=4"),
        ({"d_state": 12, "blocks": 4}, "d_state / blocks = 3 must be even with conj_sym=True"),
        ({"d_state": 0}, "S5.d_state=0 must be a positive integer"),
        ({"d_model": 2.5}, "S5.d_model=2.5 must be a positive integer"),
        ({"blocks": True}, "S5.blocks=True must be a positive integer"),
        ({"dt_min": 0.2}, "dt_min=0.2 and dt_max=0.1 must satisfy 0 < dt_min <= dt_max"),
        ({"dt_max": float("nan")}, "S5.dt_max=nan must be a finite number"),
        ({"clip_eigs": 1}, "S5.clip_eigs=1 must be True or False"),
        ({"discretization": "zho"}, "S5.discretization='zho' is unknown; did you mean 'zoh'?"),
        ({"method": "parallel"}, "S5.method='parallel' is unknown"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        S5(**options)


def test_a_wrong_input_width_names_the_remedy():
    memory = S5(d_model=4, d_state=8)
    with pytest.raises(ValueError, match=r"its last axis must be 4 \(d_model, as D \* x is added; use a Stack"):
        params_of(memory, d_in=3)
    open_memory = S5(d_model=4, d_state=8, feedthrough=False)
    with pytest.raises(ValueError, match=r"its last axis must be 7 \(the width at init\)"):
        run(open_memory, params_of(open_memory, d_in=7), np.ones((2, 5)))


def test_perturbed_hippo_is_near_hippo_and_diagonalised():
    eigenvalues, V, inverse = perturbed_hippo(16, 2, 0.1)
    whole = (V * eigenvalues) @ inverse
    legs = np.kron(np.eye(2), hippo_legs(8))
    assert np.linalg.norm(whole - legs, 2) <= 0.11 * np.linalg.norm(legs, 2)
    np.testing.assert_allclose(V @ inverse, np.eye(16), atol=1e-8)
    assert (eigenvalues.real < 0).all()
    # HiPPO-LegS alone: eigenvectors so close to each other that float32 could not hold their inverse.
    assert np.linalg.cond(V) < 1e5 < np.linalg.cond(np.linalg.eig(hippo_legs(32))[1])
    memory = S5(d_model=4, d_state=16, blocks=2, conj_sym=False, eigenvalues="ptd")
    params = params_of(memory)
    B = V @ (params["B"][..., 0] + 1j * params["B"][..., 1])
    assert np.abs(B.imag).max() < 1e-3 * np.abs(B.real).max()


def test_parameterizations_begin_as_the_same_layer():
    x, reset = jax.random.normal(jax.random.key(0), (6, 2, 4)), jnp.zeros((6, 2), bool)
    outputs = []
    for parameterization in ("direct", "exp", "stable"):
        memory = S5(d_model=4, d_state=8, parameterization=parameterization)
        params = memory.init(jax.random.key(1), memory.initial_carry((2,)), x, reset)
        outputs.append(memory.apply(params, memory.initial_carry((2,)), x, reset)[1])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5)
    np.testing.assert_allclose(outputs[2], outputs[0], rtol=1e-5)


def test_polarized_states_hold_everything_and_nothing():
    memory = S5(d_model=4, d_state=8, polarized=True)
    x = jax.random.normal(jax.random.key(0), (6, 1, 4))
    reset = jnp.zeros((6, 1), bool).at[3].set(True)
    params = memory.init(jax.random.key(1), memory.initial_carry((1,)), x, reset)
    B = params["params"]["B"]
    last = memory.apply(params, memory.initial_carry((1,)), x, reset)[0][0]
    dt = jnp.exp(params["params"]["log_dt"][0])
    np.testing.assert_allclose(last[0], dt * B[0, :, 0] @ x[3:, 0].sum(0), rtol=1e-5)
    np.testing.assert_allclose(last[1], B[1, :, 0] @ x[5, 0], rtol=1e-5)
