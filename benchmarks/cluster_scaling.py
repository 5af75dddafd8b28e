"""What workers cost and gain on this machine, and what that says about many nodes.

    uv run benchmarks/cluster_scaling.py [--updates 12] [--repeats 3] [--markdown FILE]

Recurrent PPO (configs/popgym.yaml, S5) in five places: one process on one core, the same with half of the environments
(what each of two workers computes), one process on two cores, one worker of one core, two workers of one core each. The
runs are interleaved; a row gives the median over repeats of the median seconds of an update, without compiling. Then
the parts: how often an update adds up gradients, how many bytes that is, and how long two workers take for as many; and
the arithmetic of 8 and 64 nodes.
"""

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from hippodrome.training.cluster import connected
from hippodrome.training.config import load_config
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.step import make_experiment

CONFIG, NUM_ENVS = "popgym", 64
WORKERS = ("--cluster.num-workers",)
# Name -> cores, environments, and flags.
PLACES = {
    "one process, one core": ((0,), NUM_ENVS, ("--num-shards", "2")),
    "half of it": ((0,), NUM_ENVS // 2, ()),
    "one process, two cores": ((0, 1), NUM_ENVS, ("--num-shards", "2")),
    "one worker, one core": ((0, 1), NUM_ENVS, (*WORKERS, "1", "--num-shards", "2")),
    "two workers, one core each": ((0, 1), NUM_ENVS, (*WORKERS, "2")),
}
NODES = (8, 64)


def seconds_per_update(name: str, updates: int) -> float:
    """The median over the updates of one run, the first left out."""
    cores, num_envs, flags = PLACES[name]
    steps = load_config(CONFIG).agent.num_steps * num_envs
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["--env.num-envs", str(num_envs), "--total-env-steps", str(steps * updates), *flags]
        words += ["--run-dir", str(run), "--log.no-tensorboard", "--evaluation.episodes", "1"]
        words += ["--checkpoint.every-updates", str(10**6)]
        command = [
            "taskset",
            "-c",
            ",".join(map(str, cores)),
            sys.executable,
            "-m",
            "hippodrome.launch",
            "train",
            CONFIG,
        ]
        variables = {**os.environ, "NPROC": str(len(cores))}
        subprocess.run([*command, *words], check=True, env=variables, stdout=sys.stderr)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["wall_time"] for row in rows]
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times[1:]))


def gradient_parts() -> tuple[int, int]:
    """Bytes of the gradient, and how often an update adds it up."""
    config = load_config(CONFIG, ["--env.num-envs", str(NUM_ENVS)])
    agent = make_experiment(config).agent
    learner = jax.eval_shape(lambda: agent.init(jax.random.key(0), 1))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(learner.params.network))
    return size, config.agent.num_epochs * config.agent.num_minibatches


def reduce_seconds(sizes: list[int]) -> list[float]:
    """Median seconds that two workers of one core each take to add up so many bytes."""
    cluster = ClusterConfig(num_workers=2)
    with connected(cluster):
        from hippodrome.training.cluster.group import group_of

        config = load_config("quickstart", ["--cluster.num-workers", "2"])
        with group_of(config) as group:
            return group.get(group.call("reduce", sizes, 50))[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    arguments = parser.parse_args()
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    found: dict[str, list[float]] = {name: [] for name in PLACES}
    for _ in range(arguments.repeats):
        for name in PLACES:
            found[name].append(seconds_per_update(name, arguments.updates))
    seconds = {name: statistics.median(each) for name, each in found.items()}
    size, times = gradient_parts()
    small, whole = reduce_seconds([4, size])
    text = "\n".join(
        [
            *_places(seconds),
            "",
            *_parts(size, times, small, whole, seconds),
            "",
            *_nodes(size, times, small, whole, seconds),
        ]
    )
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    print(text)


def _places(seconds: dict[str, float]) -> list[str]:
    steps = load_config(CONFIG).agent.num_steps
    alone = NUM_ENVS / seconds["one process, one core"]
    lines = ["| Where | Environments | Update (s) | Env steps/s | Against one core |", "|---|---:|---:|---:|---:|"]
    for name, time in seconds.items():
        speed = PLACES[name][1] / time
        lines.append(f"| {name} | {PLACES[name][1]} | {time:.3f} | {steps * speed:,.0f} | {speed / alone:.2f} |")
    return lines


def _parts(size: int, times: int, small: float, whole: float, seconds: dict[str, float]) -> list[str]:
    overhead = seconds["two workers, one core each"] - seconds["half of it"]
    return [
        "| Part of an update of two workers | Found |",
        "|---|---:|",
        f"| gradient | {size:,} bytes, {times} times: {size * times / 1e6:,.1f} MB sent by each worker |",
        f"| adding it up once | {1e3 * whole:.2f} ms |",
        f"| adding it up in an update | {1e3 * whole * times:.0f} ms |",
        f"| adding up one number | {1e3 * small:.2f} ms |",
        f"| update beyond that of one process with half of the environments | {1e3 * overhead:.0f} ms |",
    ]


def _nodes(size: int, times: int, small: float, whole: float, seconds: dict[str, float]) -> list[str]:
    """An update of N nodes that do what a core does here, joined as two workers are here.

    A ring of N sends 2 (N - 1) messages one after the other, and 2 (N - 1) / N of the bytes. Two workers say what both
    cost: one number takes two messages, and the rest of a gradient's time is for its bytes. What an update of two
    workers lacks besides, waiting for each other, is taken to stay as it is.
    """
    message, byte = small / 2, (whole - small) / size
    half = seconds["half of it"]
    waiting = seconds["two workers, one core each"] - half - times * whole
    steps = load_config(CONFIG).agent.num_steps * NUM_ENVS // 2
    lines = ["| Nodes | Adding up (s) | Update (s) | Env steps/s | Of N times one |", "|---:|---|---|---:|---:|"]
    for nodes in NODES:
        added = times * (2 * (nodes - 1) * message + 2 * (nodes - 1) / nodes * size * byte)
        update = half + waiting + added
        sum_text = f"{times} x (2 x {nodes - 1} x {message:.2g} + 2 x {nodes - 1}/{nodes} x {size:,} x {byte:.2g})"
        update_text = f"{half:.3f} + {waiting:.3f} + {added:.3f} = {update:.3f}"
        lines.append(
            f"| {nodes} | {sum_text} = {added:.3f} | {update_text} | {nodes * steps / update:,.0f} | "
            f"{half / update:.2f} |"
        )
    return lines


if __name__ == "__main__":
    main()
