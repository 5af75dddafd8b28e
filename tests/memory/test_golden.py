"""Memories that others wrote, on the same weights: PyPI transformers and memax, by fixtures of make_golden.py."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import LRU, Mamba, Mamba2, matrix_recurrence

T = 12


@pytest.fixture(scope="module")
def golden():
    """All arrays by name."""
    folder = Path(__file__).parent
    files = [np.load(folder / f"golden_{which}.npz") for which in ("transformers", "memax")]
    return {name: file[name] for file in files for name in file.files}


def parameters(golden, prefix):
    """The nested parameters below a name, without its data x and y."""
    tree = {}
    for name, value in golden.items():
        head, *path = name.split("/")
        if head == prefix and path[0] not in ("x", "y"):
            branch = tree
            for part in path[:-1]:
                branch = branch.setdefault(part, {})
            branch[path[-1]] = jnp.asarray(value)
    return {"params": tree}


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("mamba", Mamba(d_model=8, d_state=5, dt_rank=3, chunk_size=4)),
        ("mamba2", Mamba2(d_model=8, d_state=5, head_dim=4, groups=2, chunk_size=5)),
    ],
)
def test_mamba_equals_transformers(golden, name, memory):
    x = golden[f"{name}/x"]
    reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
    _, y = memory.apply(parameters(golden, name), memory.initial_carry(x.shape[1:2]), x, reset)
    np.testing.assert_allclose(y, golden[f"{name}/y"], atol=1e-5)


def test_lru_equals_memax(golden):
    memory = LRU(d_model=6, d_state=6)
    _, y = memory.apply(
        parameters(golden, "lru"), memory.initial_carry(()), golden["memax/x"], jnp.asarray(golden["memax/start"])
    )
    np.testing.assert_allclose(y, golden["lru/y"], atol=1e-5)


@pytest.mark.parametrize("name", ["fart", "delta", "gdn"])
def test_matrix_recurrences_equal_memax(golden, name):
    k, v = (jnp.asarray(golden[f"{name}/{each}"])[:, None] for each in ("k", "v"))
    log_decay = jnp.log(jnp.asarray(golden["gdn/alpha"]))[:, None] if name == "gdn" else jnp.zeros((T, 1))
    beta = None if name == "fart" else jnp.asarray(golden[f"{name}/beta"])[:, None]
    reset, carry = jnp.asarray(golden["memax/start"]), jnp.zeros((1, 4, 4))
    # With unit vectors as queries the rows of the state are read one by one.
    for row in range(4):
        q = jnp.broadcast_to(jnp.eye(4)[row], k.shape)
        y, _ = matrix_recurrence(q, k, v, log_decay, reset, carry, beta, chunk_size=5)
        np.testing.assert_allclose(y[:, 0], golden[f"{name}/state"][:, row], atol=1e-5)
