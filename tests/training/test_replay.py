"""Replay against a twin of Python lists: every step of a window is the one that was added, whatever wraps around."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hippodrome.agents import Feedback, ReplayStep
from hippodrome.training.replay import ReplayBuffer, Windows

B, C, K, L, N = 3, 16, 2, 4, 5
BUFFER = ReplayBuffer(capacity=C, carry_every=K, length=L, batch_size=N)
few = settings(max_examples=25, deadline=None, derandomize=True)


def step_like(value, last=None):
    """Steps whose every field tells which step of which stream it is."""
    value = jnp.asarray(value, jnp.int32)
    last = jnp.zeros(value.shape, bool) if last is None else last
    return ReplayStep(
        observation={"number": value, "picture": jnp.stack([value, -value], -1)},
        reset=value % 7 == 0,
        previous_action=value,
        reward=value.astype(jnp.float32),
        terminal=last,
        last=last,
    )


def carry_like(value):
    return {"state": jnp.asarray(value, jnp.float32)[..., None] * jnp.ones(2), "wave": jnp.asarray(value) * (1 + 2j)}


def empty(buffer=BUFFER):
    return buffer.init(step_like(jnp.zeros(B)), carry_like(jnp.zeros(B)))


@partial(jax.jit, static_argnums=0)
def add(buffer, replay, valid, update=0):
    index = replay.count + jnp.cumsum(valid, axis=0) - 1
    stream = 1000 * jnp.arange(B) + index
    return buffer.add(replay, step_like(stream), valid, carry_like(stream), jnp.asarray(update))


choose = jax.jit(BUFFER.choose)
read = jax.jit(BUFFER.read)


def filled(valids, buffer=BUFFER):
    replay = empty(buffer)
    for valid in valids:
        replay = add(buffer, replay, jnp.asarray(valid))
    return replay


def rollouts():
    """Rollouts of 4 candidate steps, of which each stream takes some."""
    return st.lists(st.lists(st.lists(st.booleans(), min_size=B, max_size=B), min_size=4, max_size=4), max_size=14)


def expected_starts(counts):
    """Every (env, start) at which a whole window lies in the ring."""
    return {
        (env, start) for env, count in enumerate(counts) for start in range(0, count - L + 1, K) if start >= count - C
    }


@few
@given(valids=rollouts(), seed=st.integers(0, 99))
def test_windows_are_whole_unspliced_and_start_with_their_own_carry(valids, seed):
    replay = filled(valids)
    counts = np.sum(np.asarray(valids, int).reshape(-1, B), axis=0)
    starts = expected_starts(counts.tolist())
    assert (np.asarray(replay.count) == counts).all() and int(BUFFER.num_windows(replay)) == len(starts)
    if not starts:
        return
    replay, windows = choose(replay, jax.random.key(seed))
    batch = read(replay, windows)
    for place, (env, start) in enumerate(zip(windows.env.tolist(), windows.start.tolist(), strict=True)):
        assert (env, start) in starts
        want = 1000 * env + start + np.arange(L)
        assert (batch.steps.observation["number"][:, place] == want).all()
        assert (batch.steps.observation["picture"][:, place, 1] == -want).all()
        assert (batch.steps.reward[:, place] == want).all() and (batch.steps.previous_action[:, place] == want).all()
        assert (batch.carry["state"][place] == want[0]).all() and batch.carry["wave"][place] == want[0] * (1 + 2j)


def test_windows_are_drawn_evenly():
    buffer = dataclasses.replace(BUFFER, online=False, batch_size=4000)
    replay = filled([np.array([[1, 1, 0]] * 4, bool)] * 6, buffer)
    _, windows = jax.jit(buffer.choose)(replay, jax.random.key(0))
    found, number = np.unique(np.stack([windows.env, windows.start]), axis=1, return_counts=True)
    starts = expected_starts([24, 24, 0])
    assert set(map(tuple, found.T.tolist())) == starts
    np.testing.assert_allclose(number / 4000, 1 / len(starts), atol=0.02)


def test_prioritized_windows_are_drawn_by_their_priority():
    buffer = dataclasses.replace(BUFFER, online=False, batch_size=8000, sampling="prioritized", exponent=0.5)
    replay = filled([np.array([[1, 0, 0]] * 4, bool)] * 2, buffer)
    windows = Windows(jnp.zeros(3, jnp.int32), jnp.array([0, 2, 4]))
    feedback = Feedback(carry_like(jnp.zeros((L // K, 3))), jnp.array([1.0, 4.0, 16.0]))
    replay = buffer.refresh(replay, windows, feedback, jnp.asarray(1))
    _, drawn = jax.jit(buffer.choose)(replay, jax.random.key(1))
    share = np.bincount(np.asarray(drawn.start), minlength=5)[[0, 2, 4]] / 8000
    np.testing.assert_allclose(share, np.array([1, 2, 4]) / 7, atol=0.02)
    # What comes in later is as likely as the likeliest so far.
    later = add(buffer, replay, jnp.array([[1, 0, 0]] * 2, bool))
    assert later.priority[4, 0] == 16.0


def test_new_windows_come_first_and_once():
    replay, seen = empty(), []
    for turn in range(6):
        replay = add(BUFFER, replay, jnp.array([[1, 1, turn % 2]] * 4, bool))
        ready = sum((np.asarray(replay.count) - np.asarray(replay.queued)) // L)
        replay, windows = choose(replay, jax.random.key(turn))
        pairs = list(zip(windows.env.tolist(), windows.start.tolist(), strict=True))
        assert ready <= N and len(set(pairs[:ready])) == ready
        seen += pairs[:ready]
    assert sorted(seen) == [(env, start) for env, count in enumerate((24, 24, 12)) for start in range(0, count, L)]


def test_windows_that_wait_longer_than_the_ring_leave_the_queue():
    replay = filled([np.ones((4, B), bool)] * 9)
    assert (np.asarray(replay.queued) == 36 - C).all()
    for turn in range(4):
        replay, windows = choose(replay, jax.random.key(turn))
        assert (np.asarray(windows.start) >= 36 - C).all()


def test_fresh_carries_go_where_their_steps_are_and_overwrite_no_others():
    """The carry after a window that ends the stream has the slot of the oldest carry, which is still in use."""
    replay = filled([np.ones((4, B), bool)] * 6)
    windows = Windows(jnp.array([0, 1]), jnp.array([20, 12]))
    fresh = -(1.0 + jnp.arange(4.0).reshape(2, 2))
    after = BUFFER.refresh(replay, windows, Feedback(carry_like(fresh), jnp.array([5.0, 7.0])), jnp.asarray(3))
    before = np.asarray(replay.carries["wave"]).real
    want = before.copy()
    slot = {start: start // K % (C // K) for start in range(8, 24, 2)}
    want[slot[22], 0] = -1.0  # after the first two steps of the window from 20; after all four the stream ends
    want[slot[14], 1], want[slot[16], 1] = -2.0, -4.0
    assert (np.asarray(after.carries["wave"]).real == want).all()
    assert want[slot[8], 0] == 8.0
    assert int(after.written.sum()) == 9 and float(after.max_priority) == 7.0
    assert float(BUFFER.age(after, Windows(jnp.array([0, 1]), jnp.array([22, 12])), jnp.asarray(10))) == (7 + 10) / 2


def test_a_later_step_overwrites_a_refreshed_carry():
    replay = filled([np.ones((4, B), bool)] * 6)
    windows = Windows(jnp.array([0]), jnp.array([16]))
    replay = BUFFER.refresh(replay, windows, Feedback(carry_like(-jnp.ones((2, 1))), jnp.ones(1)), jnp.asarray(1))
    replay = add(BUFFER, replay, jnp.ones((4, B), bool), 2)
    carry = read(replay, Windows(jnp.array([0, 0]), jnp.array([24, 18]))).carry["wave"].real
    assert carry.tolist() == [24.0, -1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 15}, "capacity=15 must be a multiple of carry_every=2"),
        ({"length": 5}, "length=5 must be a multiple of carry_every=2"),
        ({"capacity": 4}, r"capacity=4 must be at least length \+ carry_every = 6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BUFFER, **changes)


def test_more_steps_than_the_ring_has_rows_are_refused():
    with pytest.raises(ValueError, match="17 steps at once must be at most the capacity 16"):
        add(BUFFER, empty(), jnp.ones((17, B), bool))
