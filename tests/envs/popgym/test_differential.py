"""Every card, board and bandit family against PyPI popgym, step by step, over whole episodes."""

import jax
import numpy as np
import pytest

from hippodrome.envs import list_envs, make, to_gymnasium

from .families import FAMILIES
from .oracle import LEVELS, assert_same_episode, begin, fresh_keys, make_oracle, play, random_actions, roll

NUM_RANDOM = 3
NAMES = [f"{family}{level}" for family in FAMILIES for level in LEVELS]


def family_of(name: str) -> str:
    return next(family for family in FAMILIES if name in {f"{family}{level}" for level in LEVELS})


def padded(actions: np.ndarray, length: int) -> np.ndarray:
    """`actions` repeated at the end until there are `length`."""
    return np.concatenate([actions, np.repeat(actions[-1:], length - len(actions), axis=0)])


@pytest.mark.parametrize("name", NAMES)
def test_episodes_equal_popgym(name):
    env, oracle, family = make(f"popgym/{name}"), make_oracle(name), FAMILIES[family_of(name)]
    params = env.default_params
    num_episodes, length = 1 + NUM_RANDOM, params.max_steps_in_episode
    first, states = begin(env, fresh_keys(NAMES.index(name), num_episodes))
    hidden = [jax.tree.map(lambda leaf, e=e: leaf[e], states) for e in range(num_episodes)]
    rng = np.random.default_rng(NAMES.index(name))
    actions = random_actions(oracle.action_space, rng, (num_episodes, length))
    actions[0] = padded(family.best_actions(env, hidden[0]), length)
    step_keys = fresh_keys(len(NAMES) + NAMES.index(name), num_episodes, length)
    steps = roll(env, states, actions, step_keys)

    for e in range(num_episodes):
        family.script(oracle, hidden[e], step_keys[e])
        episode = play(oracle, actions[e])
        ours = jax.tree.map(lambda leaf, e=e: leaf[e], steps)
        assert_same_episode(episode, jax.tree.map(lambda leaf, e=e: leaf[e], first), ours)
        if e == 0 and family.best_return is not None:
            best = ours[1][: episode.length].sum()
            np.testing.assert_allclose(best, family.best_return(env, hidden[e]), atol=1e-5)


@pytest.mark.parametrize("name", [n.removeprefix("popgym/") for n in list_envs("popgym") if "Labyrinth" not in n])
def test_spaces_equal_popgym(name):
    env, oracle = make(f"popgym/{name}"), make_oracle(name)
    for space, theirs in [
        (env.observation_space(env.default_params), oracle.observation_space),
        (env.action_space(env.default_params), oracle.action_space),
    ]:
        ours = to_gymnasium(space)
        assert type(ours) is type(theirs)
        assert ours.shape == theirs.shape
        assert str(ours) == str(theirs)
