"""Replay on the device: the streams of all environments in a ring, and the agent's carries along them.

Every environment has its own stream of steps, numbered from 0; step i lies in row `i % C`. The observation that ended
an episode is a step of its own, so streams grow at different rates. At every K-th step the agent's carry from before
it is kept, and windows start there alone: what the agent remembers reaches beyond the window. After an update the
carries along the windows are replaced by fresh ones.

Legend: `C` capacity of one environment's stream, `B` environments, `K` steps between carries, `L` steps of a window,
`N` windows of a batch, `T` steps of a rollout.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from hippodrome.agents import Feedback, ReplayBatch, ReplayStep


@struct.dataclass
class Replay:
    """The content.

    Attributes:
        steps: leaves `[C, B, ...]`.
        carries: leaves `[C/K, B, ...]`; the agent's carry from before step i K.
        written: int32 `[C/K, B]`; the learner's update at which each carry was computed.
        priority: float32 `[C/K, B]`, of the window that starts there.
        count: int32 `[B]`; steps ever added.
        queued: int32 `[B]`; the start of the oldest window that was never replayed.
        max_priority: float32; what a new window gets.
    """

    steps: ReplayStep
    carries: Any
    written: Int[Array, "C/K B"]
    priority: Float[Array, "C/K B"]
    count: Int[Array, " B"]
    queued: Int[Array, " B"]
    max_priority: Float[Array, ""]


class Windows(NamedTuple):
    """Which windows a batch is made of: environment and first step, int32 `[N]`."""

    env: Int[Array, " N"]
    start: Int[Array, " N"]


@dataclasses.dataclass(frozen=True)
class ReplayBuffer:
    """Pure functions over a `Replay`.

    Attributes:
        capacity: C, a multiple of `carry_every` and at least one window and one stored carry more.
        carry_every: K, a divisor of `length`.
        length: L.
        batch_size: N.
        sampling: windows drawn evenly, or in proportion to `priority ** exponent`.
        exponent: see there.
        online: new windows that do not overlap come first, each once.
    """

    capacity: int
    carry_every: int
    length: int
    batch_size: int
    sampling: Literal["uniform", "prioritized"] = "uniform"
    exponent: float = 0.8
    online: bool = True

    def __post_init__(self):
        if self.capacity % self.carry_every:
            raise ValueError(f"capacity={self.capacity} must be a multiple of carry_every={self.carry_every}")
        if self.length % self.carry_every:
            raise ValueError(f"length={self.length} must be a multiple of carry_every={self.carry_every}")
        if self.capacity < self.length + self.carry_every:
            raise ValueError(
                f"capacity={self.capacity} must be at least length + carry_every = {self.length + self.carry_every}: "
                "the oldest window may be half overwritten"
            )

    @property
    def slots(self) -> int:
        """C/K."""
        return self.capacity // self.carry_every

    def init(self, step: ReplayStep, carry: Any) -> Replay:
        """Empty replay for steps and carries like these, leaves `[B, ...]`."""
        num_envs = step.reset.shape[0]

        def empty(rows, leaf):
            return jnp.zeros((rows, *leaf.shape), leaf.dtype)

        return Replay(
            steps=jax.tree.map(lambda leaf: empty(self.capacity, leaf), step),
            carries=jax.tree.map(lambda leaf: empty(self.slots, leaf), carry),
            written=jnp.zeros((self.slots, num_envs), jnp.int32),
            priority=jnp.zeros((self.slots, num_envs)),
            count=jnp.zeros(num_envs, jnp.int32),
            queued=jnp.zeros(num_envs, jnp.int32),
            max_priority=jnp.ones(()),
        )

    def nbytes(self, step: ReplayStep, carry: Any) -> tuple[int, int]:
        """Bytes of the steps and of the carries, for steps and carries like these (shapes suffice)."""

        def total(rows, tree):
            return rows * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

        return total(self.capacity, step), total(self.slots, carry)

    def add(
        self,
        replay: Replay,
        steps: ReplayStep,
        valid: Bool[Array, "T B"],
        carries: Any,
        update: Int[Array, ""],
    ) -> Replay:
        """Append steps to every stream.

        Args:
            replay: to what.
            steps: in the order of the stream, leaves `[T, B, ...]`, at most C.
            valid: which of them there are; the others are skipped.
            carries: the agent's carry from before each step, leaves `[T, B, ...]`.
            update: the learner's updates so far.
        """
        if valid.shape[0] > self.capacity:
            raise ValueError(f"{valid.shape[0]} steps at once must be at most the capacity {self.capacity}")
        index = replay.count + jnp.cumsum(valid, axis=0) - 1
        env = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
        # Out of range and dropped where there is no step, or no carry is kept.
        row = jnp.where(valid, index % self.capacity, self.capacity)
        kept = valid & (index % self.carry_every == 0)
        slot = jnp.where(kept, index // self.carry_every % self.slots, self.slots)

        def put(rows):
            return lambda old, new: old.at[rows, env].set(new.astype(old.dtype), mode="drop")

        count = replay.count + valid.sum(0)
        # A window that has begun to be overwritten has left the queue.
        oldest = -(-jnp.maximum(count - self.capacity, 0) // self.length) * self.length
        return dataclasses.replace(
            replay,
            steps=jax.tree.map(put(row), replay.steps, steps),
            carries=jax.tree.map(put(slot), replay.carries, carries),
            written=replay.written.at[slot, env].set(update, mode="drop"),
            priority=replay.priority.at[slot, env].set(replay.max_priority, mode="drop"),
            count=count,
            queued=jnp.maximum(replay.queued, oldest),
        )

    def num_windows(self, replay: Replay) -> Int[Array, ""]:
        """How many windows, overlapping ones too, can be drawn."""
        return self._startable(replay).sum()

    def choose(self, replay: Replay, key: Key[Array, ""]) -> tuple[Replay, Windows]:
        """The windows of the next batch: queued ones first, the others drawn with replacement.

        There must be one at least, see `num_windows`.
        """
        startable = self._startable(replay)
        weight = startable.astype(jnp.float32)
        if self.sampling == "prioritized":
            weight = jnp.where(startable, replay.priority**self.exponent, 0.0)
        edges = jnp.cumsum(weight.reshape(-1))
        draw = jax.random.uniform(key, (self.batch_size,)) * edges[-1]
        # The first edge above the draw has a positive weight; rounding may put the draw on the last edge.
        flat = jnp.searchsorted(edges, jnp.minimum(draw, jnp.nextafter(edges[-1], 0.0)), side="right")
        slot, env = flat // startable.shape[1], flat % startable.shape[1]
        drawn = Windows(env, self._first_step(replay)[slot, env])
        if not self.online:
            return replay, drawn
        # Queued windows are numbered environment by environment; the i-th fills place i of the batch.
        waiting = jnp.maximum((replay.count - replay.queued) // self.length, 0)
        before = jnp.cumsum(waiting) - waiting
        place = jnp.arange(self.batch_size)
        env = jnp.clip(jnp.searchsorted(before, place, side="right") - 1, 0, waiting.shape[0] - 1)
        start = replay.queued[env] + (place - before[env]) * self.length
        queued = place < waiting.sum()
        taken = jnp.clip(self.batch_size - before, 0, waiting)
        windows = Windows(jnp.where(queued, env, drawn.env), jnp.where(queued, start, drawn.start))
        return dataclasses.replace(replay, queued=replay.queued + taken * self.length), windows

    def read(self, replay: Replay, windows: Windows) -> ReplayBatch:
        """The steps and first carries of windows."""
        rows = (windows.start + jnp.arange(self.length)[:, None]) % self.capacity
        slot = windows.start // self.carry_every % self.slots
        return ReplayBatch(
            steps=jax.tree.map(lambda leaf: leaf[rows, windows.env], replay.steps),
            carry=jax.tree.map(lambda leaf: leaf[slot, windows.env], replay.carries),
        )

    def age(self, replay: Replay, windows: Windows, update: Int[Array, ""]) -> Float[Array, ""]:
        """Staleness: updates since the first carries of the windows were computed, on average."""
        slot = windows.start // self.carry_every % self.slots
        return (update - replay.written[slot, windows.env]).astype(jnp.float32).mean()

    def refresh(self, replay: Replay, windows: Windows, feedback: Feedback, update: Int[Array, ""]) -> Replay:
        """Put the carries along the windows, and their priorities, in the place of what was there."""
        step = windows.start + self.carry_every * (1 + jnp.arange(self.length // self.carry_every))[:, None]
        # The carry after the last step belongs to a step to come where the stream ends; its slot is still another's.
        slot = jnp.where(step < replay.count[windows.env], step // self.carry_every % self.slots, self.slots)
        first = windows.start // self.carry_every % self.slots
        return dataclasses.replace(
            replay,
            carries=jax.tree.map(
                lambda old, new: old.at[slot, windows.env].set(new.astype(old.dtype), mode="drop"),
                replay.carries,
                feedback.carries,
            ),
            written=replay.written.at[slot, windows.env].set(update, mode="drop"),
            priority=replay.priority.at[first, windows.env].set(feedback.priority),
            max_priority=jnp.maximum(replay.max_priority, feedback.priority.max()),
        )

    def _first_step(self, replay: Replay) -> Int[Array, "C/K B"]:
        """The number of the step that each slot's carry stands before; negative where there is none yet."""
        newest = (replay.count - 1) // self.carry_every
        behind = (newest - jnp.arange(self.slots)[:, None]) % self.slots
        return (newest - behind) * self.carry_every

    def _startable(self, replay: Replay) -> Bool[Array, "C/K B"]:
        """Where a whole window starts that has not begun to be overwritten."""
        first = self._first_step(replay)
        complete = first + self.length <= replay.count
        return (first >= 0) & complete & (first >= replay.count - self.capacity)


def split_environments(tree: Any, num_shards: int, *, axis: int) -> Any:
    """Leaves whose `axis` counts environments, that axis split into `[num_shards, B / num_shards]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(*leaf.shape[:axis], num_shards, -1, *leaf.shape[axis + 1 :]), tree)


def cut_streams(replay: Replay) -> Replay:
    """The newest step of every stream as the last of its episode: what is added next does not follow from it."""
    if replay.count.ndim > 1:  # shards, or seeds, lead
        return jax.vmap(cut_streams)(replay)
    capacity, num_envs = replay.steps.last.shape
    newest = jnp.where(replay.count > 0, (replay.count - 1) % capacity, capacity)  # out of range: there is none
    last = replay.steps.last.at[newest, jnp.arange(num_envs)].set(True, mode="drop")
    return dataclasses.replace(replay, steps=dataclasses.replace(replay.steps, last=last))
