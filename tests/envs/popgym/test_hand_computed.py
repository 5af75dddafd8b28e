"""Trajectories worked out by hand, one family at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import make
from hippodrome.envs.popgym.battleship import BattleshipState, place_ship
from hippodrome.envs.popgym.cartpole import CartPoleState
from hippodrome.envs.popgym.concentration import ConcentrationState
from hippodrome.envs.popgym.pendulum import PendulumState

from .oracle import compiled, fresh_keys, roll


def state_with(env, **hidden):
    """The state after a reset, with some of what it holds replaced."""
    _, state = compiled(env.reset_env)(jax.random.key(0), env.default_params)
    return state.replace(**hidden)


def follow(env, state, actions) -> tuple:
    """`(observation, reward, terminated, truncated)` of one episode, leaves `[T, ...]`."""
    batched = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)
    keys = fresh_keys(1, 1, len(actions))
    return jax.tree.map(lambda leaf: leaf[0], roll(env, batched, np.asarray(actions)[None], keys))


def test_autoencode_plays_from_the_last_card_on():
    env = make("popgym/AutoencodeEasy")
    suits = jnp.array([3, 2] + [1] * 48 + [2, 0], jnp.int8)
    answers = [3] * 51 + [0, 2] + [1] * 48 + [2, 2]  # 51 unscored, then backwards; the last one is wrong
    (modes, shown), reward, terminated, _ = follow(env, state_with(env, suits=suits), answers)
    assert modes.tolist() == [1] * 50 + [0] * 53
    assert shown.tolist() == [2] + [1] * 48 + [2, 0] + [0] * 52
    np.testing.assert_allclose(reward, [0] * 51 + [1 / 52] * 51 + [-1 / 52], atol=1e-7)
    assert terminated.tolist() == [False] * 102 + [True]


def test_repeat_first_scores_the_answer_to_the_first_card_too():
    env = make("popgym/RepeatFirstEasy")
    suits = jnp.array([2] + [0, 1, 3] * 17, jnp.int8)
    shown, reward, terminated, _ = follow(env, state_with(env, suits=suits), [2, 0] + [2] * 49)
    assert shown.tolist() == [0, 1, 3] * 17
    np.testing.assert_allclose(reward, [1 / 51, -1 / 51] + [1 / 51] * 49, atol=1e-7)
    assert terminated.tolist() == [False] * 50 + [True]


def test_count_recall_counts_the_card_on_show():
    env = make("popgym/CountRecallEasy")
    dealt, queried = jnp.tile(jnp.array([0, 1], jnp.int8), 26), jnp.array([0, 0, 1, 1] * 13, jnp.int8)
    counts = jnp.array([1, 0])
    shown, reward, terminated, _ = follow(
        env, state_with(env, dealt=dealt, queried=queried, counts=counts), [1, 1, 1, 1, 3]
    )
    # The answers due: one 0, then still one; one 1, then two; three 0s.
    assert shown.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]]
    np.testing.assert_allclose(reward * 51, [1, 1, 1, -1, 1], rtol=1e-6)
    assert not terminated.any()


def test_higher_lower_scores_ties_nothing():
    env = make("popgym/HigherLowerEasy")
    ranks = state_with(env).ranks.at[:5].set(jnp.array([4, 9, 9, 2, 12], jnp.int8))
    shown, reward, *_ = follow(env, state_with(env, ranks=ranks), [0, 1, 0, 0])
    assert shown.tolist() == [9, 9, 2, 12]
    np.testing.assert_allclose(reward * 52, [1, 0, -1, 1], rtol=1e-6)


def test_battleship_pays_for_the_first_hit_on_a_cell_only():
    env = make("popgym/BattleshipEasy")
    afloat = jnp.zeros((8, 8), bool).at[0, :4].set(True).at[2, :3].set(True).at[4, :3].set(True).at[6, :2].set(True)
    shots = [(0, 0), (0, 0), (1, 1), (0, 1), (0, 2), (0, 3), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2), (6, 0)]
    shots += [(6, 1)]
    hit, reward, terminated, truncated = follow(env, BattleshipState(jnp.zeros((), jnp.int32), afloat), shots)
    assert hit.tolist() == [1, 0, 0] + [1] * 11
    np.testing.assert_allclose(reward, [1 / 12, -1 / 52, -1 / 52] + [1 / 12] * 11, atol=1e-7)
    assert terminated.tolist() == [False] * 13 + [True] and not truncated.any()


def test_battleship_shooting_every_cell_returns_nothing():
    env = make("popgym/BattleshipEasy")
    afloat = state_with(env).afloat
    order = np.argsort(np.asarray(afloat).ravel(), kind="stable")  # water first, so that the last shot sinks the last
    shots = np.stack(np.unravel_index(order, (8, 8)), axis=1)
    _, reward, terminated, truncated = follow(env, state_with(env), shots)
    np.testing.assert_allclose(reward.sum(), 0.0, atol=1e-6)
    assert terminated[-1] and truncated[-1]  # both: the vectorised environment lets terminated win


def test_place_ship_takes_each_free_place_in_turn():
    free = jnp.ones((8, 8), bool).at[0].set(False).at[:, 3].set(False)
    # Four in a row fit only right of column 3, on 7 rows; four in a column in rows 1 to 7, on 7 columns.
    num_places = 7 + 7 * 4
    draws = (np.arange(num_places) + 0.5) / num_places
    ships = np.asarray(compiled(jax.vmap(lambda draw: place_ship(draw, free, 4)))(draws))
    assert len({ship.tobytes() for ship in ships}) == num_places
    assert (ships.sum((1, 2)) == 4).all() and not (ships & ~np.asarray(free)).any()
    for ship in ships:
        rows, columns = np.nonzero(ship)
        assert np.ptp(rows) + np.ptp(columns) == 3 and min(np.ptp(rows), np.ptp(columns)) == 0


def test_concentration_turns():
    env = make("popgym/ConcentrationEasy")
    kinds = jnp.tile(jnp.array([0, 1], jnp.int8), 26)
    state = ConcentrationState(jnp.zeros((), jnp.int32), kinds, jnp.zeros(52, bool), jnp.full((), -1, jnp.int32))
    #        0 2: a pair  0 is up   1 then 0, which is up  1 1: the same card  1 4: they differ  3 5: a pair
    turns = [0, 2, 0, 1, 0, 1, 1, 1, 4, 3, 5]
    shown, reward, terminated, _ = follow(env, state, turns)
    pair, cost = 1 / 26, -1 / 104
    expected = [0, pair, cost, 0, 2 * cost, 0, 2 * cost, 0, 2 * cost, 0, pair]
    np.testing.assert_allclose(reward, expected, atol=1e-7)
    visible = [np.flatnonzero(row != 2).tolist() for row in shown]
    up = [0, 2]
    assert visible[:5] == [[0], up, up, [0, 1, 2], [0, 1, 2]]
    assert visible[5:] == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2, 4], [0, 2, 3], [0, 2, 3, 5]]
    assert shown[-1, [0, 2, 3, 5]].tolist() == [0, 0, 1, 1] and not terminated.any()


@pytest.mark.parametrize(("chance", "expected"), [(1.0, 1.0), (0.0, -1.0)])
def test_bandit_returns_plus_or_minus_one_at_its_bounds(chance, expected):
    env = make("popgym/MultiarmedBanditEasy")
    paid, reward, terminated, truncated = follow(env, state_with(env, chances=jnp.full(10, chance)), [3] * 200)
    assert (paid == chance).all()
    np.testing.assert_allclose(reward.sum(), expected, atol=1e-5)
    assert not terminated.any() and truncated.tolist() == [False] * 199 + [True]


def test_cartpole_first_push_and_fall():
    env = make("popgym/VelocityOnlyCartPoleEasy")
    rest = CartPoleState(jnp.zeros((), jnp.int32), *jnp.zeros(4))
    velocities, *_ = follow(env, rest, [1])
    # u = 10 / 1.1; theta_acc = -u / (0.5 (4/3 - 0.1/1.1)) = -14.6341; x_acc = u + 0.05 * 14.6341 / 1.1 = 9.7561
    np.testing.assert_allclose(velocities[0], [0.02 * 9.756098, 0.02 * -14.634146], rtol=1e-6)
    leaning = CartPoleState(jnp.zeros((), jnp.int32), *jnp.array([0.0, 0.0, math.radians(11.9), 1.0]))
    _, reward, terminated, truncated = follow(env, leaning, [1])
    assert terminated[0] and not truncated[0]
    np.testing.assert_allclose(reward, 1 / 200)  # the step of the fall is paid


def test_cartpole_falling_at_the_time_limit_is_terminated():
    env = make("popgym/PositionOnlyCartPoleEasy")
    leaning = CartPoleState(jnp.full((), 199, jnp.int32), *jnp.array([0.0, 0.0, math.radians(11.9), 1.0]))
    _, _, terminated, truncated = follow(env, leaning, [1])
    assert terminated[0] and truncated[0]  # both: the vectorised environment lets terminated win


def test_pendulum_from_the_side_with_too_much_torque():
    env = make("popgym/PositionOnlyPendulumEasy")
    state = PendulumState(jnp.zeros((), jnp.int32), jnp.asarray(math.pi / 2), jnp.zeros(()))
    shown, reward, *_ = follow(env, state, [[5.0]])
    # Torque 2: speed 0.05 (15 + 6) = 1.05, angle + 0.05 * 1.05; cost (pi / 2)^2 + 0.001 * 4.
    angle = math.pi / 2 + 0.0525
    np.testing.assert_allclose(shown[0], [math.cos(angle), math.sin(angle)], atol=1e-6)
    np.testing.assert_allclose(reward[0], (1 - 2 * (math.pi**2 / 4 + 0.004) / 16.2736044) / 200, rtol=1e-5)


def test_pendulum_spinning_round_keeps_its_angle_within_half_a_turn():
    env = make("popgym/PositionOnlyPendulumEasy")
    state = PendulumState(jnp.zeros((), jnp.int32), jnp.asarray(3.1), jnp.asarray(8.0))
    _, state, *_ = env.step_env(jax.random.key(0), state, jnp.zeros(1), env.default_params)
    speed = min(8.0, 8.0 + 0.05 * 15 * math.sin(3.1))
    np.testing.assert_allclose(state.theta, 3.1 + 0.05 * speed - 2 * math.pi, atol=1e-6)
