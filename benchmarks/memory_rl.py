"""Every memory under one PPO on two tasks: a queue (RepeatPreviousMedium) and keys that get new values (Overwrite).

    uv run benchmarks/memory_rl.py [--kinds s5 gru] [--long] [--run-dir runs/memory-rl] [--markdown FILE]

The configuration is configs/popgym.yaml, d_model 64 for all. Parameters of the memories are matched to those of a GRU
of two layers (58,240) within 15 %, by the width inside, the gate or the depth: MATCHED says how. Without --long every
memory is trained for 500k steps with one seed; with it the kinds of LONG for 2M steps with three seeds in one program.
Each cell is a run of `hippodrome suite memory-rl`, so the command may be killed and given again: what is finished is
kept, what is half-finished is resumed. The table is printed and written after every cell.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from hippodrome.memory import list_memories, make_memory

REFERENCE, TOLERANCE = "gru", 0.15
MATCHED = {
    "gru": {},
    "s5": {"d_state": 192},
    "mamba2": {"d_state": 32, "glu": "none"},
    "gated_delta_net": {"glu": "full"},
    "mamba": {"d_state": 16, "glu": "none"},
    "attention": {"glu": "full"},
    "lru": {"d_state": 96},
    "s4d": {"d_state": 160},
    "rg_lru": {"d_inner": 96},
    "min_gru": {"num_layers": 4},
    "s7": {"d_state": 2},
    "longhorn": {"d_state": 16, "glu": "none"},
    "mamba3": {"d_state": 32, "glu": "none"},
    "linear_attention": {"glu": "full"},
    "delta_net": {"glu": "full"},
    "hybrid": {"layers": ["mamba", "attention"], "num_layers": 1, "glu": "full"},
    "parallel": {"layers": ["attention", "mamba"], "num_layers": 1, "glu": "full"},
    "lstm": {"glu": "none"},
    "mlp": {},
}
LONG = ("s5", "mamba", "mamba2", "gated_delta_net", "attention", "gru")
COMMON = {"d_model": 64, "num_layers": 2}
TASKS = ("popgym/RepeatPreviousMedium", "hippodrome/Overwrite")


def count_parameters(kind: str) -> int:
    """Of the memory alone, with its options of MATCHED and inputs of width 64."""
    memory = make_memory(kind, **{**COMMON, **MATCHED[kind]})
    x, reset = jnp.zeros((2, 1, 64)), jnp.zeros((2, 1), bool)
    shapes = jax.eval_shape(memory.init, jax.random.key(0), memory.initial_carry((1,)), x, reset)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def folder_of(kind: str, long: bool, root: Path) -> Path:
    """Where the cells of a memory lie."""
    return root / f"{kind}-{'2M' if long else '500k'}"


def train(kind: str, long: bool, root: Path) -> None:
    """Both tasks with one memory; returns at once where that has been done."""
    folder = folder_of(kind, long, root)
    if (folder / "results.json").exists():
        return
    options = {**COMMON, **MATCHED[kind]}
    command = [sys.executable, "-m", "hippodrome.launch", "suite", "memory-rl", "popgym", "--run-dir", str(folder)]
    command += [
        "--memory.kind",
        kind,
        "--total-env-steps",
        "2e6" if long else "5e5",
        "--num-seeds",
        "3" if long else "1",
    ]
    for name, value in options.items():
        values = value if isinstance(value, list) else [str(value)]
        command += [f"--memory.{name.replace('_', '-')}", *values]
    subprocess.run(command, check=True, stdout=sys.stderr)


def table(root: Path) -> str:
    """What has been measured so far, the long runs first."""
    head = ["Memory", "Options beside d_model 64", "Parameters", "Steps", "Seeds"]
    for task in TASKS:
        name = task.partition("/")[2]
        head += [name, f"{name}, MMER"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for long in (True, False):
        for kind in MATCHED:
            path = folder_of(kind, long, root) / "results.json"
            if path.exists():
                lines.append(row(kind, long, json.loads(path.read_text())["agents"][0]["environments"]))
    return "\n".join(lines) + "\n"


def row(kind: str, long: bool, found: dict) -> str:
    """One memory: mean return of the final policy and, of several seeds, each in brackets; MMER."""
    options = ", ".join(f"{name} {value}" for name, value in MATCHED[kind].items())
    cells = [kind, options, f"{count_parameters(kind):,}", "2M" if long else "500k", "3" if long else "1"]
    for task in TASKS:
        returns = found[task]["return"]["per_seed"]
        each = f" ({', '.join(f'{value:.2f}' for value in returns)})" if len(returns) > 1 else ""
        cells += [f"{statistics.mean(returns):.3f}{each}", f"{found[task]['mmer']['mean']:.3f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Fill the table, cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(MATCHED), metavar="KIND", help=f"of {', '.join(MATCHED)}")
    parser.add_argument("--long", action="store_true", help="2M steps and three seeds instead of 500k and one")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/memory-rl"))
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    missing = set(list_memories()) - set(MATCHED) - {"none"}
    if missing:
        parser.error(f"{', '.join(sorted(missing))}: give them options in MATCHED")
    aim = count_parameters(REFERENCE)
    for kind in MATCHED:
        if abs(count_parameters(kind) / aim - 1) > TOLERANCE:
            parser.error(f"{kind} has {count_parameters(kind):,} parameters, not {aim:,} within {TOLERANCE:.0%}")
    for kind in arguments.kinds or (LONG if arguments.long else MATCHED):
        train(kind, arguments.long, arguments.run_dir)
        text = table(arguments.run_dir)
        if arguments.markdown:
            arguments.markdown.write_text(text)
        print(text, flush=True)


if __name__ == "__main__":
    main()
