"""`hippodrome bench`."""

import argparse
from pathlib import Path


def bench(arguments: list[str]) -> int:
    """Compare memories on sequence tasks. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="hippodrome bench", description="Train memories on sequence tasks of seconds, and tell size and speed."
    )
    parser.add_argument("what", choices=["memory"], help="what to compare")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="memories (default: all)")
    parser.add_argument("--probes", nargs="+", metavar="PROBE", help="tasks (default: all)")
    parser.add_argument("--d-model", type=int, default=64, help="width (%(default)s)")
    parser.add_argument("--num-layers", type=int, default=2, help="blocks (%(default)s)")
    parser.add_argument("--length", type=int, default=64, help="steps trained on (%(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256], help="steps evaluated (64 256)")
    parser.add_argument("--updates", type=int, default=600, help="of training, each cell (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="sequences of an update (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="the highest (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and data (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file, written after each cell; cells it has are kept")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--import", dest="modules", nargs="+", action="extend", default=[], help="packages to import")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    known = parser.parse_args(arguments)
    for name in ("d_model", "num_layers", "length", "updates", "batch", "learning_rate"):
        if not 0 < getattr(known, name) < float("inf"):
            parser.error(f"--{name.replace('_', '-')} {getattr(known, name)} must be positive and finite")
    if not 0 <= known.seed < 2**32:
        parser.error(f"--seed {known.seed} must be from 0 to {2**32 - 1}")
    from hippodrome.training.config.plugins import load_plugins

    load_plugins(known.modules)
    from hippodrome.memory import list_memories
    from hippodrome.training.bench import BenchConfig, run_bench
    from hippodrome.training.probes import PROBES

    names = ("d_model", "num_layers", "length", "updates", "batch", "learning_rate", "seed")
    config = BenchConfig(**{name: getattr(known, name) for name in names}, lengths=tuple(known.lengths))
    kinds, probes = known.kinds or list_memories(), known.probes or list(PROBES)
    run_bench(kinds, probes, config, out=known.out, markdown=known.markdown, as_json=known.json)
    return 0
