"""Set-up of the whole test run, before jax is first imported.

Two host devices, so that what is sharded is tested; a compilation cache of this run alone, so that the same program
compiled by two tests is compiled once, and nothing is left over for the next run. Compiled programs are let go between
modules: each is some ten to hundreds of memory mappings, and a process that has Linux's 65,530 of them crashes.
"""

import gc
import os
import tempfile
from pathlib import Path

FORCED_DEVICES = "--xla_force_host_platform_device_count=2"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FORCED_DEVICES}".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

_CACHE = tempfile.TemporaryDirectory(prefix="hippodrome-test-cache-")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

_MANY_MAPPINGS = 15_000


@pytest.fixture(scope="module", autouse=True)
def let_programs_go():
    """Clears jax's caches after a module that leaves many memory mappings."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MANY_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def clean_registry(monkeypatch):
    """Memories that the test registers are unknown to the tests after it."""
    from hippodrome.memory import registry

    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    monkeypatch.setattr(registry, "_CONFIGS", dict(registry._CONFIGS))
