"""Every memory under one PPO on two tasks: a queue (RepeatPreviousMedium) and keys that get new values (Overwrite).

    uv run benchmarks/memory_rl.py [--kinds s5 gru] [--long] [--run-dir runs/memory-rl] [--markdown FILE]

The configuration is configs/popgym.yaml, learning rate and all, with the same encoder, heads and residual block for
every memory. The agents' parameters are matched to those of the agent with a GRU of two layers of 64 (85,189 on
RepeatPreviousMedium) within 5 %, at d_model 64, by the width inside or the depth, and where neither gets there by
d_model: MATCHED says how. Without --long every memory is trained for 500k steps with one seed; with it the kinds of
LONG for 2M steps with three seeds in one program. Each cell is a run of `hippodrome suite memory-rl`, so the command
may be killed and given again: what is finished is kept, what is half-finished is resumed. The table is printed and
written after every cell.
"""

import argparse
import json
import statistics
from pathlib import Path

import jax
from child import run_to_end

from hippodrome.memory import list_memories
from hippodrome.training.config import load_config
from hippodrome.training.step import make_experiment

TOLERANCE = 0.05
SMALL_MAMBA = {"kind": "mamba", "d_state": 40}
MATCHED = {
    "gru": {},
    "s5": {"d_state": 192},
    "mamba2": {"expand": 1, "d_state": 96},
    "gated_delta_net": {"d_model": 66},
    "mamba": {"expand": 1, "d_state": 64},
    "attention": {"num_layers": 3},
    "lru": {"d_state": 96},
    "s4d": {"d_state": 192},
    "rg_lru": {"d_inner": 96},
    "min_gru": {"num_layers": 4, "d_model": 66},
    "s7": {"d_state": 2},
    "longhorn": {"expand": 1, "d_state": 88},
    "mamba3": {"expand": 1, "d_state": 88},
    "linear_attention": {"num_layers": 3},
    "delta_net": {"d_model": 72},
    "hybrid": {"num_layers": 1, "layers": [SMALL_MAMBA, {"kind": "attention"}]},
    "parallel": {"num_layers": 1, "layers": [SMALL_MAMBA, {"kind": "attention"}]},
    "block_gru": {"d_model": 128, "num_layers": 1, "hidden": 64, "num_blocks": 4},
    "lstm": {"d_model": 56},
    "mlp": {},
}
LONG = ("s5", "mamba", "mamba2", "gated_delta_net", "attention", "gru")
COMMON = {"d_model": 64, "num_layers": 2}
TASKS = ("popgym/RepeatPreviousMedium", "hippodrome/Overwrite")


def count_parameters(kind: str) -> int:
    """Of the agent on RepeatPreviousMedium, its memory made with the options of MATCHED."""
    agent = make_experiment(load_config("popgym", ["--env.id", TASKS[0], *memory_flags(kind)])).agent
    shapes = jax.eval_shape(lambda: agent.init(jax.random.key(0), 1).params)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def memory_flags(kind: str) -> list[str]:
    """The options of a memory as the command line takes them."""
    flags = ["--memory.kind", kind]
    for name, value in {**COMMON, **MATCHED[kind]}.items():
        values = [json.dumps(each) for each in value] if isinstance(value, list) else [str(value)]
        flags += [f"--memory.{name.replace('_', '-')}", *values]
    return flags


def folder_of(kind: str, long: bool, root: Path) -> Path:
    """Where the cells of a memory lie."""
    return root / f"{kind}-{'2M' if long else '500k'}"


def train(kind: str, long: bool, root: Path) -> None:
    """Both tasks with one memory; returns at once where that has been done."""
    folder = folder_of(kind, long, root)
    if (folder / "results.json").exists():
        return
    words = ["suite", "memory-rl", "popgym", "--run-dir", str(folder)]
    words += ["--total-env-steps", "2e6" if long else "5e5", "--num-seeds", "3" if long else "1"]
    run_to_end([*words, *memory_flags(kind)])


def table(root: Path) -> str:
    """What has been measured so far, the long runs first."""
    head = ["Memory", "Options", "Parameters", "Steps", "Seeds"]
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
    options = ", ".join(f"{name} {value}" for name, value in MATCHED[kind].items() if name != "layers")
    cells = [kind, options, f"{found[TASKS[0]]['parameters']:,}", "2M" if long else "500k", "3" if long else "1"]
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
    aim = count_parameters("gru")
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
