"""Checkpoints: bit-exact, atomic, verified; real damage, a real kill, a really full disk."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.training.checkpoint import files as checkpoint_files
from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.errors import CheckpointError


class Pair(NamedTuple):
    first: Any
    second: Any


def make_state(seed: int = 0) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), 4)
    weights = jax.random.normal(keys[0], (3, 4))
    return {
        "params": {"dense": {"kernel": weights, "scale": weights.astype(jnp.bfloat16)}},
        "optimiser": Pair((), (jnp.asarray(7, jnp.int32), None)),
        "keys": keys,
        "rbg": jax.random.key(3, impl="rbg"),
        "complex": weights[0] + 1j * weights[1],
        "special": jnp.asarray([jnp.nan, -0.0, jnp.inf, 1e-45]),
        "flags": jnp.asarray([True, False]),
        "empty": jnp.zeros((0, 3)),
        "host": np.arange(3, dtype=np.uint8),
        "updates": 12,
        "score": 0.1,
    }


def bits(tree: Any) -> list[Any]:
    def leaf_bits(leaf):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes()
        return str(getattr(leaf, "dtype", type(leaf))), np.shape(leaf), np.asarray(leaf).tobytes()

    return [leaf_bits(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    assert bits(left) == bits(right)


def test_restores_every_bit_of_every_kind_of_leaf(tmp_path):
    state = make_state()
    Checkpointer(tmp_path).save(3, state, {"env_steps": 96, "note": "é"})
    restored, metadata = Checkpointer(tmp_path).restore(make_state(seed=1))
    assert_same(restored, state)
    assert metadata == {"env_steps": 96, "note": "é"}
    assert [type(leaf) for leaf in jax.tree.leaves(restored)] == [type(leaf) for leaf in jax.tree.leaves(state)]


def test_restores_into_shapes_and_vmapped_seeds(tmp_path):
    state = jax.vmap(lambda key: {"key": key, "w": jax.random.normal(key, (2,))})(
        jax.random.split(jax.random.key(0), 3)
    )
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state, {})
    restored, _ = checkpoints.restore(jax.eval_shape(lambda: state))
    assert_same(restored, state)


def test_restores_with_the_sharding_of_the_template(tmp_path):
    mesh = jax.make_mesh((1,), ("devices",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    state = {"x": jax.device_put(jnp.arange(4.0), sharding), "key": jax.device_put(jax.random.key(1))}
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state, {})
    restored, _ = checkpoints.restore(state)
    assert_same(restored, state)
    assert restored["x"].sharding == sharding


def test_restores_a_part_of_the_state(tmp_path):
    state = make_state()
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, state, {})
    params, _ = checkpoints.restore(make_state(1)["params"], under="params")
    assert_same(params, state["params"])


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, {"x": jnp.asarray(step)}, {}, best=step == 2)
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.restore({"x": jnp.asarray(0)}, "best")[0]["x"] == 2
    assert checkpoints.restore({"x": jnp.asarray(0)}, 4)[0]["x"] == 4
    checkpoints.save(6, {"x": jnp.asarray(6)}, {}, best=True)
    assert checkpoints.steps() == [5, 6]


def test_saving_after_going_back_leaves_no_later_checkpoint(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(5, {"x": jnp.asarray(5)}, {})
    checkpoints.save(10, {"x": jnp.asarray(10)}, {}, best=True)
    checkpoints.save(7, {"x": jnp.asarray(7)}, {})
    assert checkpoints.steps() == [7]
    assert checkpoints.best_step() is None


def test_saving_the_same_step_again_replaces_it(tmp_path):
    checkpoints = Checkpointer(tmp_path)
    for value in (1, 2):
        checkpoints.save(4, {"x": jnp.asarray(value)}, {"value": value})
    assert checkpoints.restore({"x": jnp.asarray(0)}) == ({"x": 2}, {"value": 2})
    assert checkpoints.read_metadata() == {"value": 2}
    assert [each.name for each in tmp_path.iterdir()] == ["step_000000000004"]


def test_a_kill_while_replacing_loses_nothing(tmp_path):
    checkpoints = Checkpointer(tmp_path)
    folder = checkpoints.save(4, {"x": jnp.asarray(1)}, {"value": 1})
    folder.rename(tmp_path / f".replaced_{folder.name}")
    (tmp_path / f".writing_{folder.name}").mkdir()
    assert checkpoints.restore({"x": jnp.asarray(0)}) == ({"x": 1}, {"value": 1})
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]


def _files(folder: Path) -> list[str]:
    return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip", "empty"])
def test_any_damaged_file_is_reported_and_the_checkpoint_before_used(tmp_path, damage):
    template = {"x": jnp.zeros(50), "y": jnp.zeros(())}
    reports: list[str] = []
    checkpoints = Checkpointer(tmp_path / "made", say=reports.append)
    checkpoints.save(1, {"x": jnp.ones(50), "y": jnp.ones(())}, {"step": 1})
    folder = checkpoints.save(2, {"x": jnp.full(50, 2.0), "y": jnp.ones(())}, {"step": 2})
    for name in _files(folder):
        intact = (folder / name).read_bytes()
        middle = len(intact) // 2
        if damage == "delete":
            (folder / name).unlink()
        else:
            flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
            content = {"truncate": intact[:-1], "flip": flipped, "empty": b""}[damage]
            (folder / name).write_bytes(content)
        reports.clear()
        state, metadata = checkpoints.restore(template)
        assert (metadata, float(state["x"][0])) == ({"step": 1}, 1.0), name
        assert checkpoints.read_metadata() == {"step": 1}
        assert len(reports) == 1 and "step_000000000002 is damaged" in reports[0]
        (folder / name).write_bytes(intact)
    assert checkpoints.restore(template)[1] == {"step": 2}


def test_damage_is_logged_by_default_and_is_an_error_when_nothing_is_left(tmp_path, caplog):
    checkpoints = Checkpointer(tmp_path)
    folder = checkpoints.save(1, {"x": jnp.ones(2)}, {})
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no intact checkpoint in .* \(there: \[1\]\)"):
        checkpoints.restore({"x": jnp.ones(2)})
    assert "manifest.json is missing or half-written" in caplog.text
    with pytest.raises(CheckpointError, match="no intact checkpoint 'best'"):
        checkpoints.restore({"x": jnp.ones(2)}, "best")
    with pytest.raises(CheckpointError, match=r"there: none"):
        Checkpointer(tmp_path / "nowhere").read_metadata()


def test_another_structure_is_named_leaf_by_leaf(tmp_path):
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2), "c": jnp.zeros(1)}, {})
    template = {"a": jnp.zeros((2, 4)), "b": jnp.zeros(2, jnp.int32), "d": jax.random.key(0)}
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(template)
    message = str(caught.value)
    assert "4 leaves differ" in message
    assert "a: float32[2,4] here, float32[2,3] in the checkpoint" in message
    assert "b: int32[2] here, float32[2] in the checkpoint" in message
    assert "c: absent here, float32[1] in the checkpoint" in message
    assert "d: key<threefry2x32>[] here, absent in the checkpoint" in message


def test_a_full_disk_leaves_the_previous_checkpoint_valid(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, {"x": jnp.ones(2)}, {"step": 1})

    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_files.os, "fsync", no_space)
    with pytest.raises(CheckpointError, match=r"No space left on device.*step 1\) is intact.*MB free.*--resume"):
        checkpoints.save(2, {"x": jnp.ones(2)}, {"step": 2})
    assert checkpoints.restore({"x": jnp.zeros(2)})[1] == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["step_000000000001"]


def test_a_file_size_limit_leaves_the_previous_checkpoint_valid(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoints = Checkpointer(tmp_path)
    checkpoints.save(1, {"x": jnp.ones(2)}, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = jax.random.normal(jax.random.key(0), (300_000,))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step 1\) is intact"):
            checkpoints.save(2, {"x": noise}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.restore({"x": jnp.zeros(2)})[1] == {"step": 1}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"could not be written to .*file/checkpoints.*no earlier one"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, {"x": jnp.ones(2)}, {})


_SAVE_FOREVER = """
import sys
import jax.numpy as jnp
from hippodrome.training.checkpoint.checkpointer import Checkpointer
checkpoints = Checkpointer(sys.argv[1], keep=2)
for step in range(1, 10_000):
    checkpoints.save(step, {"x": jnp.full((200_000,), step, jnp.int32)}, {"step": step})
    print(step, flush=True)
"""


def test_a_kill_while_saving_leaves_whole_checkpoints_only(tmp_path):
    template = {"x": jnp.zeros((200_000,), jnp.int32)}
    process = subprocess.Popen([sys.executable, "-c", _SAVE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(3):
            newest_said = int(process.stdout.readline())
        time.sleep(0.07)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    reports: list[str] = []
    checkpoints = Checkpointer(tmp_path, keep=2, say=reports.append)
    state, metadata = checkpoints.restore(template)
    assert reports == []
    assert metadata["step"] >= newest_said
    assert bool((state["x"] == metadata["step"]).all())
    checkpoints.save(metadata["step"] + 1, state, {})
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
