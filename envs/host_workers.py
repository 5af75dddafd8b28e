"""Copies of an environment that steps in Python, split over processes.

Legend: `B` copies, `W` processes.
"""

import atexit
import contextlib
import multiprocessing
import signal
import sys
import time
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .host_copies import Copies, HostCopy, HostEnvError, Stepped

# A worker gets the code of these as values: to import them would load JAX (seconds and 200 MB) in every process.
_SENT_AS_VALUES = ("hippodrome.envs.host_copies", __name__, "hippodrome.envs.adapters.gymnasium_copy")
_CLOSE_SECONDS = 5.0


class WorkerCopies:
    """`Copies` in `W` processes of their own, the same to the last bit. Close it: the processes live until then.

    Args:
        factory: makes one copy; pickled by cloudpickle.
        count: B.
        workers: W, at most B of them.

    Raises:
        HostEnvError: where a copy fails or a process dies.
    """

    def __init__(self, factory: Callable[[], HostCopy], count: int, workers: int):
        context = multiprocessing.get_context("spawn")  # a fork of a process with JAX's threads can hang
        parts = np.array_split(np.arange(count), min(workers, count))
        self._bounds = [int(part[0]) for part in parts[1:]]
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        for part in parts:
            mine, theirs = context.Pipe()
            arguments = (theirs, _ByValue(factory), len(part), int(part[0]))
            target: Any = _ByValue(_work)
            process = context.Process(target=target, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(mine)
        self._stop = weakref.finalize(self, _stop, self._processes, self._pipes)
        # Before multiprocessing's own hook, which waits for processes that it cannot end: they ignore SIGTERM.
        atexit.register(self._stop)

    def reset(self, seeds: np.ndarray) -> list[np.ndarray]:
        """See `Copies.reset`."""
        return _joined(self._ask("reset", np.split(seeds, self._bounds)))

    def step(self, action: list[np.ndarray]) -> Stepped:
        """See `Copies.step`."""
        split = [np.split(leaf, self._bounds) for leaf in action]
        answers = self._ask("step", [list(part) for part in zip(*split, strict=True)])
        reached, reward, terminated, truncated, current = zip(*answers, strict=True)
        return Stepped(
            _joined(reached),
            np.concatenate(reward),
            np.concatenate(terminated),
            np.concatenate(truncated),
            _joined(current),
        )

    def close(self) -> None:
        """Ends the processes; those that do not answer within seconds are killed."""
        self._stop()
        atexit.unregister(self._stop)

    def _ask(self, method: str, arguments: list[Any]) -> list[Any]:
        for pipe, argument in zip(self._pipes, arguments, strict=True):
            with contextlib.suppress(OSError):  # a process that died is told by the answer that does not come
                pipe.send((method, argument))
        answers = [self._answer(index) for index in range(len(self._pipes))]
        for done, answer in answers:
            if not done:
                raise HostEnvError(answer)
        return [answer for _, answer in answers]

    def _answer(self, index: int) -> tuple[bool, Any]:
        try:
            return self._pipes[index].recv()
        except (EOFError, OSError):
            self._processes[index].join(1.0)
            bounds = [0, *self._bounds]
            return False, (
                f"the process of the copies from {bounds[index]} on ended without an answer (exit code "
                f"{self._processes[index].exitcode}; its own words, if any, are above). A script that trains with "
                'host_workers must do so under `if __name__ == "__main__":`'
            )


class _ByValue:
    """Pickled by cloudpickle, it arrives as the object itself: the worker need not import where that is defined."""

    def __init__(self, content: Any):
        self.content = content

    def __reduce__(self) -> tuple:
        import cloudpickle

        modules = [sys.modules[name] for name in _SENT_AS_VALUES if name in sys.modules]
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
        try:
            return cloudpickle.loads, (cloudpickle.dumps(self.content),)
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


def _work(pipe: Connection, factory: Callable[[], HostCopy], count: int, first: int) -> None:
    """A process: answers until the pipe closes."""
    # Ctrl-C and SIGTERM may reach the whole group; the run finishes its update, and for that it needs this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    copies = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, argument = pipe.recv()
            answer: tuple[bool, Any]
            try:
                copies = copies or Copies(factory, count, first)
                # A plain tuple: `Stepped` as it is here is not the class of that name where the answer is read.
                answer = True, tuple(getattr(copies, method)(argument))
            except HostEnvError as error:
                answer = False, str(error)
            except Exception:
                answer = False, traceback.format_exc().rstrip()
            pipe.send(answer)
    if copies is not None:
        copies.close()


def _stop(processes: list[Any], pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    deadline = time.monotonic() + _CLOSE_SECONDS
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.0))
        if process.is_alive():
            process.kill()
            process.join()


def _joined(parts: Any) -> list[np.ndarray]:
    return [np.concatenate(leaves) for leaves in zip(*parts, strict=True)]
