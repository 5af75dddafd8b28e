"""CartPole and Pendulum families against PyPI popgym, with the noise taken out; the noise by its statistics."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.envs import make
from hippodrome.envs.popgym.cartpole import CartPoleState
from hippodrome.envs.popgym.pendulum import PendulumState

from .oracle import (
    LEVELS,
    Episode,
    ScriptedRandom,
    assert_same_episode,
    begin,
    compiled,
    fresh_keys,
    make_oracle,
    play,
    random_actions,
    roll,
)

FAMILIES = (
    "PositionOnlyCartPole",
    "VelocityOnlyCartPole",
    "NoisyPositionOnlyCartPole",
    "PositionOnlyPendulum",
    "NoisyPositionOnlyPendulum",
)
NAMES = [f"{family}{level}" for family in FAMILIES for level in LEVELS]
NUM_RANDOM = 3


def noiseless(name: str):
    """Our environment as popgym has it, first velocities shown wrongly included, but without noise."""
    options = {"noise_sigma": 0.0} if "Noisy" in name else {}
    return make(f"popgym/{name}", **options, **({"positions_at_reset": True} if "Velocity" in name else {}))


def start_of(state) -> np.ndarray:
    """What popgym's reset draws so as to begin in that state."""
    fields = ("x", "x_dot", "theta", "theta_dot") if isinstance(state, CartPoleState) else ("theta", "theta_dot")
    return np.array([getattr(state, field) for field in fields], np.float64)


def states_before(episode: Episode, length: int):
    """Our states where popgym was before each step, the last one repeated up to `length`; leaves `[length]`."""
    rows = np.stack(episode.before + episode.before[-1:] * (length - episode.length), axis=1)
    time = np.minimum(np.arange(length), episode.length - 1)
    if len(rows) == 4:
        return CartPoleState(time, *rows.astype(np.float32))
    # popgym lets the angle grow; ours stays within half a turn.
    rows[0] -= 2 * math.pi * np.round(rows[0] / (2 * math.pi))
    return PendulumState(time, *rows.astype(np.float32))


def balance(state: np.ndarray) -> int:
    """A pole kept upright and near the middle, from the full state."""
    x, x_dot, theta, theta_dot = state
    return int(theta + 0.25 * theta_dot + 0.01 * x + 0.03 * x_dot > 0)


def assert_same_steps(env, episodes: list[Episode], actions: np.ndarray) -> None:
    """Each of our steps, taken in float32 from popgym's own state, is popgym's step, however long the episode."""

    def step(state, action):
        observation, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, action, env.default_params)
        return observation, reward, terminated, env.is_truncated(state, env.default_params)

    states = [states_before(episode, actions.shape[1]) for episode in episodes]
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
    steps = jax.tree.map(np.asarray, compiled(jax.vmap(jax.vmap(step)))(states, actions))
    for e, episode in enumerate(episodes):
        assert_same_episode(episode, episode.observations[0], jax.tree.map(lambda leaf, e=e: leaf[e], steps))


@pytest.mark.parametrize("name", NAMES)
def test_random_play_equals_popgym(name):
    env, oracle = noiseless(name), make_oracle(name)
    length = env.default_params.max_steps_in_episode
    rng = np.random.default_rng(NAMES.index(name))
    actions = random_actions(oracle.action_space, rng, (NUM_RANDOM, length))
    if "Pendulum" in name:
        actions *= 1.5  # both clip the torque
    keys = fresh_keys(NAMES.index(name), NUM_RANDOM)
    first, states = begin(env, keys)
    with jax.enable_x64(True):  # an unstable system: float32 leaves popgym's float64 within a hundred steps
        exact = jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype.kind == "f" else leaf, states)
        steps = roll(env, exact, actions, fresh_keys(len(NAMES), NUM_RANDOM, length))
    episodes = []
    for e in range(NUM_RANDOM):
        oracle.np_random = ScriptedRandom(starts=[start_of(jax.tree.map(lambda leaf, e=e: leaf[e], states))])
        episodes.append(play(oracle, actions[e]))
        assert_same_episode(episodes[e], first[e], jax.tree.map(lambda leaf, e=e: leaf[e], steps))
    assert_same_steps(env, episodes, actions)


@pytest.mark.parametrize("name", [name for name in NAMES if "CartPole" in name])
def test_balanced_pole_returns_one_and_is_truncated(name):
    env, oracle = noiseless(name), make_oracle(name)
    oracle.np_random = ScriptedRandom(starts=[np.array([0.01, -0.02, 0.03, 0.04])])
    taken = []

    def policy(state):
        taken.append(balance(state))
        return taken[-1]

    episode = play(oracle, policy)
    assert_same_steps(env, [episode], np.array(taken)[None])
    assert episode.length == env.default_params.max_steps_in_episode
    assert episode.truncated[-1] and not episode.terminated[-1]
    np.testing.assert_allclose(sum(episode.rewards), 1.0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if "Pendulum" in name])
