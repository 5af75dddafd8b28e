"""Tasks: splits that never meet, projections, mixtures, and the suites made of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hippodrome.envs import Box, Discrete, make, splits
from hippodrome.envs.adapters.gymnax_env import make_gymnax
from hippodrome.envs.meta.bandit import Bandit
from hippodrome.envs.meta.control import HORIZON, MEMBERS, Varied, make_control
from hippodrome.envs.meta.navigation import GridNavigation, PointNavigation
from hippodrome.envs.meta.tabular_mdp import TabularMDP
from hippodrome.envs.mixture import Mixture
from hippodrome.envs.projection import Projection, padded
from hippodrome.envs.splits import Ranges, around, seeded_key
from tests.compare import assert_close

KEY = jax.random.key(7)


class Unbounded(PointNavigation):
    """Its actions have no bounds."""

    def action_space(self, params):
        return Box(-np.inf, np.inf, (2,))


def tasks(env, number, seed=0):
    """Tasks of an environment, stacked."""
    keys = jax.random.split(jax.random.key(seed), number)
    return jax.vmap(env.sample_task, in_axes=(0, None))(keys, env.default_params)


def test_seeds_of_the_splits_never_meet(monkeypatch):
    monkeypatch.setattr(splits, "_SEEDS", 8)

    def seen(held_out):
        keys = jax.vmap(lambda key: seeded_key(key, held_out=held_out, kind=3))(jax.random.split(KEY, 300))
        return {tuple(row) for row in jax.random.key_data(keys).tolist()}

    train, held_out = seen(False), seen(True)
    assert len(train) == len(held_out) == 8 and not train & held_out


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.5, 5), st.floats(0.05, 0.4)), min_size=1, max_size=4),
    st.integers(0, 2**30),
)
def test_points_are_inside_or_held_out(centres, seed):
    ranges = around(**{f"x{index}": (centre, inner, 2 * inner) for index, (centre, inner) in enumerate(centres)})
    keys = jax.random.split(jax.random.key(seed), 20)
    for held_out in (False, True):
        points = jax.vmap(lambda key, held_out=held_out: ranges.sample(key, held_out=held_out))(keys)
        for index in range(len(keys)):
            point = {name: float(value[index]) for name, value in points.items()}
            outside = [not low <= point[name] <= high for name, (low, high) in ranges.train.items()]
            # Rounding to float32 may put a number on the edge.
            near = [min(abs(point[name] - edge) for edge in ranges.train[name]) < 1e-5 for name in ranges.names]
            assert not any(o and not n for o, n in zip(outside, near, strict=True)) or held_out
            if held_out:
                assert any(o or n for o, n in zip(outside, near, strict=True))
            for name, (centre, inner) in zip(ranges.names, centres, strict=True):
                assert abs(point[name] - centre) <= centre * 2 * inner + 1e-5


@pytest.mark.parametrize(
    ("train", "held_out", "message"),
    [
        ({"g": (1.0, 2.0)}, {"g": ((1.5, 3.0),)}, r"g: the split overlaps: held out \(1.5, 3.0\) and .*\(1.0, 2.0\)"),
        ({"g": (1.0, 2.0)}, {"m": ((3.0, 4.0),)}, r"train=\['g'\] and held_out=\['m'\] must name the same"),
        ({"g": (2.0, 1.0)}, {"g": ((3.0, 4.0),)}, r"g: range \(2.0, 1.0\) must have its lower end first"),
    ],
)
def test_ranges_that_cannot_be_are_refused(train, held_out, message):
    with pytest.raises(ValueError, match=message):
        Ranges(train, held_out)


def test_a_projection_multiplies_what_is_seen_and_what_is_done():
    inner = make_gymnax("Pendulum-v1")
    env = Projection(inner, observation_size=5, action_size=2)
    params = env.sample_task(KEY, env.default_params)
    assert params.observation.shape == (5, 3) and params.action.shape == (1, 2)
    observation, state = env.reset_env(jax.random.key(1), params)
    raw, raw_state = inner.reset_env(jax.random.key(1), params.inner)
    np.testing.assert_allclose(observation, params.observation @ raw, rtol=1e-5)
    action = jnp.array([0.5, -2.0])
    after = env.step_env(jax.random.key(2), state, action, params)
    torque = 2.0 * np.clip(np.asarray(params.action) @ np.array([0.5, -1.0]), -1, 1)
    np.testing.assert_allclose(env.to_inner(action, params), torque, rtol=1e-5)
    expected = inner.step_env(jax.random.key(2), raw_state, jnp.asarray(torque), params.inner)
    np.testing.assert_allclose(after[0], params.observation @ expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after[2], expected[2], rtol=1e-4)


def test_projections_are_gaussian_of_the_stated_variance():
    env = Projection(make_gymnax("Pendulum-v1"), observation_size=6, action_size=4)
    drawn = tasks(env, 2000)
    for matrix, size in ((drawn.observation, 3), (drawn.action, 4)):
        assert abs(float(matrix.mean())) < 0.02
        np.testing.assert_allclose(float(matrix.var()), 1 / size, rtol=0.05)


def test_discrete_actions_are_permuted_and_each_keeps_its_share():
    env = Projection(make("gymnax/Acrobot-v1"), action_size=6)
    assert env.action_space(env.default_params).n == 6
    params = env.sample_task(KEY, env.default_params)
    done = [int(env.to_inner(jnp.asarray(action), params)) for action in range(6)]
    assert sorted(done) == [0, 0, 1, 1, 2, 2]
    assert len({tuple(row) for row in tasks(env, 50).action.tolist()}) > 40


def test_padding_is_no_projection():
    env = Projection(make_gymnax("Pendulum-v1"), observation_size=5, action_size=2, identity=True)
    params = env.sample_task(KEY, env.default_params)
    observation, _ = env.reset_env(jax.random.key(1), params)
    raw, _ = make_gymnax("Pendulum-v1").reset_env(jax.random.key(1), params.inner)
    np.testing.assert_allclose(observation, [*raw, 0, 0])
    np.testing.assert_allclose(env.to_inner(jnp.array([0.5, 1.0]), params), [1.0])


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (
            lambda: Projection(make_gymnax("Pendulum-v1"), observation_size=2),
            r"observation_size=2 is narrower than Pend.*3",
        ),
        (lambda: Projection(make_gymnax("Acrobot-v1"), action_size=2), r"action_size=2 is narrower than Acrobot.*3"),
        (
            lambda: Projection(make_gymnax("Acrobot-v1"), split="test"),
            r"split='test' must be one of train, held-out-tasks",
        ),
        (
            lambda: Mixture({"a": make_gymnax("Pendulum-v1"), "b": make_gymnax("Acrobot-v1")}),
            r"needs one observation space, but a has Box.*3.* and b has .*6",
        ),
        (
            lambda: Mixture(
                {"a": make_gymnax("CartPole-v1"), "b": Projection(make_gymnax("CartPole-v1"), action_size=3)}
            ),
            "but a has .* and b has",
        ),
        (lambda: Projection(Unbounded()), r"action space Box\(-inf, inf.* must be one Box with finite bounds, or Disc"),
        (lambda: Mixture({}), "at least one environment"),
        (lambda: make("meta/Bandit", split="held-out-both"), "must be one of train, held-out-tasks$"),
        (lambda: make("meta/Control", members=("walker",)), r"members=\['walker'\] must be some of pendulum"),
        (lambda: Bandit(arms=1), "arms=1 must be at least 2"),
        (lambda: GridNavigation(size=2), "size=2 must be at least 3"),
        (lambda: PointNavigation(horizon=0), "horizon=0 must be at least 1"),
        (lambda: TabularMDP(states=1), "states=1"),
        (lambda: Varied("walker"), "member='walker' must be one of"),
    ],
)
def test_what_cannot_be_is_refused_naming_both_sides(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_a_member_of_a_mixture_is_stepped_as_it_is_alone():
    members = padded({env_id: make_gymnax(env_id) for env_id in ("Pendulum-v1", "MountainCarContinuous-v0")})
    # Padded to the widest of the two.
    assert {env.observation_space(env.default_params).shape for env in members.values()} == {(3,)}
    env = Mixture(members)
    action = jnp.array([0.3])
    reset, step = jax.jit(env.reset_env), jax.jit(env.step_env)
    seen = set()
    for seed in range(8):
        params = env.sample_task(jax.random.key(seed), env.default_params)
        member = int(params.member)
        seen.add(member)
        alone, alone_params = list(members.values())[member], params.members[member]
        observation, state = reset(jax.random.key(1), params)
        expected, expected_state = alone.reset_env(jax.random.key(1), alone_params)
        np.testing.assert_allclose(observation, expected, rtol=1e-5, atol=1e-6)
        after = step(jax.random.key(2), state, action, params)
        expected_after = alone.step_env(jax.random.key(2), expected_state, action, alone_params)
        np.testing.assert_allclose(after[0], expected_after[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after[2], expected_after[2], rtol=1e-4, atol=1e-5)
        assert bool(env.is_truncated(after[1], params)) == bool(alone.is_truncated(expected_after[1], alone_params))
    assert seen == {0, 1}


def test_a_bandit_pays_as_often_as_its_chances_say():
    env = Bandit(arms=3)
    params = env.sample_task(KEY, env.default_params)
    _, state = env.reset_env(KEY, params)
    for arm in range(3):
        step = lambda key, arm=arm: env.step_env(key, state, arm, params)[2:4]  # noqa: E731
        reward, done = jax.vmap(step)(jax.random.split(KEY, 4000))
        np.testing.assert_allclose(reward.mean(), params.chances[arm], atol=0.03)
        assert bool(done.all()) and set(np.unique(reward)) <= {0.0, 1.0}
    drawn = tasks(env, 2000).chances
    np.testing.assert_allclose([drawn.mean(), drawn.var()], [0.5, 1 / 12], rtol=0.05)


def test_a_tabular_process_goes_and_pays_as_its_tables_say():
    env = TabularMDP(states=4, actions=2)
    params = env.sample_task(KEY, env.default_params)
    np.testing.assert_allclose(params.transition.sum(-1), 1.0, rtol=1e-5)
    place = jnp.asarray(2, jnp.int32)
    _, state = env.reset_env(KEY, params)
    state = state.replace(place=place)
    observation, _, reward, *_ = jax.vmap(lambda key: env.step_env(key, state, 1, params))(jax.random.split(KEY, 8000))
    counts = np.bincount(np.asarray(observation), minlength=4) / 8000
    np.testing.assert_allclose(counts, params.transition[2, 1], atol=0.02)
    np.testing.assert_allclose([reward.mean(), reward.std()], [float(params.reward[2, 1]), 1.0], atol=0.05)
    drawn = tasks(env, 500)
    np.testing.assert_allclose([drawn.reward.mean(), drawn.reward.std()], [1.0, 1.0], atol=0.05)
    # A flat Dirichlet over four states: mean 1/4, variance 3 / (16 * 5).
    np.testing.assert_allclose(drawn.transition.var(), 3 / 80, rtol=0.05)


def test_the_hidden_goal_of_the_grid_pays_and_its_cells_are_split():
    train, held_out = GridNavigation(), GridNavigation(split="held-out-tasks")
    cells = [set(map(tuple, env.goals.tolist())) for env in (train, held_out)]
    assert not cells[0] & cells[1] and len(cells[0]) + len(cells[1]) == 21 and len(cells[1]) >= 4
    for env, allowed in zip((train, held_out), cells, strict=True):
        assert set(map(tuple, tasks(env, 200).goal.tolist())) == allowed
    params = train.default_params.replace(goal=jnp.array([3, 1]))
    observation, state = train.reset_env(KEY, params)
    assert observation.tolist() == [4, 0]
    found = []
    for action in (1, 2, 0, 3, 3):  # up, right (the goal), stay, down, down into the wall
        observation, state, reward, *_ = train.step_env(KEY, state, jnp.asarray(action), params)
        found.append((observation.tolist(), round(float(reward), 3)))
    assert found == [([3, 0], -0.1), ([3, 1], 1.0), ([3, 1], 1.0), ([4, 1], -0.1), ([4, 1], -0.1)]


def test_the_hidden_goal_in_the_plane_pays_within_its_reach():
    env = PointNavigation()
    params = env.default_params
    _, state = env.reset_env(KEY, params)
    rewards = []
    for _ in range(6):
        observation, state, reward, *_ = env.step_env(KEY, state, jnp.array([0.0, 0.5]), params)
        rewards.append(float(reward))
    np.testing.assert_allclose(observation, [0.0, 1.2], atol=1e-6)
    assert rewards == [0, 0, 0, 1, 1, 1]
    dense = PointNavigation(dense=True)
    *_, reward, _, _ = dense.step_env(KEY, state, jnp.zeros(2), params)
    np.testing.assert_allclose(reward, np.exp(-2 * 0.2**2), rtol=1e-5)  # at (0, 1.2), the goal at (0, 1)
    held_out = tasks(PointNavigation(split="held-out-tasks"), 300).angle
    assert not ((held_out > np.pi / 6 + 1e-5) & (held_out < 5 * np.pi / 6 - 1e-5)).any()


@pytest.mark.parametrize("member", MEMBERS)
def test_control_draws_its_tasks_from_the_split(member):
    ranges = MEMBERS[member].ranges
    for split in ("train", "held-out-tasks"):
        env = Varied(member, split)
        drawn = tasks(env, 40)
        points = [{name: float(value[i]) for name, value in drawn.point.items()} for i in range(40)]
        edges = {name: (low * (1 - 1e-6), high * (1 + 1e-6)) for name, (low, high) in ranges.train.items()}
        inside = [all(min(edges[n]) <= point[n] <= max(edges[n]) for n in edges) for point in points]
        assert all(inside) if split == "train" else not any(inside)
    physics = jax.vmap(env.physics)(drawn)
    for name in ranges.names:
        if hasattr(physics, name):
            np.testing.assert_array_equal(getattr(physics, name), drawn.point[name])


@pytest.mark.parametrize("member", MEMBERS)
def test_trials_of_control_have_one_length_and_numbers_of_one_size(member):
    env = Varied(member)
    space = env.action_space(env.default_params)

    def trial(key):
        params = env.sample_task(key, None)
        observation, state = env.reset_env(key, params)

        def step(state, key):
            action = jax.random.uniform(key, space.shape, minval=space.low, maxval=space.high)
            observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
            return state, (observation, reward, terminated, env.is_truncated(state, params))

        return observation, jax.lax.scan(step, state, jax.random.split(key, HORIZON))[1]

    first, (seen, reward, terminated, truncated) = jax.jit(jax.vmap(trial))(jax.random.split(KEY, 64))
    assert first.shape[1:] == seen.shape[2:] == env.observation_space(env.default_params).shape
    assert not terminated.any()
    np.testing.assert_array_equal(truncated, np.broadcast_to(np.arange(1, HORIZON + 1) == HORIZON, truncated.shape))
    assert reward.min() > -0.1 and reward.max() <= 1.0
    size = np.sqrt(np.mean(np.square(seen), axis=(0, 1)))
    assert (size > 0.1).all() and (size < 3.0).all(), size


def test_trials_of_control_are_as_long_as_asked():
    env = make("meta/Control", trials=3, horizon=7, members=("pendulum", "point"))
    assert env.longest_episode(env.default_params) == 21
    for name, options in (("meta/Control", {"members": ("point",)}), ("meta/TabularMDP", {})):
        shown = make(name, shows=("progress",), **options)
        assert "progress" in shown.observation_space(shown.default_params).spaces
    with pytest.raises(ValueError, match="horizon=0 must be at least 1"):
        make("meta/Control", horizon=0, members=("pendulum",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": ()}, r"members=\[\] must be some of pendulum, .*, point, each once"),
        ({"members": ("point", "point")}, r"members=\['point', 'point'\] must be some of .*, each once"),
        ({"members": "pont"}, r"members=\['pont'\] must be some of"),
        ({"horizon": 2.5}, "horizon=2.5 must be a whole number"),
        ({"projected": "false"}, "projected='false' must be true or false"),
        ({"projected": False, "split": "held-out-projections"}, "held-out-projections"),
    ],
)
def test_what_control_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("meta/Control", **{"members": ("point",), **arguments})


@pytest.mark.parametrize("member", MEMBERS)
def test_an_action_of_control_lasts_for_several_steps_of_gymnax(member):
    """Started from the state reached, one step of gymnax after the other, and paid by their mean."""
    env = Varied(member)
    params = env.sample_task(KEY, None)
    _, state = env.reset_env(KEY, params)
    action = 0.7 * jnp.ones(env.action_space(params).shape)
    observation, reached, reward, *_ = env.step_env(KEY, state, action, params)
    rules, rewards = MEMBERS[member], []
    for _ in range(rules.repeat):
        given = action[0] if rules.bounds else action
        raw, state, paid, *_ = env.env.step_env(KEY, state, given, env.physics(params))
        rewards.append(float(rules.reward(state, paid)))
    assert_close(reached, state)
    assert reward == pytest.approx(np.mean(rewards), rel=1e-5)
    np.testing.assert_allclose(observation, rules.shown(raw) / np.asarray(rules.units or 1.0), rtol=1e-5)


def test_the_cartpole_is_paid_where_it_should_stand(monkeypatch):
    params = Varied("cartpole-balance").default_params
    for member, upright, beside in (("cartpole-balance", 1.0, 0.0), ("cartpole-swing-up", 1.0, 0.5)):
        monkeypatch.setitem(MEMBERS, member, dataclasses.replace(MEMBERS[member], repeat=1))
        env = Varied(member)
        _, state = env.reset_env(KEY, params)
        state = state.replace(x=0.0, x_dot=0.0, theta=0.0, theta_dot=0.0)
        for change, expected in (
            ({}, upright),
            ({"theta": np.pi / 2}, beside),
            ({"theta": 2 * np.pi}, upright),
            ({"x": 2.5}, 0.0),
        ):
            observation, _, reward, terminated, _ = env.step_env(KEY, state.replace(**change), jnp.array([0.5]), params)
            assert float(reward) == pytest.approx(expected, abs=1e-3) and not terminated
            angle = change.get("theta", 0.0)
            np.testing.assert_allclose(observation[2:4], [np.cos(angle), np.sin(angle) / 0.5], atol=1e-3)


def test_control_keeps_what_follows_from_the_physics_and_hides_its_goals():
    balance = Varied("cartpole-balance")
    inner = balance.physics(balance.sample_task(KEY, None))
    np.testing.assert_allclose(inner.total_mass, inner.masscart + inner.masspole, rtol=1e-6)
    np.testing.assert_allclose(inner.polemass_length, inner.masspole * inner.length, rtol=1e-6)
    for member, width in (("reacher", 6), ("swimmer", 4)):
        env = Varied(member)
        one, other = (env.sample_task(jax.random.key(seed), None) for seed in (0, 1))
        goal = one.point["goal_x"], one.point["goal_y"]
        (seen, state), (seen_too, _) = (env.reset_env(KEY, params) for params in (one, other))
        assert seen.shape == (width,)
        np.testing.assert_array_equal(seen, seen_too)  # whatever the goal
        np.testing.assert_allclose(state.goal_xy, goal)
        *_, state_after = env.step_env(KEY, state, jnp.zeros(2), one)[:2]
        np.testing.assert_allclose(state_after.goal_xy, goal)
    _, state = Varied("cartpole-swing-up").reset_env(KEY, Varied("cartpole-swing-up").default_params)
    assert abs(float(state.theta) - np.pi) < 0.1


def test_the_projected_suite_has_one_space_in_every_split():
    spaces = set()
    for split in ("train", "held-out-tasks", "held-out-projections", "held-out-both"):
        env = make_control(("pendulum", "point"), split=split)
        spaces.add((repr(env.observation_space(env.default_params)), repr(env.action_space(env.default_params))))
        assert [part.env.split for part in env.env.members.values()] == 2 * [
            "held-out-tasks" if split in ("held-out-tasks", "held-out-both") else "train"
        ]
    assert spaces == {(repr(Box(-np.inf, np.inf, (16,))), repr(Box(-1.0, 1.0, (2,))))}


def test_the_cartpole_of_the_s5_code():
    env = make("meta/CartPole", trials=2)
    params = env.default_params
    assert env.longest_episode(params) == 400
    observation, state = env.reset_env(KEY, params)
    assert state.task.observation.shape == (4, 4) and isinstance(env.action_space(params), Discrete)
    np.testing.assert_array_equal(state.task.action, [0, 1])  # actions are as they are
    np.testing.assert_allclose(observation["observation"], state.task.observation @ jnp.stack(
        [state.inner.x, state.inner.x_dot, state.inner.theta, state.inner.theta_dot]), rtol=1e-5)  # fmt: skip
