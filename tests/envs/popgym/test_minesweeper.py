"""MineSweeper against PyPI popgym on the same board, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hippodrome.envs import make, to_gymnasium
from hippodrome.envs.popgym.minesweeper import MineSweeper, MineSweeperState, random_subset

from .oracle import LEVELS, assert_same_episode, make_oracle, play, roll


class ScriptedMines:
    """Stands in for popgym's random generator: its next mines are these."""

    def __init__(self, mines: np.ndarray):
        self.mines = np.flatnonzero(mines)

    def choice(self, cells, size, replace):
        assert size == len(self.mines) and not replace
        return self.mines


def plans(mines: np.ndarray, num_steps: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Ways to play one board, `[num_steps, 2]` each."""
    safe, mined = np.argwhere(~mines), np.argwhere(mines)
    first = np.repeat(safe[:1], num_steps, axis=0)
    almost = np.concatenate([safe[:-1], mined[:1]])
    return {
        "win": rng.permutation(safe),
        "one repeat": np.concatenate([safe[:1], safe])[:num_steps],
        "repeat for ever": first,
        "mine at once": np.concatenate([mined[:1], first])[:num_steps],
        "mine at the last step": almost,
        "safe cells at random": safe[rng.integers(len(safe), size=num_steps)],
        "anything": rng.integers(len(mines), size=(num_steps, 2)),
    }


@pytest.mark.parametrize("level", LEVELS)
def test_episodes_equal_popgym(level):
    env, oracle = make(f"popgym/MineSweeper{level}"), make_oracle(f"MineSweeper{level}")
    num_steps = env.default_params.max_steps_in_episode
    observation, state = env.reset_env(jax.random.key(3), env.default_params)
    mines = np.asarray(state.mines)
    ways = plans(mines, num_steps, np.random.default_rng(0))
    actions = np.stack([*ways.values()])
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(ways)), state)
    keys = jax.random.split(jax.random.key(0), actions.shape[:2])
    ours = roll(env, states, actions, keys)
    returns = {}
    for index, way in enumerate(ways):
        oracle.np_random = ScriptedMines(mines)
        episode = play(oracle, actions[index])
        one = jax.tree.map(lambda leaf, index=index: leaf[index], ours)
        assert_same_episode(episode, np.asarray(observation), (*one[:3], one[3] & ~one[2]))
        returns[way] = sum(episode.rewards)
    assert returns["win"] == pytest.approx(1) and returns["one repeat"] < 1
    assert returns["mine at once"] == pytest.approx(-0.5 - 1 / num_steps)


@pytest.mark.parametrize("level", LEVELS)
def test_spaces_equal_popgym(level):
    env, oracle = make(f"popgym/MineSweeper{level}"), make_oracle(f"MineSweeper{level}")
    assert to_gymnasium(env.observation_space(env.default_params)) == oracle.observation_space
    assert np.array_equal(env.action_space(env.default_params).nvec, oracle.action_space.nvec)


def board(mines: list[tuple[int, int]]) -> MineSweeperState:
    """A 4 x 4 board with those mines."""
    mined = jnp.zeros((4, 4), bool)
    for row, column in mines:
        mined = mined.at[row, column].set(True)
    return MineSweeperState(time=jnp.zeros((), jnp.int32), mines=mined, covered=~mined)


def step(env: MineSweeper, state: MineSweeperState, cell: tuple[int, int]):
    """One step: `(observation, state, reward, terminated)`, numbers as Python's."""
    outputs = env.step_env(jax.random.key(0), state, jnp.array(cell), env.default_params)
    return int(outputs[0]), outputs[1], float(outputs[2]), bool(outputs[3])


def test_hand_computed_counts_and_rewards():
    env, state = make("popgym/MineSweeperEasy"), board([(0, 0), (1, 1)])
    count, state, reward, terminated = step(env, state, (0, 1))
    assert (count, reward, terminated) == (2, pytest.approx(1 / 14), False)
    count, state, reward, terminated = step(env, state, (2, 2))
    assert (count, reward, terminated) == (1, pytest.approx(1 / 14), False)
    count, state, reward, terminated = step(env, state, (3, 3))
    assert (count, reward, terminated) == (0, pytest.approx(1 / 14), False)
    count, state, reward, terminated = step(env, state, (0, 1))
    assert (count, reward, terminated) == (2, pytest.approx(-0.5 / 12), False)
    count, state, reward, terminated = step(env, state, (1, 1))
    assert (count, reward, terminated) == (2, pytest.approx(-0.5 - 1 / 14), True)
    assert int(state.time) == 5 and int(state.covered.sum()) == 11


@pytest.mark.parametrize(("suite", "won"), [("popgym", False), ("popgym-paper", True)])
def test_one_mistake_loses_the_win_except_in_the_paper_era(suite, won):
    env, state = make(f"{suite}/MineSweeperEasy"), board([(3, 2), (3, 3)])
    cells = [(0, 0), *[(index // 4, index % 4) for index in range(14)]]
    total, steps, terminated = 0.0, 0, False
    while not (terminated or bool(env.is_truncated(state, env.default_params))):
        _, state, reward, terminated = step(env, state, cells[steps])
        total, steps = total + reward, steps + 1
    assert (terminated, steps) == (won, 15 if won else 14)
    assert total == pytest.approx((14 if won else 13) / 14 - 0.5 / 12)


def test_random_subset_is_uniform():
    draws = jax.vmap(lambda key: random_subset(key, 5, 2))(jax.random.split(jax.random.key(0), 5000))
    assert (np.asarray(draws).sum(axis=1) == 2).all()
    _, counts = np.unique(np.asarray(draws), axis=0, return_counts=True)
    assert len(counts) == 10 and stats.chisquare(counts).pvalue > 1e-3


def test_board_without_room_is_refused():
    with pytest.raises(ValueError, match="num_mines=14 must be at least 1 and leave 3 cells"):
        MineSweeper(board_size=4, num_mines=14)


def test_least_possible_return():
    env, state = make("popgym/MineSweeperEasy"), board([(3, 2), (3, 3)])
    total = 0.0
    for cell in [*[(0, 0)] * 13, (3, 3)]:
        _, state, reward, terminated = step(env, state, cell)
        total += reward
    assert terminated and total == pytest.approx(-1)
