"""A group of workers: started together, joined by `jax.distributed`, ended together."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hippodrome.training.config import TrainConfig
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import ConfigError, HippodromeError, TrainingError

from .worker import Worker

# After one worker failed, how long to wait for what the others say of it.
_SECONDS_TO_TELL = 5.0
_FORCED = "--xla_force_host_platform_device_count"


class WorkerLost(Exception):
    """A worker's process died, or raised an error that no message explains."""


class Group:
    """Workers that are running and joined.

    Attributes:
        workers: actor handles; the first is the leader.
        places: of each, its process, host and node.
    """

    def __init__(self, workers: Sequence[Any], places: list[dict[str, Any]]):
        self.workers = list(workers)
        self.places = places

    @property
    def leader(self) -> Any:
        """The worker that writes and reports."""
        return self.workers[0]

    def call(self, method: str, *args: Any) -> list[Any]:
        """References to what a method gives in every worker."""
        return [getattr(worker, method).remote(*args) for worker in self.workers]

    def get(self, references: list[Any], timeout: float | None = None) -> list[Any]:
        """Their values, once all are there.

        Raises:
            HippodromeError: the worker's own, where it raised one that its message explains.
            WorkerLost: if a worker died or raised another error; with its traceback.
        """
        pending = list(references)
        while pending:
            done, pending = ray.wait(pending, timeout=timeout)
            if not done:
                raise WorkerLost(f"the workers did not answer within {timeout:g} s")
            self.check(done, references)
        return ray.get(references)

    def check(self, done: list[Any], references: list[Any]) -> None:
        """Raise as `get` does where one of the finished references holds an error."""
        failed = [each for each in done if _error_of(each) is not None]
        if not failed:
            return
        # Those that waited for it fail too, or never end; a death explains their errors.
        ready, _ = ray.wait(references, num_returns=len(references), timeout=_SECONDS_TO_TELL)
        errors = [(references.index(each), _error_of(each)) for each in dict.fromkeys([*failed, *ready])]
        found = [(rank, error) for rank, error in errors if error is not None]
        for _, error in found:
            cause = getattr(error, "cause", None)
            if isinstance(cause, HippodromeError):
                raise cause
        deaths = [(rank, error) for rank, error in found if not isinstance(error, ray.exceptions.RayTaskError)]
        rank, error = (deaths or found)[0]
        raise WorkerLost(self._describe(rank, error))

    def _describe(self, rank: int, error: BaseException | None) -> str:
        place = self.places[rank]
        who = f"worker {rank} (process {place['pid']} on {place['host']})"
        if isinstance(error, ray.exceptions.RayTaskError):
            return f"{who} raised an error:\n{error}"
        return f"{who} died: {death_of(error)}"


@contextlib.contextmanager
def group_of(config: TrainConfig) -> Iterator[Group]:
    """A group of `cluster.num_workers` workers, joined; killed at the end of the block.

    Raises:
        TrainingError: if the cluster has no room for them within `cluster.start_timeout`.
        WorkerLost: if one dies before all have joined.
    """
    # Three threads: reports and interruptions come while a worker trains.
    with started(Worker, config, config.cluster.num_workers, max_concurrency=3) as group:
        first = group.places[0]
        coordinator = f"{first['host']}:{first['port']}"
        joining = [worker.join.remote(coordinator, len(group.workers), i) for i, worker in enumerate(group.workers)]
        group.get(joining, config.cluster.start_timeout)
        yield group


@contextlib.contextmanager
def started(cls: type, config: TrainConfig, count: int, *, max_concurrency: int) -> Iterator[Group]:
    """`count` actors of a class that has `where`, each with a worker's cores and GPUs; killed at the end of the block.

    Raises:
        TrainingError: if the cluster has no room for them within `cluster.start_timeout`.
        WorkerLost: if one dies before it says where it is.
    """
    cluster = config.cluster
    bundle = {"CPU": float(cluster.cores_per_worker)}
    if cluster.gpus_per_worker:
        bundle["GPU"] = float(cluster.gpus_per_worker)
    room = placement_group([bundle] * count, strategy="PACK")
    workers: list[Any] = []
    try:
        _wait_for(room, cluster)
        actor: Any = ray.remote(cls)
        for index in range(count):
            strategy = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=index)
            options = actor.options(
                num_cpus=cluster.cores_per_worker,
                num_gpus=cluster.gpus_per_worker,
                max_restarts=0,
                max_concurrency=max_concurrency,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": worker_variables(config)},
            )
            workers.append(options.remote())
        group = Group(workers, [{"pid": "?", "host": "?"}] * count)
        group.places = group.get(group.call("where"), cluster.start_timeout)
        yield group
    finally:
        for worker in workers:
            ray.kill(worker)
        remove_placement_group(room)


def worker_variables(config: TrainConfig) -> dict[str, str]:
    """The environment variables of a worker's process, which jax reads when it is first imported.

    XLA's own pool has as many threads as NPROC says; OMP_NUM_THREADS means nothing to it.
    """
    cluster = config.cluster
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_FORCED)]
    variables = {"NPROC": str(cluster.cores_per_worker)}
    if not cluster.gpus_per_worker:
        variables["JAX_PLATFORMS"] = "cpu"
        flags += [f"{_FORCED}={config.num_devices}"] if config.num_devices > 1 else []
    return {**variables, "XLA_FLAGS": " ".join(flags)}


def require_room(cluster: ClusterConfig) -> None:
    """Raise ConfigError unless the whole cluster, if nothing else ran there, had room for the workers."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    field = "num_actors" if cluster.num_actors else "num_workers"
    for name, what, each in (("CPU", "cores", cluster.cores_per_worker), ("GPU", "gpus", cluster.gpus_per_worker)):
        fits = sum(int(node.get(name, 0) // each) for node in nodes) if each else cluster.num_processes
        if fits < cluster.num_processes:
            there = ", ".join(f"{node.get(name, 0):g}" for node in nodes)
            raise ConfigError(
                f"cluster.{field}={cluster.num_processes} of cluster.{what}_per_worker={each} each do not fit: the "
                f"nodes of the cluster have {there} {what}, enough for {fits}; lower them, or add nodes by `ray start "
                "--address`"
            )


def _wait_for(room: Any, cluster: ClusterConfig) -> None:
    if room.wait(cluster.start_timeout):
        return
    free = {name: value for name, value in ray.available_resources().items() if name in ("CPU", "GPU")}
    raise TrainingError(
        f"the cluster had no room for {cluster.num_processes} workers within cluster.start_timeout="
        f"{cluster.start_timeout:g} s; free now: {free}"
    )


def _error_of(reference: Any) -> BaseException | None:
    try:
        ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return None
    except Exception as error:
        return error
    return None


def death_of(error: BaseException | None) -> str:
    """The telling line of what Ray says of a dead actor."""
    text = " ".join(str(error).split())
    for start in ("Worker exit detail: ", "The actor is dead because "):
        if start in text:
            text = text.split(start, 1)[1]
    text = text.split(" Some common causes", 1)[0]
    return text[:300]
