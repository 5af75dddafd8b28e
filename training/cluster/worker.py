"""What runs in each process of a group: an actor that trains its share, and reports while it does."""

import collections
import os
import socket
from pathlib import Path
from typing import Any

from hippodrome.training.log.progress import Progress


class Worker:
    """One process of a group. Its methods run in threads: while `train` lasts, the others answer.

    No device is touched before `join`: `jax.distributed` must come first.
    """

    def __init__(self) -> None:
        self._interrupted: list[int] = []
        self._reports: collections.deque[Progress | str] = collections.deque()

    def where(self) -> dict[str, Any]:
        """The process, its node, and a port that is free there."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return {
            "pid": os.getpid(),
            "host": ray.util.get_node_ip_address(),
            "node": ray.get_runtime_context().get_node_id(),
            "port": port,
        }

    def join(self, coordinator: str, num_workers: int, rank: int) -> None:
        """Makes this process number `rank` of the group."""
        import jax

        # Where it is left out, the service listens on every address of the node.
        bind = coordinator if rank == 0 else None
        jax.distributed.initialize(coordinator, num_workers, rank, coordinator_bind_address=bind)

    def train(self, folder: Path, resume: bool, command: list[str] | None) -> dict[str, Any] | None:
        """The run of a folder to its end; the result of the final evaluation in the leader."""
        from hippodrome.training.config import load_config
        from hippodrome.training.loop import run_training
        from hippodrome.training.prepare import prepare
        from hippodrome.training.processes import is_leader

        prepared = prepare(load_config(folder), folder if resume else None)
        run = run_training(prepared, folder, self, self._interrupted, command=command)
        return run.finish() if is_leader() else None

    def reduce(self, sizes: list[int], repeats: int) -> list[float]:
        """Median seconds of adding up arrays of so many bytes over all processes."""
        from .bandwidth import measure

        return measure(sizes, repeats)

    def interrupt(self, number: int) -> None:
        """As if the signal of that number had come to this process."""
        self._interrupted.append(number)

    def reports(self) -> list[Progress | str]:
        """What `update` and `say` were told since it was last asked."""
        found = []
        while self._reports:
            found.append(self._reports.popleft())
        return found

    def update(self, progress: Progress) -> None:
        """See `progress.Reporter`."""
        self._reports.append(progress)

    def say(self, text: str) -> None:
        """See `progress.Reporter`."""
        self._reports.append(text)
