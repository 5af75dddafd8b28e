"""Both Labyrinths against PyPI popgym in the same mazes, and the mazes against mazelib's."""

import random
from collections import deque
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import popgym.core.maze
import pytest
from mazelib.generate.HuntAndKill import HuntAndKill
from scipy import ndimage, stats

from hippodrome.envs import make, to_gymnasium
from hippodrome.envs.popgym.labyrinth import ExploreState, LabyrinthState
from hippodrome.envs.popgym.maze import FREE, GOAL, OBSTACLE, START, carve, random_maze

from .oracle import LEVELS, assert_same_episode, make_oracle, play, roll

STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
NUM_MAZES = 6

pytestmark = pytest.mark.filterwarnings("ignore:Maze environments have been shown:DeprecationWarning")


class ScriptedMaze:
    """Stands in for mazelib's Maze: its next maze is `squares`, where START and GOAL are openings."""

    squares: np.ndarray

    def generate(self) -> None:
        self.grid = np.where(self.squares == FREE, FREE, OBSTACLE).astype(np.int8)

    def generate_entrances(self, start_outer: bool) -> None:
        self.start = where(self.squares, START)
        self.end = where(self.squares, GOAL) if (self.squares == GOAL).any() else None


def where(squares: np.ndarray, kind: int) -> tuple[int, int]:
    return tuple(int(each) for each in np.argwhere(squares == kind)[0])


def shortest_way(squares: np.ndarray) -> list[int]:
    """Actions from the start to the goal."""
    start = where(squares, START)
    ways, queue = {start: []}, deque([start])
    while queue:
        here = queue.popleft()
        if squares[here] == GOAL:
            return ways[here]
        for action, there in neighbours(squares, here):
            if there not in ways:
                ways[there] = [*ways[here], action]
                queue.append(there)
    raise AssertionError("no way out")


def tour(squares: np.ndarray) -> list[int]:
    """Actions that walk every square, depth first, the longest branch last."""

    def walk(here, came_from):
        branches = []
        for action, there in neighbours(squares, here):
            if there != came_from:
                forth, back = walk(there, here)
                branches.append(([action, *forth], [*back, action ^ 1]))
        branches.sort(key=lambda branch: len(branch[1]))
        forth = [step for out, back in branches[:-1] for step in out + back]
        return (forth + branches[-1][0], branches[-1][1]) if branches else ([], [])

    return walk(where(squares, START), None)[0]


def neighbours(squares: np.ndarray, here: tuple[int, int]):
    for action, (down, right) in enumerate(STEPS):
        there = (here[0] + down, here[1] + right)
        if all(0 <= each < len(squares) for each in there) and squares[there] != OBSTACLE:
            yield action, there


def lazy_walk(rng: np.random.Generator, num_steps: int) -> np.ndarray:
    """Random actions that tend to go on as before, so that they get about and also run into walls."""
    actions = rng.integers(4, size=num_steps)
    for t in range(1, num_steps):
        if rng.random() < 0.6:
            actions[t] = actions[t - 1]
    return actions


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", ["LabyrinthEscape", "LabyrinthExplore"])
def test_episodes_equal_popgym(family, level, monkeypatch):
    monkeypatch.setattr(popgym.core.maze, "Maze", ScriptedMaze)
    env, oracle = make(f"popgym/{family}{level}"), make_oracle(f"{family}{level}")
    num_steps = env.default_params.max_steps_in_episode
    reset = jax.jit(jax.vmap(env.reset_env, in_axes=(0, None)))
    first, states = reset(jax.random.split(jax.random.key(1), NUM_MAZES), env.default_params)
    squares, rng = np.asarray(states.squares), np.random.default_rng(0)
    best = [shortest_way(each) if family == "LabyrinthEscape" else tour(each) for each in squares]
    actions = np.stack([lazy_walk(rng, num_steps) for _ in squares])
    # In half of the mazes the best play.
    for index in range(0, NUM_MAZES, 2):
        actions[index] = np.resize(best[index], num_steps)
    ours = roll(env, states, actions, jax.random.split(jax.random.key(0), actions.shape))
    for index in range(NUM_MAZES):
        ScriptedMaze.squares = squares[index]
        episode = play(oracle, actions[index])
        one = jax.tree.map(lambda leaf, index=index: leaf[index], ours)
        assert_same_episode(episode, np.asarray(first[index]), one)
        if index % 2 == 0:
            steps = len(best[index])
            wasted = steps if family == "LabyrinthEscape" else steps - (squares[index] == FREE).sum()
            assert episode.length == steps and episode.terminated[-1]
            assert sum(episode.rewards) == pytest.approx(1 - wasted / 1024)
    assert len({(row == 0, row == len(squares[0]) - 1, column == 0) for row, column in map(entrance, squares)}) == 4


def entrance(squares: np.ndarray) -> tuple[int, int]:
    return where(squares, START)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", ["LabyrinthEscape", "LabyrinthExplore"])
