"""Masks, latent reconstruction, bisimulation and Barlow's loss against NumPy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents.dreamer.robust import (
    barlow_loss,
    bisimulation_loss,
    cosine,
    cube_mask,
    latent_reconstruction_loss,
    mask_images,
)
from hippodrome.envs import Box, Dict

generator = np.random.default_rng(0)


def numbers(*shape):
    return generator.normal(size=shape).astype(np.float32)


def test_masks_are_cubes_of_space_and_time_with_the_share_asked():
    mask = np.asarray(cube_mask(jax.random.key(0), (10, 200, 13, 12), ratio=0.3, patch=5, frames=4))
    assert mask.shape == (10, 200, 13, 12) and mask.mean() == pytest.approx(0.3, abs=0.03)
    for steps in (slice(0, 4), slice(4, 8), slice(8, 10)):
        assert (mask[steps] == mask[steps][:1]).all()
    for rows in (slice(0, 5), slice(5, 10), slice(10, 13)):
        for columns in (slice(0, 5), slice(5, 10), slice(10, 12)):
            patch = mask[:, :, rows, columns]
            assert (patch == patch[:, :, :1, :1]).all()
    assert (mask[3] != mask[4]).any() and (mask[:, 0] != mask[:, 1]).any()


def test_only_pictures_are_masked_and_with_mid_grey():
    space = Dict({"image": Box(0, 255, (8, 8, 3), "uint8"), "speed": Box(-1.0, 1.0, (2,))})
    observation = {"image": jnp.full((4, 3, 8, 8, 3), 200, jnp.uint8), "speed": jnp.asarray(numbers(4, 3, 2))}
    config = types.SimpleNamespace(mask_ratio=0.5, mask_patch=4, mask_frames=2)
    got = mask_images(space, observation, jax.random.key(0), config)
    assert set(np.unique(got["image"]).tolist()) == {128, 200} and got["image"].dtype == jnp.uint8
    assert (np.asarray(got["image"]) == np.asarray(got["image"])[..., :1]).all()
    assert (got["speed"] == observation["speed"]).all()


def test_latent_reconstruction_looks_at_directions_and_leaves_the_target_alone():
    x, y = numbers(4, 3, 5), numbers(4, 3, 5)
    unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (x, y)]
    np.testing.assert_allclose(latent_reconstruction_loss(x, y), ((unit[0] - unit[1]) ** 2).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(latent_reconstruction_loss(3 * x, x), 0.0, atol=1e-5)
    d_x, d_y = jax.grad(lambda x, y: latent_reconstruction_loss(x, y).sum(), argnums=(0, 1))(x, y)
    assert np.abs(d_x).max() > 0 and not np.asarray(d_y).any()


def test_the_cosine_of_a_vector_of_zeros_is_zero_with_a_finite_gradient():
    assert float(cosine(jnp.zeros(3), jnp.ones(3))) == 0.0
    assert jnp.isfinite(jax.grad(lambda x: cosine(x, jnp.ones(3)))(jnp.zeros(3))).all()


def test_bisimulation_compares_distance_with_rewards_and_what_comes_next():
    f, raw, after, raw_after = (numbers(4, 6) for _ in range(4))
    reward, other = np.array([0.0, 2.0, 0.5, 1.0], np.float32), np.array([1, 0, 3, 2])

    def distance(x, y):
        return 1 - (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)

    error = np.abs(distance(f, raw[other]) - (np.abs(reward - reward[other]) + 0.9 * distance(after, raw_after[other])))
    want = np.where(error <= 1, 0.5 * error**2, error - 0.5)
    got = bisimulation_loss(f, raw, after, raw_after, jnp.asarray(reward), jnp.asarray(other), 0.9)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    grads = jax.grad(lambda *x: bisimulation_loss(*x, jnp.asarray(reward), jnp.asarray(other), 0.9).sum(), (0, 1, 2, 3))
    moving = [bool(np.asarray(each).any()) for each in grads(f, raw, after, raw_after)]
    assert moving == [True, False, False, False]


def test_barlow_wants_units_alike_and_different_from_each_other():
    x = numbers(500, 3)
    assert float(barlow_loss(x, 5 * x + 2)) < 1e-3
    y = numbers(500, 3)
    standard = [(each - each.mean(0)) / each.std(0) for each in (x, y)]
    c = standard[0].T @ standard[1] / 500
    want = ((1 - np.diag(c)) ** 2).sum() + 5e-3 * ((c**2).sum() - (np.diag(c) ** 2).sum())
    assert float(barlow_loss(x, y)) == pytest.approx(want / 3, rel=1e-3)
