"""One session of Ray for the tests of a file, and the processes it is made of."""

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.cluster import connected
from hippodrome.training.config.schema import ClusterConfig

MARK = "HIPPODROME_TEST_SESSION"


def processes_of(mark):
    """Numbers and command lines of the processes that were started with this mark in their environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                environment, words = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment and words:
                found[int(folder.name)] = words.replace(b"\0", b" ").decode().strip()
    return found


def wait_until(condition, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def newest(run):
    return max(Checkpointer(run / "checkpoints").steps(), default=0)


def ray_session(folder: Path, modules: dict[str, str]) -> Iterator[str]:
    """Two cores' worth of Ray; the mark of its processes, which share what they compile and find the modules."""
    mark = uuid.uuid4().hex
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # as conftest.py has it in this process
        patch.syspath_prepend(folder)
        with connected(ClusterConfig(num_workers=2)):
            yield mark
    wait_until(lambda: not processes_of(mark), 30)
