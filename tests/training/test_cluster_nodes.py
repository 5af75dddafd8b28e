"""Several nodes of Ray on this machine, of which one goes away; and a worker that Ray kills for its memory."""

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from hippodrome.training import train
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.log.metrics import read_metrics
from tests.compare import assert_identical
from tests.ray_sessions import MARK, newest, processes_of, wait_until
from tests.tiny import tiny_config
from tests.training.test_cluster import OPTIONS, UPDATES, state_of

# An environment whose first worker of rank 1 takes 8 GB and keeps them; those after it, nothing.
HUNGRY = """
import os, pathlib, sys, time
import jax, numpy as np
from hippodrome.envs import make, register_env
class Hungry(type(make("popgym/RepeatPreviousEasy"))):
    def step_env(self, *args):
        eaten = pathlib.Path(os.environ["HUNGRY_MARKER"])
        if "ray" in sys.argv[0] and jax.process_index() == 1 and not eaten.exists():
            eaten.touch()
            self.fat = np.ones(8 * 10**9 // 8)
            time.sleep(60)
        return super().step_env(*args)
register_env("tests/Hungry", Hungry)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores"),
]


@pytest.fixture
def start_nodes(tmp_path, monkeypatch):
    """Starts a head without cores and nodes of one core each; all that Ray started is gone afterwards."""
    from ray.cluster_utils import Cluster

    mark = os.urandom(8).hex()
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    started = []

    def start(count):
        small = {"object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        started.append(cluster)
        return cluster, [cluster.add_node(num_cpus=1, **small) for _ in range(count)]

    yield start, mark
    for cluster in started:
        cluster.shutdown()
    wait_until(lambda: not processes_of(mark), 120)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_goes_away_changes_nothing(start_nodes, tmp_path, capsys):
    """Of three nodes two have a worker; the third takes over."""
    start, mark = start_nodes
    cluster, nodes = start(3)
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    config = dataclasses.replace(tiny_config(**OPTIONS), num_shards=2)
    gone = []

    def remove():
        wait_until(lambda: newest(tmp_path / "run") >= UPDATES // 2)
        workers = [pid for pid, words in processes_of(mark).items() if words.startswith("ray::Worker")]
        gone.append(raylets[parent_of(workers[-1])])
        cluster.remove_node(gone[0], allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    on_nodes = ClusterConfig(num_workers=2, address=cluster.address, max_failures=1, start_timeout=200)
    run = train(dataclasses.replace(config, cluster=on_nodes), run_dir=tmp_path / "run")
    thread.join()
    assert len(gone) == 1
    alone = train(config, run_dir=tmp_path / "alone")
    assert_identical(state_of(run, config).envs, state_of(alone, config).envs)
    for row, expected in zip(read_metrics(run), read_metrics(alone), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    (line,) = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert "died" in line["what"] and line["env_steps_resumed_from"] >= 64 * UPDATES // 2
    said = capsys.readouterr().err
    assert "The workers are started again and go on from the checkpoint of update" in said


def test_a_worker_that_takes_too_much_memory_is_told_of_and_replaced(start_nodes, tmp_path, monkeypatch, capsys):
    from ray._private.utils import get_system_memory, get_used_memory

    (tmp_path / "hungry_worker.py").write_text(HUNGRY)
    monkeypatch.setenv("HUNGRY_MARKER", str(tmp_path / "eaten"))
    monkeypatch.setenv("RAY_memory_usage_threshold", str((get_used_memory() + 6e9) / get_system_memory()))
    start, _ = start_nodes
    cluster, _ = start(2)
    config = tiny_config(**OPTIONS | {"env__id": "tests/Hungry", "import": "hungry_worker", "total_env_steps": 128})
    on_nodes = ClusterConfig(num_workers=2, address=cluster.address, max_failures=1, start_timeout=200)
    run = train(dataclasses.replace(config, num_shards=2, cluster=on_nodes), run_dir=tmp_path / "run")
    assert newest(run) == 2 and (tmp_path / "eaten").exists()
    (line,) = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert "died" in line["what"] and "low on memory" in line["what"]  # both nodes share this memory
    assert "low on memory" in capsys.readouterr().err
