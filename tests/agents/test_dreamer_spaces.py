"""Observation spaces that Dreamer cannot learn from: each part told by its place, with what to do."""

import jax.numpy as jnp
import pytest

from hippodrome.agents import Dreamer, DreamerConfig
from hippodrome.agents.distributions import ActionDistribution
from hippodrome.agents.dreamer.networks import observation_problems
from hippodrome.agents.networks import Featurizer
from hippodrome.envs import Box, Dict, Discrete, Space, Tuple, check_batch
from hippodrome.memory import memory_config


def image(*shape):
    return Box(0, 255, shape, jnp.uint8)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 5, 6), (4, 84, 84)])
def test_channels_first_are_told_to_be_last(shape):
    (problem,) = observation_problems(image(*shape))
    last = (*shape[1:], shape[0])
    assert f"must be [height, width, channels]: transpose it to {last}, the channels last" in problem
    assert "flatten" not in problem and observation_problems(image(*last)) == []


def test_a_small_picture_of_many_channels_is_none_with_channels_first():
    assert observation_problems(image(4, 5, 7)) == observation_problems(image(4, 4, 16)) == []
    (problem,) = observation_problems(image(2, 8, 3))
    assert "must be at least 4 pixels high and wide; flatten it" in problem


def test_every_broken_part_is_told_by_its_place():
    space = Dict({"hands": Tuple([image(3, 64, 64), image(2, 2, 3)]), "map": Box(0.0, 1.0, (4, 4, 2)), "odd": Space()})
    problems = observation_problems(space)
    places = ["['hands'][0] Box", "['hands'][1] Box", "['map'] Box", "['odd'] <"]
    assert len(problems) == 4
    for problem, place in zip(problems, places, strict=True):
        assert problem.startswith(f"observation space{place}")
    assert "has 3 axes; an image must be a uint8 Box" in problems[2]
    with pytest.raises(ValueError, match=r"observation space\['odd'\] .* cannot be encoded"):
        Featurizer(Dict({"odd": Space(), "plain": Discrete(2)}), Discrete(2), ())
    with pytest.raises(ValueError, match=r"action space\['push'\] Box\(.* has no finite bounds"):
        ActionDistribution(Dict({"push": Box(-jnp.inf, jnp.inf, (2,)), "tool": Discrete(2)}))
    with pytest.raises(ValueError, match=r"observation\['speed'\] has shape \(2, 4\), expected \(2, 3\)"):
        check_batch("observation", {"kind": jnp.zeros(2, int), "speed": jnp.zeros((2, 4))}, SPEEDS, 2)
    with pytest.raises(ValueError, match=r"observation\['kind'\] has dtype float32, expected integers"):
        check_batch("observation", {"kind": jnp.zeros(2), "speed": jnp.zeros((2, 3))}, SPEEDS, 2)


SPEEDS = Dict({"speed": Box(-1.0, 1.0, (3,)), "kind": Discrete(2)})


def test_a_mask_without_a_picture_to_hide_is_refused_by_name():
    config, memory = DreamerConfig(mask_ratio=0.5), memory_config("s5")(d_model=6, d_state=4, num_layers=1)
    with pytest.raises(ValueError, match=r"mask_ratio=0\.5 must be 0 with the observation space Dict\(.* no pictures"):
        Dreamer(config, memory, SPEEDS, Discrete(2))
    Dreamer(config, memory, Dict({"speed": Box(-1.0, 1.0, (3,)), "view": image(8, 8, 3)}), Discrete(2))
