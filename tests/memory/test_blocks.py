"""Residual blocks and stacks: options, parameters, mixed layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import GRU, S5, NoMemory, ResidualBlock, Stack, make_memory

pytestmark = pytest.mark.usefixtures("unoptimised")
T, B, D = 4, 2, 6


def init(memory, d_in=D):
    x, reset = jax.random.normal(jax.random.key(0), (T, B, d_in)), jnp.zeros((T, B), bool)
    carry = memory.initial_carry((B,))
    params = jax.jit(memory.init)(jax.random.key(1), carry, x, reset)
    return params, carry, x, reset


def test_blocks_of_two_memories_differ_only_in_the_layer():
    names = [set(init(make_memory(kind, d_model=D))[0]["params"]["layers_0"]) for kind in ("s5", "gru", "none")]
    assert names[0] == names[1] == names[2] == {"layer", "normalisation", "gate"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"norm": "none", "glu": "none"}, {"layer"}),
        ({"norm": "post", "glu": "half"}, {"layer", "normalisation", "gate"}),
        ({"norm": "pre", "glu": "full"}, {"layer", "normalisation", "value_and_gate"}),
    ],
)
def test_options_make_only_the_parameters_they_need(options, names):
    assert set(init(ResidualBlock(layer=GRU(d_model=D), **options))[0]["params"]) == names


def test_a_bare_block_is_the_layer_plus_its_input():
    layer = GRU(d_model=D)
    block = ResidualBlock(layer=layer, norm="none", activation="none", glu="none")
    params, carry, x, reset = init(block)
    want = layer.apply({"params": params["params"]["layer"]}, carry, x, reset)[1] + x
    np.testing.assert_allclose(block.apply(params, carry, x, reset)[1], want, rtol=1e-6)


def test_post_norm_normalises_the_output():
    y = make_memory("none", d_model=D, norm="post").apply(*init(make_memory("none", d_model=D, norm="post")))[1]
    np.testing.assert_allclose(np.mean(y, -1), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, -1), 1.0, rtol=1e-3)


def test_a_block_refuses_another_width():
    with pytest.raises(ValueError, match=r"its last axis must be d_model=6 for the residual sum; let the Stack"):
        init(ResidualBlock(layer=GRU(d_model=D)), d_in=4)


def test_projection_is_made_where_the_widths_differ_or_always_or_never():
    for projection, d_in, made in (("auto", 3, True), ("auto", D, False), ("always", D, True), ("never", D, False)):
        params = init(make_memory("gru", d_model=D, projection=projection), d_in)[0]["params"]
        assert ("project" in params) == made
    with pytest.raises(ValueError, match="its last axis must be d_model=6"):
        init(make_memory("gru", d_model=D, projection="never"), 3)


def test_layers_of_different_kinds_share_a_stack():
    memory = Stack(layers=(S5(d_model=D, d_state=8), ResidualBlock(layer=GRU(d_model=D)), NoMemory(d_model=D)))
    params, carry, x, reset = init(memory)
    carry, y = jax.jit(memory.apply)(params, carry, x, reset)
    assert y.shape == (T, B, D) and [each.shape for each in carry[:2]] == [(B, 8), (B, D)] and carry[2] == ()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"ResidualBlock\.norm='prenorm' is unknown; did you mean 'pre'\?"):
        ResidualBlock(layer=GRU(), norm="prenorm")
    with pytest.raises(ValueError, match=r"Stack\.final_norm=None must be True or False"):
        Stack(layers=(GRU(),), final_norm=None)