def test_spaces_equal_popgym(family, level):
    env, oracle = make(f"popgym/{family}{level}"), make_oracle(f"{family}{level}")
    assert np.array_equal(env.observation_space(env.default_params).nvec, oracle.observation_space.nvec)
    assert to_gymnasium(env.action_space(env.default_params)) == oracle.action_space


def corridor(family: str) -> LabyrinthState:
    """A state by hand: a 7 x 7 maze, in at (0, 1), along row 1 to column 5, out at (6, 5)."""
    squares = np.full((7, 7), OBSTACLE, np.int8)
    squares[1, 1:6] = squares[1:6, 5] = FREE
    squares[0, 1] = START
    position, time = jnp.array([0, 1]), jnp.zeros((), jnp.int32)
    if family == "LabyrinthEscape":
        squares[6, 5] = GOAL
        return LabyrinthState(time=time, squares=jnp.array(squares), position=position)
    explored = jnp.zeros((7, 7), bool).at[0, 1].set(True)
    return ExploreState(time=time, squares=jnp.array(squares), position=position, explored=explored)


@pytest.mark.parametrize("family", ["LabyrinthEscape", "LabyrinthExplore"])
def test_hand_computed_walk(family):
    env = make(f"popgym/{family}Easy", maze_size=6)
    state, params = corridor(family), env.default_params
    left, right, up, down = range(4)
    rewards, observations, flags = [], [], []
    for action in [up, left, down, *[right] * 4, *[down] * 5]:
        observation, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array(action), params)
        rewards.append(float(reward))
        observations.append(np.asarray(observation).tolist())
        flags.append(bool(terminated))
    # Out of the grid and into the wall: nothing moves. The first row shows rows 0 and 1, not -1 to 1.
    assert observations[0] == [1, 2, 1, 1, 0, 0, 1, 1, 1, up]
    assert observations[1] == [1, 2, 1, 1, 0, 0, 1, 1, 1, left]
    assert observations[2] == [1, 2, 1, 1, 0, 0, 1, 1, 1, down]
    assert observations[3] == [2, 1, 1, 0, 0, 0, 1, 1, 1, right]
    if family == "LabyrinthEscape":
        assert flags == [False] * 11 + [True]
        np.testing.assert_allclose(rewards, [-1 / 1024] * 11 + [1 - 1 / 1024], rtol=1e-5)
    else:
        # Nine squares, all explored one step before the exit would be; there is none, so the last step stays.
        assert flags == [False] * 10 + [True, True]
        np.testing.assert_allclose(rewards, [-1 / 1024] * 2 + [1 / 17] * 9 + [-1 / 1024], rtol=1e-5)


def test_mazes_are_spanning_trees_with_openings_on_opposite_sides():
    for num_cells in (5, 9):
        keys = jax.random.split(jax.random.key(num_cells), 200)
        draw = jax.jit(jax.vmap(partial(random_maze, num_cells=num_cells)))
        mazes, starts, goals = (np.asarray(each) for each in draw(keys))
        last = 2 * num_cells
        assert mazes.shape == (200, last + 1, last + 1)
        border = mazes.copy()
        border[:, 1:-1, 1:-1] = OBSTACLE
        assert (border == OBSTACLE).all() and (mazes[:, 1::2, 1::2] == FREE).all()
        for maze in mazes:
            # Connected by one passage fewer than there are cells: a tree.
            assert (maze == FREE).sum() == 2 * num_cells**2 - 1 and ndimage.label(maze == FREE)[1] == 1
        upright = np.isin(starts[:, 0], (0, last))
        across, along = np.where(upright, 0, 1), np.where(upright, 1, 0)
        rows = np.arange(200)
        assert (starts[rows, across] + goals[rows, across] == last).all()
        assert (starts[rows, along] % 2 == 1).all() and (goals[rows, along] % 2 == 1).all()
        sides = np.unique(2 * across + (starts[rows, across] == last), return_counts=True)[1]
        assert len(sides) == 4 and stats.chisquare(sides).pvalue > 1e-3


def test_three_by_three_mazes_are_as_likely_as_in_mazelib():
    random.seed(0)
    np.random.seed(0)
    generator = HuntAndKill(3, 3)
    theirs = [maze for maze in (generator.generate() for _ in range(4000)) if (maze == FREE).sum() == 17]
    ours = jax.jit(jax.vmap(lambda key: carve(key, 3)))(jax.random.split(jax.random.key(0), 20000))
    trees, kinds = np.unique(np.concatenate([np.stack(theirs), np.asarray(ours)]), axis=0, return_inverse=True)
    kinds = kinds.ravel()
    counts = np.stack([np.bincount(part, minlength=len(trees)) for part in np.split(kinds, [len(theirs)])])
    # A walk goes on until it is stuck, so that not all 192 spanning trees arise; the same ones do in both.
    assert len(trees) == 174 and (counts[1] > 0).all()
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="maze_size=11 must be even, 6 to 62"):
        make("popgym/LabyrinthEscapeEasy", maze_size=11)
