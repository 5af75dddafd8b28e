"""`hippodrome suite`."""

from pathlib import Path

from .words import leading_words, own_parser

SUITE_HELP = """Train one agent per environment of a suite at one budget, evaluate each, and score them together.

hippodrome suite NAME [CONFIG | MODULE:POLICY] [--run-dir DIR] [--compare DIR ...] [--episodes N] [--json] [OPTIONS]

NAME: from `hippodrome list suites`. CONFIG: as for `hippodrome train`; its environment is replaced by each of the
suite's. MODULE:POLICY: score a policy of your own instead, without training.
--run-dir DIR: where to write (default: runs/NAME-CONFIG-MEMORY). The same command goes on after a kill: finished
runs are kept, a half-finished one is resumed.
--compare DIR ...: folders of the same suite whose rows to show beside.
--episodes N: episodes to score each environment by (default: evaluation.episodes of the config).
--json: print the table as JSON."""


def suite(arguments: list[str]) -> int:
    """Train and score one agent per environment of a suite. Returns the exit code."""
    words, rest = leading_words(arguments, 2)
    parser = own_parser("hippodrome suite")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--compare", type=Path, nargs="+", default=[])
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--json", action="store_true")
    known, overrides = parser.parse_known_args(rest)
    if not words:
        if {"-h", "--help"} & set(overrides):
            from hippodrome.training.config import load_config

            load_config(overrides=overrides, prog="hippodrome suite", description=SUITE_HELP)
        parser.error("NAME is missing; see `hippodrome list suites`")
    from hippodrome.training.suite.run import run_suite

    run_suite(
        *words,
        overrides=overrides,
        run_dir=known.run_dir,
        compare=known.compare,
        episodes=known.episodes,
        as_json=known.json,
        description=SUITE_HELP,
        command=["hippodrome", "suite", *arguments],
    )
    return 0
