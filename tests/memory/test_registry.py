"""Registration, generated configurations, construction and learning-rate groups."""

import copy
import dataclasses
import pickle
from typing import Annotated, Literal, Union, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
import pytest
import tyro
from flax import linen as nn
from typing_extensions import Doc

from hippodrome.memory import (
    GRU,
    RGLRU,
    S5,
    MemoryConfig,
    ResidualBlock,
    Stack,
    build_memory,
    list_memories,
    make_memory,
    memory_config,
    parameter_labels,
    register,
)
from hippodrome.memory.s4d import initial_eigenvalues

pytestmark = pytest.mark.usefixtures("unoptimised")
KINDS = list_memories()


def params_of(memory, d_in=5):
    x, reset = jnp.zeros((1, 2, d_in)), jnp.zeros((1, 2), bool)
    return jax.jit(memory.init)(jax.random.key(0), memory.initial_carry((2,)), x, reset)


def make_class(name="Plus"):
    class Plus(nn.Module):
        """Adds a parameter."""

        d_model: Annotated[int, Doc("width")] = 8
        rate: Annotated[float, Doc("of nothing")] = 0.5
        ssm_parameters = ("rate_of_growth",)

        def initial_carry(self, batch_shape):
            return ()

        def setup(self):
            self.growth = self.param("rate_of_growth", nn.initializers.zeros, ())

        def step(self, carry, x, reset):
            return (), x + self.growth

        def __call__(self, carry, x, reset):
            return self.step(carry, x, reset)

    Plus.__name__ = Plus.__qualname__ = name
    return Plus


def test_the_memories_of_this_package_are_listed():
    assert {"gru", "hybrid", "mamba", "none", "s5"} <= set(KINDS) and sorted(KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_frozen_has_defaults_and_is_of_its_kind(kind):
    config = memory_config(kind)()
    fields = dataclasses.fields(config)
    assert fields[0].name == "kind" and config.kind == kind and isinstance(config, MemoryConfig)
    assert get_type_hints(type(config))["kind"] == Literal[kind]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields[1:]:
        assert any(isinstance(each, Doc) for each in get_args(hints[field.name])), f"{field.name} has no help text"
    assert memory_config(kind) is type(config)


def test_defaults_of_s5():
    config = memory_config("s5")()
    assert (config.d_model, config.d_state, config.num_layers, config.blocks) == (64, 64, 2, 1)
    assert (config.norm, config.activation, config.glu) == ("pre", "gelu", "half")
    assert memory_config("gru")().activation == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_survive_pickle_and_copy(kind):
    config = memory_config(kind)(d_model=128, num_layers=3)
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert hash(config) == hash(dataclasses.replace(config))


def test_module_fields_are_the_only_source_of_the_configuration():
    own = {field.name for cls in (S5, ResidualBlock, Stack) for field in dataclasses.fields(cls)}
    own -= {"parent", "name", "layer", "layers"}
    assert {field.name for field in dataclasses.fields(memory_config("s5"))} == own | {"kind", "num_layers"}


def test_build_memory_puts_every_value_where_it_belongs():
    memory = build_memory(
        memory_config("s5")(d_model=8, d_state=16, blocks=2, num_layers=3, norm="post", glu="full", final_norm=True)
    )
    assert isinstance(memory, Stack) and len(memory.layers) == 3 and memory.final_norm and memory.d_model == 8
    block = memory.layers[2]
    assert (block.norm, block.glu) == ("post", "full")
    assert (block.layer.d_state, block.layer.blocks, block.layer.d_model) == (16, 2, 8)


def test_make_memory_is_one_layer_unless_told():
    assert len(make_memory("gru").layers) == 1
    assert make_memory("gru", d_model=8, num_layers=2) == build_memory(memory_config("gru")(d_model=8, num_layers=2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_memory("s55"), "memory kind='s55' is unknown; did you mean 's5'?"),
        (lambda: memory_config("gur"), "memory kind='gur' is unknown; did you mean 'gru'?"),
        (
            lambda: make_memory("s5", d_modle=3),
            r"make_memory\('s5'\): option='d_modle' is unknown; did you mean 'd_model'",
        ),
        (lambda: make_memory("gru", d_state=3), r"make_memory\('gru'\): option='d_state' is unknown"),
        (lambda: make_memory("s5", num_layers=0), "num_layers=0 must be a positive integer"),
        (lambda: make_memory("s5", d_state=30, blocks=4), "d_state=30 must be divisible by blocks=4"),
        (lambda: make_memory("s5", glu="fall"), "glu='fall' is unknown; did you mean 'full'?"),
        (lambda: memory_config("s5")(d_state=-2), "S5.d_state=-2 must be a positive integer"),
    ],
)
def test_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def adapter():
    union = Union[tuple(memory_config(kind) for kind in KINDS)]  # noqa: UP007
    return pydantic.TypeAdapter(Annotated[union, pydantic.Field(discriminator="kind")])


