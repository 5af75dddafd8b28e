"""A folder that one process at a time may write: of a run, or of a sweep."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from .errors import RunFolderError

_LOCK, _HOLDER = ".lock", ".held_by"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder for the length of the block; the system lets go of it when this process ends, however it does.

    Raises:
        RunFolderError: if another process holds it, or its lock cannot be written.
    """
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunFolderError(
            f"{folder} is being written by {_holder(folder)}; wait until that has ended, or stop it, and try again"
        ) from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise RunFolderError(f"{folder / _LOCK} cannot be written: {error.strerror}") from error
    try:
        with contextlib.suppress(OSError):
            (folder / _HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(encoding="utf-8")
    except OSError:
        return "another process"
