"""Environment steps per second of every POPGym task, beside PyPI popgym on the same machine.

    uv run benchmarks/env_speed.py [ID ...] [--json PATH] [--markdown PATH]

Ours: 1,024 copies under `VectorEnv`, random actions, one compiled scan of 256 steps, start states drawn and episodes
reset within it; compilation excluded. Theirs: the better of gymnasium's SyncVectorEnv (16 copies) and AsyncVectorEnv
(spawned processes, two a core), resetting within the step, random actions drawn beforehand. Medians of five runs, ours
and theirs in turn: other work on the machine lowers both, so the ratios are what counts.
"""

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# jax is imported where it is used: the processes that AsyncVectorEnv spawns load this file again.

FLOOR = 50_000
NUM_ACTIONS = 64
COLUMNS = ("environment", "hippodrome (steps/s)", "popgym (steps/s)", "popgym under", "ratio")


def parse_args(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", metavar="ID", help="environments, e.g. popgym/BattleshipHard (default: all)")
    parser.add_argument("--num-envs", type=int, default=1024, help="copies of ours (default: %(default)s)")
    parser.add_argument("--num-steps", type=int, default=256, help="steps of one scan (default: %(default)s)")
    parser.add_argument(
        "--popgym-envs", type=int, default=16, help="copies under SyncVectorEnv; 0: no popgym (default: 16)"
    )
    workers = 2 * (os.cpu_count() or 1)
    parser.add_argument(
        "--popgym-workers", type=int, default=workers, help="copies under AsyncVectorEnv (default: %(default)s)"
    )
    parser.add_argument("--popgym-seconds", type=float, default=0.4, help="length of one popgym run (default: 0.4)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    return parser.parse_args(arguments)


def hippodrome_runner(env_id: str, num_envs: int, num_steps: int) -> Callable[[], float]:
    """A function that runs one compiled scan and returns its environment steps per second."""
    import jax

    from hippodrome.envs import VectorEnv, environment_keys, make

    vector = VectorEnv(make(env_id), num_steps=num_steps)
    sample = jax.vmap(vector.action_space.sample)

    def env_step(state, key):
        state, outcome = vector.step(state, sample(jax.random.split(key, num_envs)))
        return state, (outcome.reward.sum(), outcome.ended.sum())

    @jax.jit
    def rollout(state, key):
        return jax.lax.scan(env_step, vector.begin_rollout(state), jax.random.split(key, num_steps))

    state = jax.jit(vector.reset)(environment_keys(jax.random.key(0), 0, num_envs))
    state, _ = jax.block_until_ready(rollout(state, jax.random.key(1)))
    keys = (jax.random.key(seed) for seed in itertools.count(2))

    def run() -> float:
        nonlocal state
        key = next(keys)
        began = time.perf_counter()
        state, _ = jax.block_until_ready(rollout(state, key))
        return num_envs * num_steps / (time.perf_counter() - began)

    return run


class PopgymRunner:
    """popgym's environment of that name, `num_envs` copies under one of gymnasium's vector environments."""

    def __init__(self, name: str, mode: str, num_envs: int):
        import popgym.envs
        from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

        factories = [getattr(popgym.envs, name)] * num_envs
        if mode == "async":
            self.env = AsyncVectorEnv(factories, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP)
        else:
            self.env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.SAME_STEP)
        self.num_envs = num_envs
        self.env.action_space.seed(0)
        self.actions = itertools.cycle([self.env.action_space.sample() for _ in range(NUM_ACTIONS)])
        self.env.reset(seed=0)
        self.run(0.05)

    def run(self, seconds: float) -> float:
        """Steps for that long; returns environment steps per second."""
        began = time.perf_counter()
        for taken in itertools.count(1):
            self.env.step(next(self.actions))
            elapsed = time.perf_counter() - began
            if elapsed >= seconds:
                return taken * self.num_envs / elapsed

    def close(self) -> None:
        """Ends its processes."""
        self.env.close()


def measure(env_id: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: medians over the repeats, ours and popgym's in turn."""
    name = env_id.partition("/")[2]
    copies = {"sync": options.popgym_envs, "async": options.popgym_workers}
    modes = {mode: num_envs for mode, num_envs in copies.items() if num_envs}
    ours = hippodrome_runner(env_id, options.num_envs, options.num_steps)
    theirs = {}
    samples: dict[str, list[float]] = {"hippodrome": [], **{mode: [] for mode in modes}}
    try:
        for mode, num_envs in modes.items():
            theirs[mode] = PopgymRunner(name, mode, num_envs)
        for _ in range(options.repeats):
            samples["hippodrome"].append(ours())
            for mode, runner in theirs.items():
                samples[mode].append(runner.run(options.popgym_seconds))
    finally:
        for runner in theirs.values():
            runner.close()
    medians = {kind: statistics.median(values) for kind, values in samples.items()}
    row = {"env": env_id, "hippodrome": round(medians["hippodrome"])}
    for mode in modes:
        row[f"popgym_{mode}"] = round(medians[mode])
    if modes:
        row["popgym_best"] = max(modes, key=lambda mode: medians[mode])
        row["ratio"] = round(medians["hippodrome"] / medians[row["popgym_best"]], 1)
    return row


def describe_machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    packages = ("jax", "gymnasium", "popgym")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as printed."""
    best = row.get("popgym_best")
    if best is None:
        return row["env"], f"{row['hippodrome']:,}", "-", "-", "-"
    return row["env"], f"{row['hippodrome']:,}", f"{row[f'popgym_{best}']:,}", best, f"{row['ratio']:,.0f}"


def summary(rows: list[dict[str, Any]]) -> str:
    """The slowest environment against the floor, and the spread of the ratios."""
    slowest = min(rows, key=lambda row: row["hippodrome"])
    verdict = "above" if slowest["hippodrome"] >= FLOOR else "BELOW"
    line = f"Slowest: {slowest['env']}, {slowest['hippodrome']:,} steps/s, {verdict} the floor of {FLOOR:,}."
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    if ratios:
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        line += f" Ratio to popgym: least {low:,.0f}, median {middle:,.0f}, most {high:,.0f}."
    return line


def to_markdown(rows: list[dict[str, Any]], machine: dict[str, Any], options: argparse.Namespace, command: str) -> str:
    """The whole page."""
    lines = [
        "# Environment speed",
        "",
        f"`{command}`",
        "",
        f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, jax {machine['jax']}, "
        f"gymnasium {machine['gymnasium']}, popgym {machine['popgym']}.",
        "",
        f"Environment steps per second with random actions, resets included, compilation excluded; medians of "
        f"{options.repeats} runs, ours and popgym's in turn. Ours: {options.num_envs:,} copies, scans of "
        f"{options.num_steps} steps. popgym: the better of gymnasium's SyncVectorEnv ({options.popgym_envs} copies) "
        f"and AsyncVectorEnv ({options.popgym_workers} spawned processes). Other work shared the cores and lowered "
        "both columns: the ratios are what counts.",
        "",
        summary(rows),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---:|---:|---|---:|",
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Measures, prints as it goes, and writes what was asked for."""
    from hippodrome.envs import list_envs

    options = parse_args(arguments)
    ids = options.ids or list_envs("popgym")
    if unknown := sorted(set(ids) - set(list_envs())):
        sys.exit(f"unknown environments: {', '.join(unknown)}; see `hippodrome list envs`")
    machine = describe_machine()
    command = shlex.join(["uv", "run", "benchmarks/env_speed.py", *arguments])
    print(f"{machine['cpu']}, {machine['cores']} cores, load {os.getloadavg()[0]:.1f}; ratios are what counts")
    layout = "{:<40} {:>20} {:>18} {:>13} {:>8}"
    print(layout.format(*COLUMNS), flush=True)
    rows = []
    for env_id in ids:
        rows.append(measure(env_id, options))
        print(layout.format(*cells(rows[-1])), flush=True)
    print(summary(rows))
    if options.json:
        record = {"command": command, "machine": machine, "rows": rows}
        options.json.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    if options.markdown:
        options.markdown.write_text(to_markdown(rows, machine, options, command))


if __name__ == "__main__":
    main(sys.argv[1:])
