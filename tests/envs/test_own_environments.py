"""The environments of the suite `hippodrome/`, by hand-made examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import check_env, make
from hippodrome.envs.distractors import draw_texture
from hippodrome.envs.empty_room import EMPTY, GOAL, UNSEEN, WALL, EmptyRoom

IDS = ["hippodrome/Empty-5x5", "hippodrome/Empty-8x8", "hippodrome/PixelPendulum"]


@pytest.mark.parametrize("env_id", IDS)
def test_it_keeps_the_protocol(env_id):
    check_env(make(env_id))


def walk(env, actions):
    params = env.default_params
    observation, state = env.reset_env(jax.random.key(0), params)
    rewards, ended = [], False
    step = jax.jit(env.step_env)
    for action in actions:
        assert not ended
        observation, state, reward, ended, _ = step(jax.random.key(0), state, jnp.asarray(action), params)
        rewards.append(float(reward))
    return observation.reshape(7, 7), state, rewards, bool(ended)


def test_the_view_of_the_empty_room_is_what_stands_before_the_agent():
    env = EmptyRoom(5)
    view, _, _, _ = walk(env, [])
    # Heading right in the upper left cell: the far wall is 3 ahead, the near wall one to the left, the goal 2 right, 2
    # ahead.
    want = np.full((7, 7), UNSEEN)
    want[3:7, 2] = WALL
    want[3, 2:7] = WALL
    want[4:7, 3:6] = EMPTY
    want[4, 5] = GOAL
    want[3:7, 6] = WALL
    assert (np.asarray(view) == want).all(), np.asarray(view)


def test_walking_to_the_goal_earns_what_the_steps_leave_and_walls_stop_a_step():
    env = EmptyRoom(5)
    _, _, rewards, ended = walk(env, [2, 2, 1, 2, 2])
    assert ended and rewards == [0.0] * 4 + [pytest.approx(1 - 0.9 * 5 / 100)]
    _, state, rewards, ended = walk(env, [0, 2, 2, 1, 2, 2, 2])
    assert state.place.tolist() == [1, 3] and not ended and not any(rewards)
    with pytest.raises(ValueError, match="size=3 must be at least 4"):
        EmptyRoom(3)


def picture(env, theta, **changes):
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    state = state.replace(pendulum=state.pendulum.replace(theta=jnp.asarray(theta)), **changes)
    return np.asarray(env.render(jax.random.key(1), state), int)


def test_the_rod_points_where_the_angle_says():
    env = make("hippodrome/PixelPendulum")
    for theta, (row, column) in ((0.0, (8, 16)), (np.pi / 2, (16, 24)), (np.pi, (24, 16)), (-np.pi / 2, (16, 8))):
        bright = picture(env, theta)[..., 0] > 200
        assert bright[row, column], theta
        assert 15 < bright.sum() < 80
    near, far = picture(env, 0.5), picture(env, 0.52)
    assert 0 < np.abs(near - far).max() < 60  # a small turn shows, a little


def test_noise_is_new_in_every_picture_and_textures_move():
    noisy = make("hippodrome/PixelPendulum", background="noise")
    step = jax.jit(noisy.step_env)
    first, state = noisy.reset_env(jax.random.key(0), noisy.default_params)
    second = step(jax.random.key(1), state, jnp.zeros(1), noisy.default_params)[0]
    outer = np.asarray(first, int)[:4], np.asarray(second, int)[:4]
    assert np.abs(outer[0] - outer[1]).mean() > 30 and 0.1 < (outer[0] / 255).std() < 0.3
    textured = make("hippodrome/PixelPendulum", background="texture")
    at, moved = (picture(textured, np.pi, texture=jnp.asarray(3), shift=jnp.array([s, 0.0])) for s in (0.0, 0.5))
    assert np.abs(at[:4] - moved[:4]).mean() > 3
    # Moved by two pixels, the picture is the same two pixels on.
    far = picture(textured, np.pi, texture=jnp.asarray(3), shift=jnp.array([2 / 16, 0.0]))
    np.testing.assert_allclose(far[:3, 2:], at[:3, :-2], atol=1)


def test_no_texture_is_in_both_splits():
    train, held_out = (np.stack([draw_texture(jnp.asarray(i), split).phase for i in range(16)]) for split in
                       ("train", "held_out"))  # fmt: skip
    together = np.concatenate([train, held_out]).reshape(32, -1)
    distances = np.abs(together[:, None] - together[None]).max(-1) + np.eye(32)
    assert distances.min() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": "video"}, "background='video' must be one of clean, noise, texture"),
        ({"split": "test"}, "split='test' must be one of train, held_out"),
        ({"size": 4}, "size=4 must be at least 8"),
        ({"num_textures": 0}, "num_textures=0 must be at least 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("hippodrome/PixelPendulum", **arguments)
