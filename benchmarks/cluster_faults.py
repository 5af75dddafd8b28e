"""What a death costs: workers and the driver killed while training, and the same run undisturbed.

    uv run benchmarks/cluster_faults.py [--updates 60] [--killed "a node" ...] [--run-dir runs/faults] [--markdown FILE]

Two workers train S5 on RepeatPreviousEasy with a checkpoint every 10 updates. Each row is a run with one thing killed
by SIGKILL half-way between two checkpoints, a third of the run done: when, how long until training reported again, how
many environment steps were repeated, and the final return, which is that of the undisturbed run, as its parameters are,
bit for bit. For "a node", three nodes of one core run on this machine; that of a worker goes, and the third takes over.
"""

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ray.cluster_utils import Cluster

from hippodrome.training import load_policy
from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.config import load_config
from hippodrome.training.log.metrics import read_metrics

CONFIG = ("quickstart", "--cluster.num-workers", "2", "--checkpoint.every-updates", "10", "--log.no-tensorboard")
WHAT = ("nothing", "the worker that follows", "the leader", "the driver", "a node")


@contextlib.contextmanager
def three_nodes() -> Iterator[Cluster]:
    """A head without cores and three nodes of one core."""
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1, **small)
        yield cluster
    finally:
        cluster.shutdown()


def run(what: str, updates: int, folder: Path) -> dict[str, float]:
    """One run in which something is killed."""
    if what != "a node":
        return run_once(what, updates, folder)
    with three_nodes() as cluster:
        return run_once(what, updates, folder, cluster)


def run_once(what: str, updates: int, folder: Path, cluster: Cluster | None = None) -> dict[str, float]:
    """The same on nodes that are there."""
    config = load_config(CONFIG[0], CONFIG[1:])
    steps_per_update = config.agent.num_steps * config.env.num_envs
    command = [sys.executable, "-m", "hippodrome.launch", "train"]
    words = [*CONFIG, "--total-env-steps", str(updates * steps_per_update), "--run-dir", str(folder)]
    words += ["--cluster.address", cluster.address] if cluster else []
    driver = subprocess.Popen([*command, *words], stdout=sys.stderr)
    killed, found = 0.0, {}
    if what != "nothing":
        # Half-way between two checkpoints.
        while not _rows(folder) or _rows(folder)[-1]["update"] < updates // 3 + 5:
            time.sleep(0.05)
            if driver.poll() is not None:
                sys.exit("it ended before anything was killed")
        reached = read_metrics(folder)[-1]["env_steps"]
        if cluster:
            node = [node for node in cluster.worker_nodes if _workers_of(_raylet(node))][-1]
            killed = time.perf_counter()
            cluster.remove_node(node, allow_graceful=False)
        else:
            workers = sorted(_workers_of(driver.pid))
            victim = {"the worker that follows": workers[-1], "the leader": workers[0], "the driver": driver.pid}[what]
            killed = time.perf_counter()
            os.kill(victim, signal.SIGKILL)
        found["killed_at"] = reached
    if what == "the driver":
        driver.wait()
        logged = read_metrics(folder)
        resumed = max(Checkpointer(folder / "checkpoints").steps()) * steps_per_update
        driver = subprocess.Popen([*command, "--resume", str(folder)], stdout=sys.stderr)
        # What was logged after the checkpoint is taken back first; the old workers may have written one more line.
        taken_back = False
        while not taken_back or read_metrics(folder)[-1]["env_steps"] <= resumed:
            taken_back = taken_back or read_metrics(folder)[-1]["env_steps"] <= resumed
            time.sleep(0.05)
        found |= {"seconds": time.perf_counter() - killed, "repeated": logged[-1]["env_steps"] - resumed}
    if driver.wait():
        sys.exit(f"the run in which {what} was killed ended with {driver.returncode}")
    if (folder / "failures.jsonl").exists():
        line = json.loads((folder / "failures.jsonl").read_text().splitlines()[-1])
        repeated = line["env_steps_reached"] - line["env_steps_resumed_from"]
        found |= {"seconds": line["seconds_until_next_report"], "repeated": repeated}
    found["return"] = json.loads((folder / "evaluation.json").read_text())["return"]["mean"]
    return found


def _rows(folder: Path) -> list[dict]:
    return read_metrics(folder) if folder.exists() else []


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def _workers_of(ancestor: int) -> list[int]:
    """Processes of the actors below a driver or a node's raylet."""
    parents, names = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue

    def below(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == ancestor:
                return True
        return False

    return [pid for pid, name in names.items() if name.startswith("ray::Worker") and below(pid)]


def main() -> None:
    """Kill, wait, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--killed", nargs="*", choices=WHAT[1:], default=WHAT[1:])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/faults"))
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    lines = [
        "| Killed | At env steps | Seconds until it trained again | Env steps repeated | Final return | Parameters |",
        "|---|---:|---:|---:|---:|---|",
    ]
    undisturbed = None
    for what in (WHAT[0], *arguments.killed):
        folder = arguments.run_dir / what.replace(" ", "-")
        found = run(what, arguments.updates, folder)
        params = jax.tree.leaves(load_policy(folder).params)
        undisturbed = params if undisturbed is None else undisturbed
        same = all(np.array_equal(a, b) for a, b in zip(params, undisturbed, strict=True))
        cells = [
            what,
            *(f"{found[name]:,.0f}" if name in found else "-" for name in ("killed_at", "seconds", "repeated")),
        ]
        cells += [f"{found['return']:.4f}", "the same, bit for bit" if same else "DIFFERENT"]
        lines.append(f"| {' | '.join(cells)} |")
        print("\n".join(lines), flush=True)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
