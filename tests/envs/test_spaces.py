"""Spaces: what they sample, contain, and become in gymnasium."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hippodrome.envs import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, flat_spaces, null_action, to_gymnasium

BOUNDS = st.tuples(st.integers(-5, 5), st.integers(0, 5))
LEAVES = st.one_of(
    st.builds(Discrete, st.integers(1, 5)),
    st.builds(MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=3)),
    st.builds(lambda bounds: Box(bounds[0], sum(bounds), (2,)), BOUNDS),
    st.builds(lambda bounds: Box(bounds[0], sum(bounds), (1, 2), jnp.int32), BOUNDS),
)
SPACES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(Tuple, st.lists(parts, min_size=1, max_size=2)),
        st.builds(Dict, st.dictionaries(st.sampled_from("abc"), parts, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)


@settings(max_examples=10, deadline=None)
@given(SPACES, st.integers(0, 100))
def test_samples_belong_to_the_space_here_and_in_gymnasium(space, seed):
    element = space.sample(jax.random.key(seed))
    assert bool(space.contains(element))
    assert to_gymnasium(space).contains(jax.tree.map(np.asarray, element))
    parts = flat_spaces(space)
    for part, leaf, null in zip(parts, jax.tree.leaves(element), jax.tree.leaves(null_action(space)), strict=True):
        assert bool(part.contains(leaf)) and leaf.shape == part.shape == null.shape
        assert leaf.dtype == part.dtype == null.dtype
        assert (null == (0 if isinstance(part, Box) else -1)).all()
    assert jax.tree.structure(element) == jax.tree.structure(null_action(space))


def test_contains_rejects_what_lies_outside():
    assert not Discrete(3).contains(3) and not Discrete(3).contains(-1)
    assert not MultiDiscrete([2, 3]).contains(jnp.array([1, 3]))
    assert not Box(0, 1, (2,)).contains(jnp.array([0.5, 1.5]))
    assert not Box(0, 1, (2,)).contains(jnp.array([0.5, jnp.nan]))
    pair = Tuple([Discrete(2), Box(0, 1, ())])
    assert pair.contains((1, 0.5)) and not pair.contains((2, 0.5)) and not pair.contains((1, 2.0))
    named = Dict({"a": Discrete(2)})
    assert named.contains({"a": 1}) and not named.contains({"a": 2}) and not named.contains({"b": 1})


def test_flat_spaces_follow_the_leaves_of_an_element():
    space = Dict({"b": Discrete(2), "a": Tuple([MultiDiscrete([3]), Discrete(4)])})
    assert [part.shape for part in flat_spaces(space)] == [(1,), (), ()]
    assert [repr(part) for part in flat_spaces(space)] == ["MultiDiscrete([3])", "Discrete(4)", "Discrete(2)"]


def test_box_bounds_dtypes_and_samples():
    box = Box([0.0, -np.inf, -np.inf], [1.0, 0.5, np.inf])
    samples = np.asarray(jax.jit(jax.vmap(box.sample))(jax.random.split(jax.random.key(0), 200)))
    assert box.shape == (3,) and np.isfinite(samples).all()
    assert 0 <= samples[:, 0].min() < 0.05 and 0.95 < samples[:, 0].max() <= 1
    assert samples[:, 1].max() == 0.5 and samples[:, 2].max() > 1.5
    image = Box(0, 255, (2, 2), jnp.uint8)
    pixels = np.asarray(jax.jit(jax.vmap(image.sample))(jax.random.split(jax.random.key(0), 500)))
    assert pixels.dtype == np.uint8 and pixels.min() == 0 and pixels.max() == 255
    assert to_gymnasium(image) == gymnasium.spaces.Box(0, 255, (2, 2), np.uint8)
    assert repr(Box(0, 1, (2,))) == "Box(0.0, 1.0, (2,), float32)"
    assert repr(Box([0, 1], [2, 2])) == "Box([0. 1.], 2.0, (2,), float32)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Discrete(0), "n=0 must be at least 1"),
        (lambda: MultiDiscrete([]), "nvec=.* must be a non-empty list"),
        (lambda: MultiDiscrete([3, 0]), "each at least 1"),
        (lambda: Box([0, 1], 2, (3,)), r"low=\[0, 1\] must fit dtype=float32 and broadcast to shape=\(3,\)"),
        (lambda: Box(2, 1, ()), "low=2 must not exceed high=1"),
        (lambda: Box(-np.inf, 1, (), jnp.int32), "low=-inf must fit dtype=int32"),
    ],
)
def test_impossible_spaces_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_spaces_are_named():
    class Strange(Space):
        shape = ()

    with pytest.raises(TypeError, match="must be a Discrete, MultiDiscrete or Box"):
        null_action(Strange())
    with pytest.raises(TypeError, match="must be Discrete, MultiDiscrete, Box, Tuple or Dict"):
        to_gymnasium(Strange())
    with pytest.raises(NotImplementedError, match=r"Strange must define sample\(key\)"):
        Strange().sample(jax.random.key(0))
    with pytest.raises(NotImplementedError, match=r"Strange must define contains\(x\)"):
        Strange().contains(0)