def test_pydantic_builds_configurations_by_kind():
    assert adapter().validate_python({"kind": "gru", "d_model": 7}) == memory_config("gru")(d_model=7)


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"kind": "s5", "d_modle": 7}, ("s5", "d_modle")),
        ({"kind": "s5", "norm": "prenorm"}, ("s5", "norm")),
        ({"kind": "s5", "d_model": "wide"}, ("s5", "d_model")),
        ({"kind": "s5", "d_state": 7}, ("s5",)),
        ({"kind": "s6"}, ()),
    ],
)
def test_pydantic_refuses_what_cannot_be_built(values, path):
    with pytest.raises(pydantic.ValidationError) as error:
        adapter().validate_python(values)
    assert error.value.errors()[0]["loc"] == path


def test_tyro_takes_values_and_shows_help(capsys):
    config = memory_config("s5")
    assert tyro.cli(config, args=["--d-model", "8", "--glu", "full"]) == config(d_model=8, glu="full")
    with pytest.raises(SystemExit):
        tyro.cli(config, args=["--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "size of the state, before conjugate symmetry halves it (default: 64)" in printed
    assert "--norm {pre,post,none}" in printed


def test_a_registered_class_is_a_memory_like_any_other(clean_registry):
    cls = make_class()
    assert register("plus")(cls) is cls and "plus" in list_memories()
    memory = make_memory("plus", d_model=5, rate=0.25)
    assert memory.layers[0].layer == cls(d_model=5, rate=0.25) and memory.layers[0].activation == "none"
    labels = parameter_labels(params_of(memory))["params"]["layers_0"]
    assert labels["layer"] == {"rate_of_growth": "ssm"} and labels["gate"]["kernel"] == "regular"
    register("plus")(cls)
    with pytest.raises(ValueError, match=r"register\('plus'\): the name is taken by Plus; choose another"):
        register("plus")(make_class())


def test_register_refuses_what_is_no_memory(clean_registry):
    class NoStep(nn.Module):
        d_model: int = 3

    class NoDefault(GRU):
        size: int = dataclasses.field(kw_only=True)

    class NoWidth(nn.Module):
        initial_carry = step = None

    with pytest.raises(ValueError, match="NoWidth lacks the field d_model"):
        register("no_width")(NoWidth)
    with pytest.raises(ValueError, match="NoStep lacks initial_carry, step; a memory is a linen module that follows"):
        register("no_step")(NoStep)
    with pytest.raises(ValueError, match="int lacks initial_carry, step"):
        register("no_module")(int)
    with pytest.raises(ValueError, match="field size of NoDefault needs a default value"):
        register("no_default")(NoDefault)


def test_labels_are_the_published_group():
    params = params_of(make_memory("s5", d_model=5, d_state=8, learn_initial_state=True))
    layer = parameter_labels(params)["params"]["layers_0"]["layer"]
    slow = {name for name, label in layer.items() if label == "ssm"}
    assert slow == {"Lambda_re", "Lambda_im", "B", "log_dt", "initial_state"}
    assert {name for name, label in layer.items() if label == "regular"} == {"C", "D"}
    assert set(jax.tree.leaves(parameter_labels(params_of(make_memory("gru", d_model=5))))) == {"regular"}


def test_labels_drive_optax():
    params = {"memory": params_of(make_memory("s5", d_model=5, d_state=8)), "head": {"kernel": jnp.ones((2, 2))}}
    optimiser = optax.multi_transform({"ssm": optax.sgd(0.0), "regular": optax.sgd(1.0)}, parameter_labels)
    updates, _ = optimiser.update(jax.tree.map(jnp.ones_like, params), optimiser.init(params))
    layer = updates["memory"]["params"]["layers_0"]["layer"]
    assert not layer["B"].any() and not layer["log_dt"].any() and (layer["C"] == -1).all()
    assert (updates["head"]["kernel"] == -1).all()


def test_a_field_that_hides_a_method_of_linen_is_refused(clean_registry):
    class Hidden(make_class()):
        init: str = "x"

    with pytest.raises(ValueError, match="field init of Hidden hides linen's own; rename it"):
        register("hidden")(Hidden)
    with pytest.raises(ValueError, match="the name is taken by hippodrome"):
        register("hybrid")(make_class())


def test_a_composition_is_a_list_of_kinds():
    layers = ["mlp", {"kind": "attention", "window": 8, "norm": "post"}, {"kind": "parallel", "layers": ["lru", "s5"]}]
    memory = make_memory("hybrid", layers=layers, d_model=32, num_layers=2, residual="gru")
    assert [type(block.layer).__name__ for block in memory.layers] == ["MLP", "SlidingWindowAttention", "Parallel"] * 2
    assert [block.norm for block in memory.layers[:3]] == ["pre", "post", "pre"]
    assert all(block.residual == "gru" and block.d_model == 32 for block in memory.layers)
    assert memory.layers[1].layer.window == 8
    assert [type(layer).__name__ for layer in memory.layers[2].layer.layers] == ["LRU", "S5"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("mamba", r"layers='mamba' must be a list of kinds"),
        ([], r"layers=\[\] must be a list of kinds, at least one"),
        (["lru", "mambo"], r"layers\[1\]: kind='mambo' is unknown; did you mean 'mamba'"),
        ([{"kind": "mamba", "d_stat": 3}], r"layers\[0\]: option of mamba='d_stat' is unknown; did you mean 'd_state'"),
        (["lru", {"kind": "lru", "d_model": 3}], r"layers\[1\]: d_model=3 differs from the memory's d_model=64"),
        ([{"kind": "parallel", "layers": ["x"]}], r"layers\[0\].layers\[0\]: kind='x' is unknown"),
        (["lru", {"kind": "parallel", "layers": []}], r"layers\[1\]: parallel: layers=\[\] must be a list of kinds"),
        (["lru", ["mlp", "s5"]], r"layers\[1\]: \['mlp', 's5'\] must be a kind, or a mapping"),
        (["lru", {"kind": "lru", "norm": "prre"}], r"layers\[1\]: ResidualBlock.norm='prre' is unknown; did you mean"),
    ],
)
def test_a_wrong_composition_says_where(layers, message):
    with pytest.raises(ValueError, match=message):
        make_memory("hybrid", layers=layers)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("attention", {"num_heads": 5}, "num_heads=5 must divide d_model=64 into even widths"),
        ("mamba", {"d_conv": 1}, "Mamba: d_conv=1 must be at least 2"),
        ("mamba", {"dt_rank": 0}, "Mamba.dt_rank=0 must be a positive integer, or None"),
        ("mamba2", {"head_dim": 48}, r"head_dim=48 must divide expand \* d_model = 128"),
        ("mamba2", {"groups": 3}, "groups=3 must divide the number of heads, 4"),
        ("mamba3", {"rope_fraction": 0.0}, "rope_fraction=0.0 of d_state=64 must hold at least one pair"),
        ("gated_delta_net", {"num_heads": 3}, "GatedDeltaNet: num_heads=3 must divide d_model=64"),
        ("linear_attention", {"num_heads": 3}, "num_heads=3 must divide d_model=64"),
        ("rg_lru", {"num_heads": 3}, "num_heads=3 must divide the width of the recurrence, 64"),
        ("lru", {"r_max": 1.5}, "r_min=0.9 and r_max=1.5 must satisfy"),
        ("s4d", {"d_state": 3}, "d_state=3 must be even, or eigenvalues='real'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        make_memory(kind, **options)


def test_eigenvalues_of_s4d_begin_as_published():
    kinds = {kind: initial_eigenvalues(4, kind) for kind in ("lin", "inv", "real", "dss")}
    np.testing.assert_allclose(kinds["lin"], [-0.5, -0.5 + 1j * np.pi])
    np.testing.assert_allclose(kinds["inv"], [-0.5 + 1j * 4 / np.pi * 3, -0.5 + 1j * 4 / np.pi / 3])
    np.testing.assert_allclose(kinds["real"], [-1, -2, -3, -4])
    np.testing.assert_allclose(kinds["dss"].real, -0.5)
    # The other half are their conjugates: HiPPO's skew part has no real eigenvalue and trace 0.
    whole = np.linalg.eigvals(-0.5 * np.eye(4) + _skew_of_hippo(4))
    np.testing.assert_allclose(sorted(kinds["dss"].imag), sorted(whole.imag)[:2], rtol=1e-6)


def _skew_of_hippo(size):
    root = np.sqrt(2.0 * np.arange(size) + 1.0)
    lower = -0.5 * np.tril(np.outer(root, root), -1)
    return lower - lower.T


def test_the_recurrence_of_rg_lru_has_a_width_of_its_own():
    memory = RGLRU(d_model=8, d_inner=6, num_heads=3)
    window, state = memory.initial_carry((2,))
    assert window.shape == (2, 3, 6) and state.shape == (2, 6)
    x, reset = jnp.zeros((1, 2, 5)), jnp.ones((1, 2), bool)
    variables = memory.init(jax.random.key(0), (window, state), x, reset)
    assert memory.apply(variables, (window, state), x, reset)[1].shape == (1, 2, 8)
    with pytest.raises(ValueError, match=r"RGLRU.d_inner=0 must be a positive integer"):
        RGLRU(d_inner=0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"kind": "s5", "d_model": 32}], r"layers\[0\]: d_model=32 differs from the memory's d_model=16"),
        (["gru", {"attention": {"window": 16}}], r"layers\[1\]: .* has no kind; write {kind: attention, window: 16}"),
        (["hybrid"], r"layers\[0\]: kind='hybrid' cannot stand in a list"),
        (["[mamba, mlp]"], r"layers\[0\]: .* separate the layers by spaces"),
        (["gru", {"kind": "mamba", "dt_rank": "x"}], r"layers\[1\]: Mamba.dt_rank='x' must be a positive integer, or"),
        (5, "layers=5 must be a list of kinds"),
        ((each for each in ["gru"]), "must be a list of kinds"),
    ],
)
def test_an_entry_that_cannot_be_is_named_with_its_place(layers, message):
    with pytest.raises(ValueError, match=message):
        make_memory("hybrid", layers=layers, d_model=16)


@pytest.mark.parametrize("name", ["", 5])
def test_a_name_is_a_string(name):
    with pytest.raises(ValueError, match="the name must be a string"):
        register(name)


@pytest.mark.parametrize("wrong", ["x", 1.5, True, 0])
def test_optional_integers_are_checked_too(wrong):
    with pytest.raises(ValueError, match=r"Mamba.dt_rank=.* must be a positive integer, or None"):
        make_memory("mamba", dt_rank=wrong)
    assert make_memory("mamba", d_state=np.int64(4), dt_rank=None).layers[0].layer.d_state == 4
