"""How fast the processes of a group add up arrays: what a training step waits for."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hippodrome.training.processes import put, wait_for_all


def measure(sizes: list[int], repeats: int) -> list[float]:
    """Median seconds of the mean over all devices of float32 arrays of so many bytes; called in every process."""
    mesh = Mesh(jax.devices(), ("devices",))
    same = PartitionSpec()
    mean = jax.jit(
        jax.shard_map(lambda x: jax.lax.pmean(x, "devices"), mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
    )
    wait_for_all("bandwidth")
    medians = []
    for size in sizes:
        array = put(np.ones(max(1, size // 4), jnp.float32), NamedSharding(mesh, same))
        jax.block_until_ready(mean(array))
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(mean(array))
            seconds.append(time.perf_counter() - began)
        medians.append(statistics.median(seconds))
    return medians