def test_upright_pendulum_returns_one(name):
    env, oracle = noiseless(name), make_oracle(name)
    length = env.default_params.max_steps_in_episode
    state = PendulumState(*jnp.zeros((3, 1)))
    steps = roll(env, state, np.zeros((1, length, 1), np.float32), fresh_keys(0, 1, length))
    oracle.np_random = ScriptedRandom(starts=[np.zeros(2)])
    episode = play(oracle, np.zeros((length, 1)))
    assert_same_episode(episode, np.array([1.0, 0.0], np.float32), jax.tree.map(lambda leaf: leaf[0], steps))
    np.testing.assert_allclose(steps[1].sum(), 1.0, atol=1e-5)


def test_velocity_only_shows_velocities_from_the_first_step_on():
    keys = fresh_keys(0, 64)
    for options, shown in [({}, ("x_dot", "theta_dot")), ({"positions_at_reset": True}, ("x", "theta"))]:
        env = make("popgym/VelocityOnlyCartPoleEasy", **options)
        first, states = begin(env, keys)
        np.testing.assert_array_equal(first, np.stack([getattr(states, field) for field in shown], axis=1))
        observation, state, *_ = env.step_env(
            keys[0], jax.tree.map(lambda leaf: leaf[0], states), 1, env.default_params
        )
        np.testing.assert_array_equal(observation, [state.x_dot, state.theta_dot])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("family", "high"), [("CartPole", (4.8, math.radians(24))), ("Pendulum", (1.0, 1.0))])
def test_noise_is_gaussian_then_clipped(family, high, level):
    env = make(f"popgym/NoisyPositionOnly{family}{level}")
    sigma, num_samples = {"Easy": 0.1, "Medium": 0.2, "Hard": 0.3}[level], 20_000
    state = CartPoleState(0, 0.0, 0.0, 0.0, 0.0) if family == "CartPole" else PendulumState(0, math.pi / 4, 0.0)
    action = 1 if family == "CartPole" else jnp.zeros(1)
    keys = fresh_keys(3, num_samples)
    params = env.default_params
    step = compiled(jax.vmap(env.step_env, in_axes=(0, None, None, None)))
    noisy = step(keys, state, action, params)[0]
    clean = noiseless(f"NoisyPositionOnly{family}{level}").step_env(keys[0], state, action, params)[0]
    expected = np.clip(
        clean + sigma * np.random.default_rng(0).standard_normal((num_samples, 2)), -np.array(high), high
    )
    # The mean of 20,000 draws lies within 5 sigma / sqrt(20,000) of its own; so does the other sample's.
    np.testing.assert_allclose(noisy.mean(0), expected.mean(0), atol=10 * sigma / math.sqrt(num_samples))
    np.testing.assert_allclose(noisy.std(0), expected.std(0), rtol=0.05)
    assert (np.abs(noisy) <= np.array(high, np.float32)).all()
    at_bound = (np.abs(noisy) >= np.array(high, np.float32)).mean(0)
    np.testing.assert_allclose(at_bound, (np.abs(expected) >= np.array(high)).mean(0), atol=0.02)
    assert abs(np.corrcoef(noisy[:, 0], noisy[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("family", ["CartPole", "Pendulum"])
def test_first_observation_is_noisy_and_start_is_uniform(family):
    env = make(f"popgym/NoisyPositionOnly{family}Easy")
    keys = fresh_keys(4, 20_000)
    first, states = begin(env, keys)
    if family == "CartPole":
        clean = jnp.stack([states.x, states.theta], axis=1)
        ranges = {"x": 0.05, "x_dot": 0.05, "theta": 0.05, "theta_dot": 0.05}
        np.testing.assert_allclose((first - clean).std(0), [0.1, 0.1], rtol=0.05)
    else:
        clean = jnp.stack([jnp.cos(states.theta), jnp.sin(states.theta)], axis=1)
        ranges = {"theta": math.pi, "theta_dot": 1.0}
        inside = np.abs(clean) < 0.5
        np.testing.assert_allclose(np.asarray(first - clean)[inside].std(), 0.1, rtol=0.05)
    for field, high in ranges.items():
        values = np.asarray(getattr(states, field))
        assert np.abs(values).max() <= high
        np.testing.assert_allclose(values.std(), high / math.sqrt(3), rtol=0.03)
