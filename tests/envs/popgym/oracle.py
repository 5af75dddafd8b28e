"""PyPI popgym 1.0.7 as the oracle: it draws what our environment holds, and both take the same actions.

Legend: `E` episodes, `T` steps of the longest episode.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import jax
import numpy as np
import popgym.envs

LEVELS = ("Easy", "Medium", "Hard")
FLOAT_TOLERANCE = 1e-5


class ScriptedRandom:
    """Stands in for popgym's random generator and hands out what it is told, in order; noise is zero."""

    def __init__(self, *, orders=(), randoms=(), starts=()):
        self._orders, self._randoms, self._starts = iter(orders), iter(randoms), iter(starts)

    def shuffle(self, array: np.ndarray) -> None:
        array[:] = next(self._orders)

    def random(self, size: int | None = None, dtype: Any = None) -> Any:
        return next(self._randoms)

    def uniform(self, low: Any = None, high: Any = None, size: Any = None) -> np.ndarray:
        return next(self._starts)

    def normal(self, loc: float, scale: np.ndarray) -> np.ndarray:
        return np.zeros_like(scale)


@dataclass
class Episode:
    """One episode: observations `[length + 1]`, the rest `[length]`; `before`, popgym's own state before each step."""

    observations: list = field(default_factory=list)
    rewards: list = field(default_factory=list)
    terminated: list = field(default_factory=list)
    truncated: list = field(default_factory=list)
    before: list = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True)
class Family:
    """How one family is driven.

    Attributes:
        script: `(oracle, state, step_keys)` makes popgym's next reset (and its steps) draw what `state` holds.
        best_actions: `(env, state) -> [T, ...]`, the best play for someone who sees `state`.
        best_return: `(env, state)`, what it returns; None where chance decides.
    """

    script: Callable
    best_actions: Callable
    best_return: Callable | None = None


def make_oracle(name: str) -> Any:
    """The popgym environment `NameEasy`, `NameMedium` or `NameHard`, unwrapped."""
    return getattr(popgym.envs, name)()


def play(oracle: Any, actions: Any) -> Episode:
    """Resets popgym and takes the actions (an array, or a function of popgym's state) until the episode ends."""
    episode = Episode()
    observation, _ = oracle.reset()
    episode.observations.append(observation)
    ended = False
    while not ended:
        episode.before.append(np.array(getattr(oracle, "state", 0)))
        action = actions(oracle.state) if callable(actions) else actions[episode.length]
        observation, reward, terminated, truncated, _ = oracle.step(action)
        ended = terminated or truncated
        episode.observations.append(observation)
        episode.rewards.append(reward)
        episode.terminated.append(terminated)
        episode.truncated.append(truncated)
    return episode


def card_order(attribute: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """An order of all cards whose `attribute` reads `kinds`; fails if the kinds are not those of a full deck."""
    order = np.empty(len(kinds), int)
    for kind in np.unique(attribute):
        order[kinds == kind] = np.flatnonzero(attribute == kind)
    return order


def random_actions(space: gymnasium.Space, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform actions of a popgym action space, `[*shape, ...]`."""
    if isinstance(space, gymnasium.spaces.Box):
        return rng.uniform(space.low, space.high, (*shape, *space.shape)).astype(np.float32)
    upper = space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec
    return rng.integers(upper, size=(*shape, *space.shape), dtype=np.int64)


def fresh_keys(seed: int, *shape: int) -> jax.Array:
    """Keys of that shape; `jax.random.split` would be compiled anew for each."""
    return jax.random.wrap_key_data(np.random.default_rng(seed).integers(2**32, size=(*shape, 2), dtype=np.uint32))


def compiled(function: Callable) -> Callable:
    """`jax.jit` without optimisation: what a test runs once costs more to compile than to run."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def begin(env: Any, keys: jax.Array) -> tuple[Any, Any]:
    """`reset_env` for each key: first observations and states as NumPy arrays, leaves `[E, ...]`."""
    return jax.tree.map(np.asarray, compiled(jax.vmap(env.reset_env, in_axes=(0, None)))(keys, env.default_params))


def roll(env: Any, states: Any, actions: np.ndarray, step_keys: jax.Array) -> tuple:
    """Steps `E` episodes from `states`: `(observation, reward, terminated, truncated)`, leaves `[E, T, ...]`.

    Nothing resets: what comes after the end of an episode is without meaning.
    """
    params = env.default_params

    def step(state, inputs):
        action, key = inputs
        observation, state, reward, terminated, _ = env.step_env(key, state, action, params)
        return state, (observation, reward, terminated, env.is_truncated(state, params))

    def one(state, episode_actions, episode_keys):
        return jax.lax.scan(step, state, (episode_actions, episode_keys))[1]

    return jax.tree.map(np.asarray, compiled(jax.vmap(one))(states, actions, step_keys))


def assert_same_episode(episode: Episode, first: Any, steps: tuple) -> None:
    """Our `first` observation and `steps` (leaves `[T, ...]`) are popgym's `episode`, and end with it."""
    observation, reward, terminated, truncated = steps
    length = episode.length
    ended = terminated | truncated
    assert ended.any() and int(ended.argmax()) + 1 == length
    np.testing.assert_array_equal(terminated[:length], episode.terminated)
    np.testing.assert_array_equal(truncated[:length], episode.truncated)
    np.testing.assert_allclose(reward[:length], episode.rewards, atol=FLOAT_TOLERANCE)
    assert_same_observations([first], episode.observations[:1])
    ours = [jax.tree.map(lambda leaf, t=t: leaf[t], observation) for t in range(length)]
    assert_same_observations(ours, episode.observations[1:])


def assert_same_observations(ours: list, theirs: list) -> None:
    """Leaf by leaf: the same kind of number, integers equal, floats within 1e-5."""
    for one, other in zip(_stacked(ours), _stacked(theirs), strict=True):
        assert one.dtype.kind == other.dtype.kind
        np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT_TOLERANCE if one.dtype.kind == "f" else 0)


def _stacked(observations: list) -> list[np.ndarray]:
    return [np.stack(leaves) for leaves in zip(*map(jax.tree.leaves, observations), strict=True)]
