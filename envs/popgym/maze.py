"""Random perfect mazes by hunt-and-kill, with an entrance and an exit on opposite sides.

A maze of `n * n` cells is drawn on a grid of `S * S` squares, `S = 2n + 1`: cell (i, j) is square (2i + 1, 2j + 1), and
the square between two neighbouring cells is free where a passage joins them.

Walk to a random unvisited neighbour until there is none; then hunt: jump to a visited cell that has one, and walk on.
mazelib's `HuntAndKill`, which popgym calls, hunts by drawing cells until one serves, so each that would is equally
likely; here it is drawn among them at once. mazelib gives up after `S^2` hunts, which could leave cells out (in none of
1,500 mazes did it); here every maze joins all its cells.

Legend: `n` cells, `S` squares along a side. Sets of cells are `n` words of 32 bits: bit j of word i is cell (i, j).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Key, UInt32

FREE, OBSTACLE, START, GOAL = range(4)
# One word holds a row.
MAX_CELLS = 31
MIN_CELLS = 3

_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def random_maze(key: Key[Array, ""], num_cells: int) -> tuple[Int8[Array, "S S"], Int[Array, "2"], Int[Array, "2"]]:
    """A maze, its entrance and its exit: `(squares, start, goal)`; both openings are still obstacles in `squares`.

    The entrance lies on a side drawn at random, beside a random cell, and the exit likewise on the opposite side.
    """
    maze_key, side_key, place_key = jax.random.split(key, 3)
    last = 2 * num_cells
    side = jax.random.randint(side_key, (), 0, 4)
    lines = jnp.where(side % 2 == 0, jnp.array([0, last]), jnp.array([last, 0]))
    places = 2 * jax.random.randint(place_key, (2,), 0, num_cells) + 1
    openings = jnp.stack([lines, places], axis=1)
    start, goal = jnp.where(side < 2, openings, openings[:, ::-1])
    return carve(maze_key, num_cells), start, goal


def carve(key: Key[Array, ""], num_cells: int) -> Int8[Array, "S S"]:
    """A random maze of OBSTACLE and FREE squares, walled in, all cells joined by exactly one path."""
    start_key, walk_key = jax.random.split(key)
    start = jax.random.randint(start_key, (2,), 0, num_cells)
    draws = jax.random.uniform(walk_key, (num_cells**2 - 1, 2))
    nothing = jnp.zeros(num_cells, jnp.uint32)
    steps = jnp.array(_STEPS)

    def join_cell(carry, draw):
        visited, east, south, here = carry
        ways = _unvisited_neighbours(visited)
        frontier = visited & (ways[0] | ways[1] | ways[2] | ways[3])
        stuck = _bit(frontier, here) == 0
        here = jnp.where(stuck, _pick_cell(frontier, draw[0]), here)
        way = _pick(jnp.stack([_bit(each, here) for each in ways]), draw[1])
        there = here + steps[way]
        # A passage is noted at its western or northern cell.
        passage = _cell(jnp.minimum(here, there), num_cells)
        eastward = way >= 2
        east = east | jnp.where(eastward, passage, 0)
        south = south | jnp.where(eastward, 0, passage)
        return (visited | _cell(there, num_cells), east, south, there), None

    carry = (_cell(start, num_cells), nothing, nothing, start)
    (_, east, south, _), _ = jax.lax.scan(join_cell, carry, draws)
    return _squares(_bits(east), _bits(south))


def _unvisited_neighbours(visited: UInt32[Array, " n"]) -> list[UInt32[Array, " n"]]:
    """The cells whose neighbour to the north, south, west and east has not been visited."""
    num_cells = visited.shape[0]
    unvisited = ~visited & jnp.uint32(2**num_cells - 1)
    outside = jnp.zeros(1, jnp.uint32)
    north = jnp.concatenate([outside, unvisited[:-1]])
    south = jnp.concatenate([unvisited[1:], outside])
    return [north, south, unvisited << 1, unvisited >> 1]


def _bit(words: UInt32[Array, " n"], cell: Int[Array, "2"]) -> Int[Array, ""]:
    return ((words[cell[0]] >> cell[1].astype(jnp.uint32)) & 1).astype(jnp.int32)


def _cell(cell: Int[Array, "2"], num_cells: int) -> UInt32[Array, " n"]:
    bit = jnp.uint32(1) << cell[1].astype(jnp.uint32)
    return jnp.where(jnp.arange(num_cells) == cell[0], bit, jnp.uint32(0))


def _bits(words: UInt32[Array, " n"]) -> Bool[Array, "n n"]:
    return ((words[:, None] >> jnp.arange(words.shape[0], dtype=jnp.uint32)) & 1).astype(bool)


def _pick_cell(cells: UInt32[Array, " n"], draw: Float[Array, ""]) -> Int[Array, "2"]:
    """The cell that `draw` in [0, 1) falls on, each of `cells` equally likely."""
    counts = jax.lax.population_count(cells).astype(jnp.int32)
    row, rank = _ranked(counts, draw)
    in_row = (cells[row] >> jnp.arange(cells.shape[0], dtype=jnp.uint32)) & 1
    column = jnp.argmax(jnp.cumsum(in_row.astype(jnp.int32)) > rank)
    return jnp.stack([row, column])


def _pick(flags: Int[Array, " k"], draw: Float[Array, ""]) -> Int[Array, ""]:
    """The place that `draw` in [0, 1) falls on, each set flag equally likely."""
    return _ranked(flags, draw)[0]


def _ranked(counts: Int[Array, " k"], draw: Float[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Which of `counts` the drawn one of all of them belongs to, and how many of its own precede it."""
    ends = jnp.cumsum(counts)
    rank = jnp.minimum((draw * ends[-1]).astype(jnp.int32), ends[-1] - 1)
    place = jnp.argmax(ends > rank)
    return place, rank - (ends[place] - counts[place])


def _squares(east: Bool[Array, "n n"], south: Bool[Array, "n n"]) -> Int8[Array, "S S"]:
    num_cells = east.shape[0]
    pairs = jnp.stack([jnp.ones_like(east), east], axis=-1).reshape(num_cells, 2 * num_cells)
    below = jnp.stack([south, jnp.zeros_like(south)], axis=-1).reshape(num_cells, 2 * num_cells)
    free = jnp.stack([pairs, below], axis=1).reshape(2 * num_cells, 2 * num_cells)
    return jnp.where(jnp.pad(free, ((1, 0), (1, 0))), FREE, OBSTACLE).astype(jnp.int8)
