"""linear_recurrence: against the NumPy twin, against autodiff of the plain scan, resets, nan, and bad arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hippodrome.memory import diagonal, linear_recurrence, solvers
from tests.oracles.recurrence import linear_recurrence_twin

METHODS = ("sequential", "associative", "chunked", "pallas")
LENGTHS = (1, 2, 7, 16)
solve = jax.jit(linear_recurrence, static_argnames="method")
few = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Chunks that do not divide the lengths here, and blocks narrower than the states."""
    monkeypatch.setitem(solvers.SOLVERS, "chunked", partial(solvers.chunked, chunk_size=3))
    monkeypatch.setattr(solvers, "PALLAS_BLOCK", 2)


def draw(seed, *, length=7, batch=(2,), feature=(3,), is_complex=False, varying=False, reset_probability=0.3):
    """Random arguments (a, b, reset, carry, reset_state), |a| < 1."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        value = generator.normal(size=shape)
        return value + 1j * generator.normal(size=shape) if is_complex else value

    decay = generator.uniform(0.5, 0.99, size=(length, *batch, *feature) if varying else feature)
    if is_complex:
        decay = decay * np.exp(1j * generator.normal(size=decay.shape))
    reset = generator.random((length, *batch)) < reset_probability
    values = (decay, normal(length, *batch, *feature), reset, normal(*batch, *feature), normal(*feature))
    single = np.complex64 if is_complex else np.float32
    return tuple(value if value.dtype == bool else value.astype(single) for value in values)


def assert_equal(got, want, tolerance=1e-5):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max(initial=1e-3))


def fused(method, monkeypatch):
    """The sequential method as it is where the states of complex factors do not fit the cache."""
    if method != "fused":
        return method
    monkeypatch.setattr(diagonal, "FUSED_SIZE", 0)
    return "sequential"


def plain(a, b, reset, carry, reset_state):
    """The recurrence as nine lines of scan, differentiated by JAX."""
    trailing = (1,) * (b.ndim - reset.ndim)

    def recur(state, now):
        b_t, reset_t, a_t = now
        state = a_t * jnp.where(reset_t.reshape(reset_t.shape + trailing), reset_state, state) + b_t
        return state, state

    last, states = jax.lax.scan(recur, carry, (b, reset, jnp.broadcast_to(a, b.shape)))
    return states, last


@few
@given(
    seed=st.integers(0, 2**16),
    length=st.sampled_from(LENGTHS),
    is_complex=st.booleans(),
    varying=st.booleans(),
    probability=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_states_equal_the_twin_on_every_method(seed, length, is_complex, varying, probability):
    arguments = draw(seed, length=length, is_complex=is_complex, varying=varying, reset_probability=probability)
    states, last = linear_recurrence_twin(*arguments)
    for method in (*METHODS, "auto"):
        got = solve(*arguments, method=method)
        assert_equal(got[0], states)
        assert_equal(got[1], last)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("method", [*METHODS, "fused"])
def test_gradients_equal_autodiff_of_the_plain_scan(method, varying, is_complex, monkeypatch):
    method = fused(method, monkeypatch)
    a, b, reset, carry, reset_state = draw(1, is_complex=is_complex, varying=varying)
    weights, last_weights = draw(2, is_complex=is_complex)[1], draw(3, is_complex=is_complex)[3]

    def gradient(function):
        def loss(a, b, carry, reset_state):
            states, last = function(a, b, reset, carry, reset_state)
            return jnp.real(jnp.sum(weights * states**2) + jnp.sum(last_weights * last))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(a, b, carry, reset_state)

    for got, want in zip(gradient(lambda *args: linear_recurrence(*args, method=method)), gradient(plain), strict=True):
        assert_equal(got, want, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives(method):
    a, b, reset, carry, reset_state = draw(1, varying=True)

    def curvature(function):
        def loss(a):
            return jnp.sum(function(a, b, reset, carry, reset_state)[0] ** 2)

        return jax.jit(jax.grad(lambda a: jnp.sum(jax.grad(loss)(a) ** 2)))(a)

    assert_equal(curvature(lambda *args: linear_recurrence(*args, method=method)), curvature(plain), 1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(("batch", "feature"), [((), (3,)), ((2,), ()), ((), ()), ((2, 2), (3, 2))])
def test_any_batch_and_feature_axes(method, is_complex, batch, feature):
    for varying in (False, True):
        arguments = draw(0, batch=batch, feature=feature, is_complex=is_complex, varying=varying)
        states, last = solve(*arguments, method=method)
        want_states, want_last = linear_recurrence_twin(*arguments)
        assert_equal(states, want_states)
        assert_equal(last, want_last)


def test_hand_computed_reset_fires_at_its_own_step():
    # a = 1/2; the reset at t = 2 loads 10 before b[2] is added, neither a step early nor a step late.
    for method in METHODS:
        states, last = solve(
            jnp.array(0.5), jnp.ones(4), jnp.array([False, False, True, False]), jnp.array(4.0), 10.0, method=method
        )
        np.testing.assert_array_equal(states, [3.0, 2.5, 6.0, 4.0])
        assert last == 4.0


def test_carry_and_reset_state_are_different_things():
    for method in METHODS:
        first = [
            linear_recurrence(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([reset]), jnp.full(1, 3.0), 5.0, method=method)[
                1
            ]
            for reset in (False, True)
        ]
        assert first[0] == 3.0 and first[1] == 5.0


@pytest.mark.parametrize("method", [*METHODS, "fused"])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_nonfinite_crosses_a_reset_in_values_or_any_gradient(method, is_complex, bad, monkeypatch):
    method = fused(method, monkeypatch)
    a, b, reset, carry, reset_state = draw(0, length=16, is_complex=is_complex)
    cut = 6
    reset[:cut], reset[cut] = False, True
    bad_b, bad_carry = b.copy(), np.full_like(carry, bad)
    bad_b[cut - 3] = bad
    weights = draw(1, length=16, is_complex=is_complex)[1]

    def loss(a, b, carry, reset_state):
        states, last = linear_recurrence(a, b, reset, carry, reset_state, method=method)
        return jnp.real(weights[cut:] * states[cut:]).sum() + jnp.real(last).sum(), states

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))
    (_, clean_states), clean = run(a, b, carry, reset_state)
    (_, states), gradients = run(a, bad_b, bad_carry, reset_state)
    np.testing.assert_array_equal(states[cut:], clean_states[cut:])
    for got, want in zip(gradients, clean, strict=True):
        assert_equal(got, want)
    assert not np.asarray(gradients[1])[:cut].any() and not np.asarray(gradients[2]).any()


def test_time_varying_decay_gradient_is_finite_before_the_reset_too():
    a, b, reset, carry, reset_state = draw(0, length=16, varying=True)
    reset[:6], reset[6] = False, True
    for method in METHODS:
        bad = np.full_like(carry, np.nan)
        d_a = jax.grad(
            lambda a, bad=bad, method=method: solve(a, b, reset, bad, reset_state, method=method)[0][6:].sum()
        )(a)
        assert not np.asarray(d_a)[:6].any() and np.isfinite(d_a).all()


def test_non_zero_initial_state_stays_associative():
    # Every split of the work must agree: lengths that are no powers of two, resets everywhere.
    for length in (3, 5, 11, 13):
        arguments = draw(length, length=length, is_complex=True, varying=True, reset_probability=0.5)
        assert_equal(solve(*arguments, method="associative")[0], linear_recurrence_twin(*arguments)[0])


def test_mixed_dtypes_promote_and_broadcast():
    a, b, reset, carry, _ = draw(0, is_complex=True)
    states, last = linear_recurrence(a, b.real, reset, carry.real)
    assert states.dtype == last.dtype == jnp.complex64
    assert_equal(states, linear_recurrence_twin(a, b.real, reset, carry.real)[0])
    shared = np.full((7, 2, 1), 0.5, np.float32)
    assert_equal(
        linear_recurrence(shared, b.real, reset, carry.real)[0],
        linear_recurrence_twin(np.broadcast_to(shared, b.shape), b.real, reset, carry.real)[0],
    )
    assert linear_recurrence(a.real, b.real.astype(jnp.bfloat16), reset, carry.real)[0].dtype == jnp.float32


def test_vmap_over_parameters():
    a, b, reset, carry, reset_state = draw(0)
    decays = np.stack([a, a / 2])
    for method in METHODS:
        mapped = jax.vmap(lambda a, method=method: solve(a, b, reset, carry, reset_state, method=method))
        for got, decay in zip(mapped(decays)[0], decays, strict=True):
            assert_equal(got, linear_recurrence_twin(decay, b, reset, carry, reset_state)[0])


def test_auto_is_the_sequential_scan_on_cpu():
    arguments = draw(0)
    methods = ("auto", "sequential", "associative", "chunked")
    texts = {method: solve.lower(*arguments, method=method).as_text() for method in methods}
    loops = {method: text.count("stablehlo.while") for method, text in texts.items()}
    # By chunks: within them for states and for products, then across.
    assert loops == {"auto": 1, "sequential": 1, "associative": 0, "chunked": 3}


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("varying", [False, True])
def test_the_kernel_lowers_for_gpus(is_complex, varying, monkeypatch):
    """What can be shown without a GPU: Triton takes the kernel and that of its gradient, at full block size."""
    monkeypatch.setattr(solvers, "PALLAS_BLOCK", 128)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    arguments = draw(0, feature=(200,), is_complex=is_complex, varying=varying)

    def loss(*arguments):
        return jnp.abs(linear_recurrence(*arguments, method="pallas")[0]).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 3, 4)))
    text = gradient.trace(*map(jnp.asarray, arguments)).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 2


def test_the_kernel_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="method='pallas' is a kernel for GPUs, the backend is 'tpu'; use 'assoc"):
        linear_recurrence(*draw(0), method="pallas")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "assoc"}, "method='assoc' is unknown; did you mean 'associative'"),
        ({"a": np.ones(3, np.int32)}, "a has dtype int32, it must be floating or complex"),
        ({"b": np.ones((7, 2, 3), np.int32)}, "b has dtype int32"),
        ({"carry": np.ones((2, 3), bool)}, "carry has dtype bool"),
        ({"reset": np.zeros((7, 2), np.float32)}, "reset has dtype float32, it must be bool; use reset.astype"),
        ({"reset": np.zeros((7, 4), bool)}, r"reset has shape \(7, 4\) and b \(7, 2, 3\)"),
        ({"reset": np.zeros((), bool)}, r"reset has shape \(\)"),
        ({"a": np.ones(4, np.float32)}, r"a has shape \(4,\); it must be constant \(3,\) or time-varying \(7, 2, 3\)"),
        ({"a": np.ones((7, 3, 3), np.float32)}, r"a has shape \(7, 3, 3\)"),
        ({"a": np.ones((2, 3), np.float32)}, r"a has shape \(2, 3\)"),
        ({"carry": np.ones((4, 3), np.float32)}, r"carry has shape \(4, 3\), b asks for \(2, 3\)"),
        ({"reset_state": np.ones(4, np.float32)}, r"reset_state has shape \(4,\), it must broadcast to \(2, 3\)"),
        ({"b": np.ones((0, 2, 3), np.float32), "reset": np.zeros((0, 2), bool)}, "T >= 1"),
    ],
)
def test_bad_arguments_are_refused_before_compilation(change, message):
    names = ("a", "b", "reset", "carry", "reset_state")
    arguments = dict(zip(names, draw(0), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        linear_recurrence(**arguments)
