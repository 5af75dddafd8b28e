"""Several processes that train one run together, each with devices of its own: what must be done by all of them.

Every process runs the same program on the same state, of which it holds the parts that are on its devices
(`jax.distributed`). The first one, the leader, writes and evaluates. In a process alone these functions do nothing.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint.multihost import get_barrier_sync_fn

_MOST_SECONDS_APART = 3600


def is_leader() -> bool:
    """Whether this process writes the run folder."""
    return jax.process_index() == 0


def run_devices(num_devices: int) -> list[jax.Device]:
    """The first `num_devices` of each process, in the order of the processes.

    Raises:
        ValueError: if a process has fewer.
    """
    chosen = []
    for process in range(jax.process_count()):
        devices = [device for device in jax.devices() if device.process_index == process]
        if len(devices) < num_devices:
            raise ValueError(f"num_devices={num_devices}, but process {process} has {len(devices)} devices")
        chosen += devices[:num_devices]
    return chosen


def wait_for_all(name: str) -> None:
    """Return once every process has come here; must stand before the first sum over the processes.

    They compile for different times, and jax's collectives on CPUs give up where the last comes 30 s after the first.
    Where one dies meanwhile, whoever started them ends the others (`cluster.group`).

    Args:
        name: of this place; each is passed once in the life of a process.
    """
    if jax.process_count() > 1:
        get_barrier_sync_fn()(key=f"hippodrome/{name}", timeout_ms=_MOST_SECONDS_APART * 1000)


def agree(numbers: Sequence[int]) -> list[int]:
    """The highest of each number over all processes."""
    if jax.process_count() == 1:
        return list(numbers)
    each, highest = _agreement()
    mine = np.asarray(numbers, np.int32)[None]
    everyone = jax.make_array_from_callback((jax.process_count(), mine.size), each, lambda _: mine)
    return np.asarray(highest(everyone)).tolist()


@functools.cache
def _agreement() -> tuple[NamedSharding, Any]:
    """Where the numbers of all processes lie, and the program that finds the highest of each."""
    mesh = Mesh(run_devices(1), ("processes",))
    each, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("processes",), ()))
    return each, jax.jit(lambda numbers: numbers.max(axis=0), out_shardings=same)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process has whole, spread over the devices of all; those that are spread already stay."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if _is_key(leaf):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)


def whole(tree: Any) -> Any:
    """Arrays spread over several processes, whole in each; leaf by leaf, so that memory holds few copies."""
    if jax.process_count() == 1:
        return tree

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if _is_key(leaf):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return np.asarray(leaf) if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
