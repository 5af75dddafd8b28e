"""The reset rule, the shared matmul, and the errors for inputs that do not fit, all before compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import GRU, LSTM, S5, Memory, NoMemory, Stack, make_memory, reset_where
from hippodrome.memory.core import Dense, matmul
from hippodrome.memory.errors import unknown_name

LAYERS = [S5(d_model=4, d_state=8), GRU(d_model=4), LSTM(d_model=4), make_memory("gru", d_model=4)]


def test_reset_where_selects_leaf_by_leaf_over_trailing_axes():
    reset = jnp.array([True, False])
    old = {"state": jnp.full((2, 3), jnp.nan), "position": jnp.array([5, 6])}
    new = {"state": 0.0, "position": 0}
    got = reset_where(reset, new, old)
    np.testing.assert_array_equal(got["state"], [[0, 0, 0], [np.nan] * 3])
    np.testing.assert_array_equal(got["position"], [0, 6])
    assert got["position"].dtype == old["position"].dtype


def test_reset_where_gives_no_gradient_to_what_it_discards():
    def loss(old):
        return jnp.sum(reset_where(jnp.array([True, False]), 0.0, old) * jnp.array([jnp.inf, 2.0]))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([jnp.nan, 1.0])), [0.0, 2.0])


def test_matmul_is_a_matmul_in_the_dtype_of_x_with_a_float32_result():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 3, 4)), jax.random.normal(jax.random.key(1), (4, 5))
    np.testing.assert_allclose(matmul(x, kernel), x @ kernel, rtol=1e-6)
    low = matmul(x.astype(jnp.bfloat16), kernel)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, x @ kernel, atol=0.05)


def test_dense_is_affine_and_follows_its_input():
    layer, x = Dense(5), jax.random.normal(jax.random.key(0), (2, 4))
    params = layer.init(jax.random.key(1), x)
    kernel = params["params"]["kernel"]
    np.testing.assert_allclose(layer.apply(params, x), x @ kernel, rtol=1e-6)
    assert layer.apply(params, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16 and kernel.dtype == jnp.float32


@pytest.mark.parametrize("memory", [*LAYERS, NoMemory(d_model=4)])
def test_every_module_is_a_memory(memory):
    assert isinstance(memory, Memory)


def apply(memory, *, x=(5, 3, 4), reset=(5, 3), batch=(3,), dtype=np.float32, reset_dtype=bool, carry=None, step=False):
    x, reset = np.zeros(x, dtype), np.zeros(reset, reset_dtype)
    carry = memory.initial_carry(batch) if carry is None else carry
    return memory.init(jax.random.key(0), carry, x, reset, method="step" if step else "__call__")


@pytest.mark.parametrize("memory", LAYERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (4,)}, r"x has shape \(4,\), expected \[T, \*batch, d_in\]; for one step use method='step'"),
        ({"x": (0, 3, 4), "reset": (0, 3)}, r"x has shape \(0, 3, 4\), it must hold at least one step"),
        (
            {"reset": (5, 2)},
            r"reset has shape \(5, 2\), expected \(5, 3\), all but the last axis of x of shape \(5, 3, 4\)",
        ),
        ({"reset": (5,)}, r"reset has shape \(5,\), expected \(5, 3\)"),
        ({"reset_dtype": np.float32}, r"reset has dtype float32, it must be bool; use reset.astype\(bool\)"),
        ({"dtype": np.int32}, r"x has dtype int32, it must be floating; use x.astype\(float\)"),
        (
            {"batch": (2,)},
            r"carry array has shape \(2, \d+\), expected \(3, \d+\) for inputs with batch shape \(3,\); make",
        ),
        (
            {"carry": {"wrong": 0}},
            r"the carry has structure .*wrong.*, expected .*; make it with initial_carry\(\(3,\)\)",
        ),
        ({"step": True}, r"step: reset has shape \(5, 3\)|carry array has shape"),
        ({"step": True, "x": (3, 4)}, r"step: reset has shape \(5, 3\), expected \(3,\)"),
        ({"step": True, "x": (), "reset": ()}, r"step: x has shape \(\), expected \[\*batch, d_in\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_shape_got_and_expected(memory, change, message):
    with pytest.raises(ValueError, match=message):
        apply(memory, **change)


def test_the_message_names_the_class():
    with pytest.raises(ValueError, match=r"^LSTM: "):
        apply(LSTM(d_model=4), x=(4,))


@pytest.mark.parametrize("wrong", [4, 3])
def test_a_stack_refuses_another_width_than_at_init(wrong):
    memory = make_memory("gru", d_model=4)
    params = apply(memory, x=(5, 3, 6))
    x, reset = jnp.zeros((5, 3, wrong)), jnp.zeros((5, 3), bool)
    with pytest.raises(
        ValueError, match=r"Stack: x has shape \(5, 3, \d\), its last axis must be 6 \(the width at init\)"
    ):
        memory.apply(params, memory.initial_carry((3,)), x, reset)


def test_a_stack_of_layers_of_two_widths_is_refused():
    with pytest.raises(ValueError, match=r"its layers have d_model \[4, 5\]"):
        Stack(layers=(GRU(d_model=4), GRU(d_model=5)))
    with pytest.raises(ValueError, match=r"its layers have d_model \[\]"):
        Stack(layers=())


def test_unknown_name_suggests_only_what_is_near():
    assert unknown_name("kind", "gur", ["gru", "s5"]) == "kind='gur' is unknown; did you mean 'gru'? Known: gru, s5"
    assert unknown_name("kind", "zzz", ["gru", "s5"]) == "kind='zzz' is unknown. Known: gru, s5"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": [[1.0]]}, "x is a list, it must be an array"),
        ({"reset": False}, "reset is a bool, it must be an array"),
        ({"x": jnp.zeros((2, 0, 4)), "reset": jnp.zeros((2, 0), bool)}, "none of its axes may be empty"),
        ({"carry": jnp.zeros((3, 4), jnp.int32)}, "a carry array has dtype int32, expected float32"),
        ({"carry": jnp.zeros((3, 4), jnp.bfloat16)}, "a carry array has dtype bfloat16, expected float32"),
    ],
)
def test_what_is_no_array_empty_or_of_another_type_is_named(wrong, message):
    memory = GRU(d_model=4)
    given = {"carry": memory.initial_carry((3,)), "x": jnp.zeros((2, 3, 4)), "reset": jnp.zeros((2, 3), bool)}
    with pytest.raises(ValueError, match=message):
        memory.init(jax.random.key(0), **{**given, **wrong})
