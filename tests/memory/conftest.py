"""Fixtures of the memory tests."""

import jax
import pytest


@pytest.fixture(scope="module")
def unoptimised():
    """Compile without most optimisations: tests that run a program once spend their time compiling it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
