"""Programs of these tests are tiny and many: compiling them dominates, so XLA's costly passes are off here.

The numerics that matter at full optimisation are those of the memory tests and of the commands run as subprocesses.
"""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
