"""matrix_recurrence and matrix_step: a full forget, and what is refused before any compile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import matrix_recurrence, matrix_step

T, B, H, K, V = 6, 3, 2, 4, 5


def arguments(seed=0):
    draw = np.random.default_rng(seed)
    q, k = jnp.float32(draw.normal(size=(2, T, B, H, K)))
    v = jnp.float32(draw.normal(size=(T, B, H, V)))
    log_decay = -jnp.float32(draw.uniform(size=(T, B, H)))
    beta = jnp.float32(draw.uniform(size=(T, B, H)))
    return {
        "q": q, "k": k / jnp.linalg.norm(k, axis=-1, keepdims=True), "v": v, "log_decay": log_decay,
        "reset": jnp.zeros((T, B), bool), "carry": jnp.float32(draw.normal(size=(B, H, K, V))), "beta": beta,
    }  # fmt: skip


@pytest.mark.parametrize("with_beta", [True, False])
def test_a_decay_of_zero_forgets_everything_on_both_paths(with_beta):
    given = arguments()
    given["log_decay"] = given["log_decay"].at[3].set(-jnp.inf)
    if not with_beta:
        given["beta"] = None
    y, last = jax.jit(lambda: matrix_recurrence(**given, chunk_size=4))()
    state, steps = given["carry"], []
    for t in range(T):
        q, k, v = (given[name][t][:, :, None, :] for name in "qkv")
        beta = None if given["beta"] is None else given["beta"][t]
        y_t, state = matrix_step(q, k, v, given["log_decay"][t], given["reset"][t], state, beta)
        steps.append(y_t[:, :, 0])
    np.testing.assert_allclose(y, jnp.stack(steps), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, state, rtol=1e-4, atol=1e-5)
    other, _ = matrix_recurrence(**{**given, "carry": given["carry"] + 1.0}, chunk_size=4)
    np.testing.assert_array_equal(other[3:], y[3:])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chunk_size": 0}, "chunk_size=0 must be a positive integer"),
        ({"chunk_size": 2.5}, "chunk_size=2.5 must be"),
        ({"reset": jnp.zeros((0, B), bool)}, r"reset has shape \(0, 3\)"),
        ({"reset": jnp.zeros((T, B))}, "reset has dtype float32, it must be bool"),
        ({"carry": None}, "carry is a NoneType, it must be an array"),
        ({"carry": jnp.zeros((B, H, K, V), int)}, "carry has dtype int32, it must be floating"),
        ({"carry": jnp.zeros((B, H, K, V), jnp.bfloat16)}, "carry has dtype bfloat16, the state stays float32"),
        ({"carry": jnp.zeros((B, H, V, K))}, r"carry has shape \(3, 2, 5, 4\), expected \(3, 2, 4, 5\)"),
        ({"k": jnp.zeros((T, B, 3, K))}, r"k has shape \(6, 3, 3, 4\), expected \(6, 3, '1 or 2', 'K'\)"),
        ({"q": jnp.zeros((T, B, H, 3))}, r"q has shape \(6, 3, 2, 3\), expected \(6, 3, '1 or 2', 4\)"),
        ({"log_decay": jnp.zeros((T, B))}, r"log_decay has shape \(6, 3\), expected \(6, 3, 'H'\)"),
        ({"beta": jnp.zeros((T, B, 1))}, r"beta has shape \(6, 3, 1\), expected \(6, 3, 2\)"),
    ],
)
def test_the_recurrence_names_what_does_not_fit(wrong, message):
    with pytest.raises(ValueError, match=f"matrix_recurrence: {message}"):
        matrix_recurrence(**{**arguments(), **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reset": jnp.zeros(B, int)}, "reset has dtype int32"),
        ({"reset": jnp.zeros((B, H), bool)}, r"log_decay has shape \(3, 2\), expected \(3, 2, 'H'\)"),
        ({"v": jnp.zeros((B, H, V))}, r"v has shape \(3, 2, 5\), expected \(3, 2, 'R', 'V'\)"),
        ({"k": jnp.zeros((B, H, K))}, r"k has shape \(3, 2, 4\), expected"),
        ({"carry": jnp.zeros((B, H, K, V), jnp.bfloat16)}, "carry has dtype bfloat16, the state stays float32"),
        ({"carry": jnp.zeros((B, H, V, K))}, r"carry has shape \(3, 2, 5, 4\), expected"),
    ],
)
def test_the_step_names_what_does_not_fit(wrong, message):
    given = jax.tree.map(lambda each: each[0], arguments())
    given["carry"] = jnp.zeros((B, H, K, V))
    for name in "qkv":
        given[name] = given[name][:, :, None, :]
    matrix_step(**given)
    with pytest.raises(ValueError, match=f"matrix_step: {message}"):
        matrix_step(**{**given, **wrong})
