"""Errors of what a world model expected, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import Box, Dict, Discrete, MultiDiscrete, Tuple
from hippodrome.training.inspection.prediction import _shown_channels, write_videos
from hippodrome.training.inspection.prediction_parts import Part, observation_parts

LOG = np.log


def test_every_kind_of_part_has_an_error_by_hand():
    """One step of one episode: a picture of one pixel too dark, a vector, and choices of probability 1/2 and 3/4."""
    space = Dict(
        {
            "view": Tuple([Box(0, 255, (4, 4, 1), jnp.uint8)]),
            "speed": Box(-9.0, 9.0, (2,)),
            "kind": Discrete(3),
            "tools": MultiDiscrete([2, 2]),
        }
    )
    observation = {
        "view": (np.full((1, 1, 4, 4, 1), 255, np.uint8),),
        "speed": np.array([[[1.0, -2.0]]], np.float32),
        "kind": np.array([[1]], np.int32),
        "tools": np.array([[[0, 1]]], np.int32),
    }
    picture = np.ones((1, 1, 4, 4, 1), np.float32)
    picture[0, 0, 0, 0] = 0.5
    # In the order of the names; vectors are symlog values: 3 and -2.
    outputs = [
        LOG([[[0.25, 0.5, 0.25]]]),
        np.array([[[LOG(4.0), -LOG(3.0)]]]),
        LOG([[[0.75, 0.25, 0.5, 0.5]]]) + np.array([7.0, 7.0, -7.0, -7.0]),
        picture,
    ]
    parts = {part.kind + part.where: part for part in observation_parts(space, observation, outputs)}
    assert list(parts) == ["discrete['kind']", "vector['speed']", "discrete['tools']", "image['view'][0]"]
    errors = {name: part.error(part.expected) for name, part in parts.items()}
    assert all(error.shape == (1, 1) for error in errors.values())
    assert errors["discrete['kind']"].item() == pytest.approx(0.5)
    assert errors["vector['speed']"].item() == pytest.approx((2.0 + 0.0) / 2)
    assert errors["discrete['tools']"].item() == pytest.approx((0.25 + 0.5) / 2)
    assert errors["image['view'][0]"].item() == pytest.approx(0.25 / 16)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0]), (2, [1]), (3, [0, 1, 2]), (4, [3]), (6, [3, 4, 5])])
def test_of_a_stack_of_frames_the_last_is_shown_and_every_picture_has_a_gif(channels, shown, tmp_path):
    frames = np.broadcast_to(np.arange(channels) / 8.0, (2, 1, 4, 4, channels))
    found = _shown_channels(frames)
    assert (found * 8).astype(int)[0, 0, 0, 0].tolist() == shown
    write_videos(tmp_path, [Part("image", "", found, found)] * 2, np.ones((2, 1), bool), 1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["prediction-2.gif", "prediction.gif"]


def test_a_part_alone_has_no_place_and_a_huge_output_stays_finite():
    (part,) = observation_parts(Box(-1.0, 1.0, (1,)), np.zeros((1, 1, 1), np.float32), [np.full((1, 1, 1), 200.0)])
    assert (part.kind, part.where) == ("vector", "") and np.isfinite(part.error(part.expected)).all()
