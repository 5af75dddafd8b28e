"""Which tasks are trained on and which are held out.

A task made of random numbers is made of those of a number, its seed: even ones for training, odd ones held out. A task
that is a point of ranges has ranges for training and others held out, which must not overlap.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Split = Literal["train", "held-out-tasks", "held-out-projections", "held-out-both"]
Interval = tuple[float, float]

_SEEDS = 2**30
_SHARED_DRAW = 4


def check_split(split: str, *, projected: bool) -> None:
    """Raise ValueError for a split there is not; those of projections only where there are projections."""
    known = [each for each in get_args(Split) if projected or ("projections" not in each and each != "held-out-both")]
    if split not in known:
        raise ValueError(f"split={split!r} must be one of {', '.join(known)}")


def holds_out_tasks(split: str) -> bool:
    """Whether a split shows tasks that are held out."""
    return split in ("held-out-tasks", "held-out-both")


def holds_out_projections(split: str) -> bool:
    """Whether a split shows projections that are held out."""
    return split in ("held-out-projections", "held-out-both")


def seeded_key(key: Key[Array, ""], *, held_out: bool, kind: int) -> Key[Array, ""]:
    """A typed key that random numbers of a task are drawn by: of an even seed, or an odd one where held out.

    Args:
        key: which seed.
        held_out: see there.
        kind: tells apart what is drawn by the same seeds.
    """
    seed = 2 * (jax.random.bits(key) % _SEEDS) + int(held_out)
    return jax.random.fold_in(jax.random.key(kind), seed)


class Ranges:
    """A box of numbers by name, an inner part to train on and what is around it held out.

    A point is held out when at least one of its numbers is: half of the numbers, at least one, are drawn from the
    held-out ranges, the others from anywhere.

    Args:
        train: name -> `(low, high)`.
        held_out: name -> ranges, each `(low, high)`, of the same names.

    Raises:
        ValueError: if the names differ, a range is empty, or a held-out one overlaps the training one.
    """

    def __init__(self, train: Mapping[str, Interval], held_out: Mapping[str, tuple[Interval, ...]]):
        if set(train) != set(held_out) or not train:
            raise ValueError(f"train={sorted(train)} and held_out={sorted(held_out)} must name the same numbers")
        for name, (low, high) in train.items():
            for interval in ((low, high), *held_out[name]):
                if not interval[0] <= interval[1]:
                    raise ValueError(f"{name}: range {interval} must have its lower end first")
            for other in held_out[name]:
                if other[0] < high and low < other[1]:
                    raise ValueError(
                        f"{name}: the split overlaps: held out {other} and trained on {(low, high)} must be disjoint"
                    )
        self.names = tuple(train)
        self.train = dict(train)
        self.held_out = {name: tuple(held_out[name]) for name in train}

    def sample(self, key: Key[Array, ""], *, held_out: bool) -> dict[str, Float[Array, ""]]:
        """A point: every number evenly from its range."""
        # Every call of jax.random costs half a second of compiling: one for all numbers, and of one size, so that
        # members of a mixture share it.
        draws, ranks = jax.random.uniform(key, (2, max(_SHARED_DRAW, len(self.names))))[:, : len(self.names)]
        outside: Bool[Array, " n"] = jnp.zeros(len(self.names), bool)
        if held_out:
            outside = (ranks[:, None] > ranks[None, :]).sum(-1) < max(1, len(self.names) // 2)
        return {
            name: jnp.where(outside[index], _place(draws[index], self.held_out[name]), _place(draws[index], (inside,)))
            for index, (name, inside) in enumerate(self.train.items())
        }

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Whether every number is within its training range; for concrete values."""
        return all(low <= float(point[name]) <= high for name, (low, high) in self.train.items())


def around(**centres: tuple[float, float, float]) -> Ranges:
    """Ranges around centres: name -> (centre, inner share, outer share).

    Trained on is `centre (1 - inner, 1 + inner)`; held out is what is beyond, up to the outer share.
    """
    train, held_out = {}, {}
    for name, (centre, inner, outer) in centres.items():
        train[name] = (centre * (1 - inner), centre * (1 + inner))
        held_out[name] = ((centre * (1 - outer), train[name][0]), (train[name][1], centre * (1 + outer)))
    return Ranges(train, held_out)


def _place(draw: Float[Array, ""], intervals: tuple[Interval, ...]) -> Float[Array, ""]:
    """Where on the union of intervals a number in [0, 1) is, by length."""
    rest = draw * sum(high - low for low, high in intervals)
    *others, (low, _) = intervals
    place = low + jnp.maximum(rest - sum(high - low for low, high in others), 0.0)
    for index, (low, high) in reversed(list(enumerate(others))):
        before = sum(end - start for start, end in others[:index])
        place = jnp.where(rest < before + high - low, low + rest - before, place)
    return place
